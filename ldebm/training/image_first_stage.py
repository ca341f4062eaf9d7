"""First stage of hierarchical image models: minus the evidence lower bound, group by group.

The loss is reconstruction + weight * sum_g KL_g, plus what the backbone itself penalises (NVAE: its
spectral norms). While the weight of the KL still rises, groups may be balanced as in NVAE section
3.2: a group whose KL is large for its size pays more, so that none is switched off early.

Shapes: B batch, G groups.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import BackboneConfig, ExperimentConfig
from ldebm.data.batches import batch_rows, make_batch, steps_per_epoch
from ldebm.data.packed import Split
from ldebm.optimisers import ParameterGroup
from ldebm.seeding import generator
from ldebm.training.latents import batch_noise
from ldebm.training.objectives import Terms
from ldebm.training.parallel import average, row_weight, share

__all__ = ["ImageTask", "balanced_kl", "hierarchical_terms"]

VALID_ROWS = 2000
BALANCE_OFFSET = 0.01  # nats


def balanced_kl(kl_BG: Tensor, share_G: Tensor) -> Tensor:
    """sum_g gamma_g KL_g per row, shape (B,), with gamma_g in proportion to mean |KL_g| / share_g.

    The gammas have mean 1 and no gradient: the KL balancing of Vahdat and Kautz (2020).

    Args:
        kl_BG: KL of every row and group.
        share_G: alpha_g, how much a group should hold relative to the others.
    """
    size_G = average(kl_BG.abs().mean(0)) + BALANCE_OFFSET
    gamma_G = size_G / share_G
    return (kl_BG * (gamma_G / gamma_G.mean())).sum(1)


def hierarchical_terms(
    nll_B: Tensor,
    kl_BG: Tensor,
    backbone: HierarchicalBackbone,
    config: BackboneConfig,
    update: int,
) -> Terms:
    """Minus the (weighted) bound and its parts, the KL of every group among them.

    Args:
        nll_B: -log p(x|z) per row.
        kl_BG: KL per row and group.
        backbone: whose own penalty and balance count.
        config: weight, floor and warm-up of the KL.
        update: number of updates done.
    """
    progress = min(1.0, (update + 1) / max(config.kl_warmup, 1))
    progress = max(progress, backbone.kl_start)
    reconstruction, kl = nll_B.mean(), kl_BG.sum(1).mean()
    total = reconstruction + config.kl_weight * progress * _rate(kl_BG, backbone, config, progress)
    parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
    parts |= {f"kl_{g}": value for g, value in enumerate(kl_BG.detach().mean(0))}
    penalty = backbone.penalty(progress)
    if penalty is not None:
        total = total + penalty
        parts["penalty"] = penalty.detach()
    return Terms(total, parts)


def _rate(
    kl_BG: Tensor, backbone: HierarchicalBackbone, config: BackboneConfig, progress: float
) -> Tensor:
    """What the KL costs at weight 1, a scalar: balanced, or without what is free."""
    if backbone.kl_share is not None and progress < 1:
        rate = balanced_kl(kl_BG, backbone.kl_share.to(kl_BG.device)).mean()
    else:
        kl_G = kl_BG.mean(0)
        if backbone.kl_free is not None:
            free_G = backbone.kl_free.to(kl_G)
            kl_G = torch.where(average(kl_G) > free_G, kl_G, free_G)
        rate = kl_G.sum()
    return rate.clamp(min=config.kl_floor)


class ImageTask:
    """First stage of a hierarchical backbone."""

    def __init__(
        self,
        backbone: HierarchicalBackbone,
        train: Split,
        valid: Split,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        backbone.load_initial()
        self.module: nn.Module = backbone
        self.backbone, self.train_split, self.valid_split = backbone, train, valid
        self.config, self.seed, self.device = config.backbone, seed, device
        self.steps_per_epoch = steps_per_epoch(train.n, self.config.training.batch)

    def groups(self) -> list[ParameterGroup]:
        parameters = [p for p in self.backbone.parameters() if p.requires_grad]
        return [ParameterGroup("backbone", parameters, self.config.training.optimiser)]

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def loss(self, step: int) -> Terms:
        rows = batch_rows(self.train_split.n, self.config.training.batch, self.seed, step)
        stream = generator(self.seed, "backbone", step)
        noise = batch_noise((len(rows), self.backbone.latent), stream, self.device)
        batch = make_batch(self.train_split, rows[share(len(rows))], self.device)
        with self._rounding():
            drawn, nll = self.backbone.draw_and_nll(batch, noise)
        terms = hierarchical_terms(nll, drawn.kl_BG, self.backbone, self.config, step)
        return replace(terms, row_weight=row_weight(len(rows)))

    def _rounding(self) -> torch.autocast:
        """Products in bfloat16 where the configuration says so; densities stay in float32."""
        rounded = self.config.training.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=rounded)

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Bound per row and per value of a pixel, on the first rows of the validation split."""
        split, size = self.valid_split, min(self.config.training.batch, 256)
        rows = np.arange(min(split.n, VALID_ROWS))
        sums = torch.zeros(1 + len(self.backbone.groups), dtype=torch.float64)
        values = 0
        for start in range(0, len(rows), size):
            batch = make_batch(split, rows[start : start + size], self.device)
            stream = generator(self.seed, "valid", start)
            noise = torch.randn(len(batch), self.backbone.latent, generator=stream)
            drawn, nll = self.backbone.draw_and_nll(batch, noise.to(self.device))
            parts = torch.cat([nll[:, None], drawn.kl_BG], dim=1)
            sums += parts.double().sum(0).cpu()
            values = batch[0].numel()
        nll_mean, *kl_G = (sums / len(rows)).tolist()
        kl = sum(kl_G)
        metrics = {"reconstruction": nll_mean, "kl": kl, "elbo": -(nll_mean + kl)}
        metrics |= {f"kl_{g}": value for g, value in enumerate(kl_G)}
        metrics["bits_per_dim"] = (nll_mean + kl) / (values * math.log(2))
        # During the warm-up the objective still changes, so its values do not compare.
        if step < self.config.kl_warmup:
            return metrics
        rate = float(_rate(torch.tensor([kl_G]), self.backbone, self.config, 1.0))
        return {**metrics, "score": nll_mean + self.config.kl_weight * rate}

    def state(self) -> dict[str, Any]:
        return self.backbone.training_state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.backbone.load_training_state(state)

    @torch.no_grad()
    def finish(self) -> None:
        """What is left to do with the weights that are kept (NVAE: batch-norm statistics)."""
        size = self.config.training.batch

        def batch(step: int) -> Tensor:
            rows = batch_rows(self.train_split.n, size, self.seed, step)
            images: Tensor = make_batch(self.train_split, rows, self.device)
            return images

        def noise(step: int) -> Tensor:
            stream = generator(self.seed, "settle", step)
            return torch.randn(size, self.backbone.latent, generator=stream).to(self.device)

        self.backbone.settle(batch, noise)
