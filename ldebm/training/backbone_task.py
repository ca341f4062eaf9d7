"""The objective of the first stage: the variational bound against N(0, I).

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, make_batch, steps_per_epoch
from ldebm.data.packed import Split
from ldebm.nn.linear import draw_linear
from ldebm.optimisers import ParameterGroup
from ldebm.seeding import generator
from ldebm.training.latents import batch_noise
from ldebm.training.objectives import Terms, backbone_terms, gaussian_kl, sample_posterior
from ldebm.training.parallel import row_weight, share

__all__ = ["VALID_ROWS", "BackboneTask"]

VALID_ROWS = 2000


class BackboneTask:
    """First stage: the variational objective against N(0, I)."""

    def __init__(
        self,
        backbone: Backbone,
        train: Split,
        valid: Split,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = backbone
        self.backbone, self.train_split, self.valid_split = backbone, train, valid
        self.config, self.seed, self.device = config.backbone, seed, device
        self.steps_per_epoch = steps_per_epoch(train.n, self.config.training.batch)
        self.head = _head(config, train, backbone.latent, seed, device)

    def groups(self) -> list[ParameterGroup]:
        parameters = [p for p in self.backbone.parameters() if p.requires_grad]
        groups = [ParameterGroup("backbone", parameters, self.config.training.optimiser)]
        if self.head is not None:
            head = list(self.head.parameters())
            groups.append(ParameterGroup("classifier", head, self.config.training.optimiser))
        return groups

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def loss(self, step: int) -> Terms:
        rows = batch_rows(self.train_split.n, self.config.training.batch, self.seed, step)
        stream = generator(self.seed, "backbone", step)
        noise = batch_noise((len(rows), self.backbone.latent), stream, self.device)
        self.backbone.stream = generator(self.seed, "dropout", step, device=self.device)
        batch = make_batch(self.train_split, rows[share(len(rows))], self.device)
        mu, logvar = self.backbone.encode(batch)
        z = sample_posterior(mu, logvar, noise)
        nll = self.backbone.reconstruction_nll(batch, z)
        terms = backbone_terms(nll, mu, logvar, self.config, step)
        if self.head is not None and self.config.supervision is not None:
            classes, _ = self._classes(self.train_split, rows[share(len(rows))], z)
            total = terms.total + self.config.supervision.weight * classes
            terms = Terms(total, {**terms.parts, "class": classes.detach()})
        return replace(terms, row_weight=row_weight(len(rows)))

    def _classes(self, split: Split, rows: np.ndarray, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the labelled rows, and which rows are classified rightly."""
        assert self.head is not None
        assert self.config.supervision is not None
        given = np.asarray(split.labels(self.config.supervision.column))[rows].astype(np.int64)
        label = torch.from_numpy(given).to(z.device)
        logits = self.head(z)
        known = label >= 0
        losses = torch.nn.functional.cross_entropy(logits, label.clamp(min=0), reduction="none")
        right = logits.argmax(-1) == label
        return (losses * known).sum() / known.sum().clamp(min=1), right[known]

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        split = self.valid_split
        rows = np.arange(min(split.n, VALID_ROWS))
        nll, kl, classes = 0.0, 0.0, 0.0
        right: list[bool] = []
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            batch = make_batch(split, part, self.device)
            mu, logvar = self.backbone.encode(batch)
            noise = torch.randn(mu.shape, generator=generator(self.seed, "valid", start))
            z = sample_posterior(mu, logvar, noise.to(self.device))
            nll += float(self.backbone.reconstruction_nll(batch, z).double().sum())
            kl += float(gaussian_kl(mu, logvar).double().sum())
            if self.head is not None:
                loss, hits = self._classes(split, part, z)
                classes += float(loss) * len(part) / len(rows)
                right += hits.tolist()
        nll, kl = nll / len(rows), kl / len(rows)
        score = nll + self.config.kl_weight * max(kl, self.config.kl_floor)
        metrics = {"reconstruction": nll, "kl": kl, "elbo": -(nll + kl)}
        if self.config.supervision is not None:
            score += self.config.supervision.weight * classes
            metrics |= {"class": classes, "class_accuracy": float(np.mean(right or [False]))}
        # During the warm-up the objective still changes, so its values do not compare.
        return metrics if step < self.config.kl_warmup else {**metrics, "score": score}

    def state(self) -> dict[str, Any]:
        return {} if self.head is None else {"head": self.head.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.head is not None:
            self.head.load_state_dict(state["head"])

    def finish(self) -> None:
        """Nothing is left to do."""


def _head(
    config: ExperimentConfig, train: Split, latent: int, seed: int, device: torch.device
) -> nn.Linear | None:
    """The classifier of ``backbone.supervision``; it is not kept with the model.

    Raises:
        UsageError: the data have no such label column.
    """
    supervision = config.backbone.supervision
    if supervision is None:
        return None
    train.labels(supervision.column)
    classes = len(train.meta["labels"][supervision.column])
    head = nn.Linear(latent, classes)
    draw_linear(head, generator(seed, "supervision-init"))
    return head.to(device)
