"""What the second stage trains under the joint scheme: prior and backbone together.

Pang and Wu (2021), algorithm 1; Yu et al. (2022), appendix B; docs/method.md, section 4.

Shapes: B batch, D latent dimension, n rows of the training split.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, make_batch, steps_per_epoch
from ldebm.data.packed import Split
from ldebm.optimisers import ParameterGroup
from ldebm.priors import EnergyPrior, Pairs
from ldebm.priors.langevin import Chain
from ldebm.seeding import generator
from ldebm.training.acceptance import AcceptanceGuard, rank_path, sampler_metrics
from ldebm.training.classifier import pool_rows
from ldebm.training.clustering import epoch_rows, geometric_clusters, stability
from ldebm.training.inputs import PriorInputs
from ldebm.training.latents import batch_noise, encode_split
from ldebm.training.objectives import Terms, sample_posterior
from ldebm.training.parallel import share
from ldebm.training.prior_objectives import (
    joint_terms,
    with_labelled,
)

__all__ = ["JointTask"]


class JointTask:
    """All parameters together, with labels clustered anew every ``cluster.refresh`` epochs.

    docs/method.md, sections 4.5 and 4.7.
    """

    title = "joint"

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        assert inputs.prior.energies is not None
        stages = inputs.backbone, inputs.prior.energies, inputs.train
        return cls(*stages, inputs.labels, inputs.config, inputs.seed, inputs.device)

    def __init__(
        self,
        backbone: Backbone,
        prior: EnergyPrior,
        train: Split,
        labels: np.ndarray | None,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = nn.ModuleDict({"backbone": backbone, "prior": prior})
        self.backbone, self.prior, self.train_split = backbone, prior, train
        self.config, self.seed, self.device = config, seed, device
        self.labels = labels
        self.steps_per_epoch = steps_per_epoch(train.n, config.prior.training.batch)
        self.rows: np.ndarray | None = None
        self.guard = AcceptanceGuard(prior)
        self.chain: tuple[Chain, Pairs] | None = None

    @property
    def warmup(self) -> int:
        """Updates over which all that pulls on the encoder grows to its weight."""
        return self.config.backbone.kl_warmup

    def factor(self, step: int) -> float:
        """Factor on what pulls on the encoder: a warm-up, or cycles over the whole training."""
        cycle = self.config.backbone.kl_cycle
        if cycle is None:
            return min(1.0, (step + 1) / max(self.warmup, 1))
        training = self.config.prior.training
        return cycle.factor(step / max(1, training.length(self.steps_per_epoch)))

    def coordinates(
        self, mu_BD: Tensor, logvar_BD: Tensor, z_BD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior means, log-variances and draws as the prior sees them: not standardised."""
        return mu_BD, logvar_BD, z_BD

    def groups(self) -> list[ParameterGroup]:
        training = self.config.prior.training
        return [
            ParameterGroup("prior", list(self.prior.parameters()), training.optimiser),
            ParameterGroup(
                "backbone",
                list(self.backbone.parameters()),
                self.config.backbone.training.optimiser,
            ),
        ]

    def begin_epoch(self, epoch: int) -> None:
        cluster = self.config.cluster
        if cluster.labels == "gc" and cluster.refresh and epoch and epoch % cluster.refresh == 0:
            features, _ = encode_split(self.backbone, self.train_split, self.device)
            classes = self.config.prior.classes
            fresh = geometric_clusters(features, classes, cluster, self.seed, self.labels)
            if self.labels is not None:
                print(f"clusters: {stability(fresh, self.labels):.2f} of the rows kept theirs")
            self.labels = fresh
        if self.labels is not None and cluster.sampler != "natural":
            self.rows = epoch_rows(self.labels, cluster.sampler, self.seed, epoch)

    def loss(self, step: int) -> Terms:
        config = self.config
        size = config.prior.training.batch
        rows = batch_rows(self.train_split.n, size, self.seed, step)
        if self.rows is not None:
            position = step % self.steps_per_epoch * size
            rows = self.rows[position : position + size]
        noise = batch_noise(
            (len(rows), self.backbone.latent), generator(self.seed, "joint", step), self.device
        )
        rows = rows[share(len(rows))]
        stream = generator(self.seed, "joint-prior", step, *rank_path(), device=self.device)
        self.backbone.stream = generator(self.seed, "joint-dropout", step, device=self.device)
        if config.prior.energy.spectral_norm:
            self.prior.net.power_iterate()
        batch = make_batch(self.train_split, rows, self.device)
        mu, logvar = self.backbone.encode(batch)
        z = sample_posterior(mu, logvar, noise)
        nll = self.backbone.reconstruction_nll(batch, z)
        labels, apart = None, config.prior.labelled_batch
        if self.labels is not None and not apart:
            labels = torch.from_numpy(self.labels[rows]).to(self.device)
        factor, cycle = self.factor(step), config.backbone.kl_cycle is not None
        prior = self.prior
        if prior.contextual:  # the context encoder learns from the responses alone
            prior = prior.conditioned_on(self.backbone.context(batch).detach())
        first = config.backbone
        terms, chain, pairs = joint_terms(
            *(prior, nll, *self.coordinates(mu, logvar, z), labels, stream),
            *(first.entropy_mask, factor, first.kl_floor, cycle),
        )
        self.chain = (chain, pairs)
        if self.labels is None or not apart:
            return terms
        known = pool_rows(self.labels, apart, self.seed, step)
        known_B = torch.from_numpy(self.labels[known].astype(np.int64)).to(self.device)
        mean, _ = self.backbone.encode(make_batch(self.train_split, known, self.device))
        return with_labelled(prior, terms, self.prior.to_standard(mean), known_B, stream)

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        if self.chain is not None:
            chain, pairs = self.chain
            self.prior.observe_acceptance(chain, pairs.t_B, step)
            self.guard.check(chain, step, averaged, "prior.")

    def validate(self, step: int) -> dict[str, float]:
        return sampler_metrics(self.prior)

    def state(self) -> dict[str, Any]:
        return {
            "labels": None if self.labels is None else torch.from_numpy(self.labels),
            "rows": None if self.rows is None else torch.from_numpy(self.rows),
            "rollbacks": self.guard.rollbacks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.labels = None if state["labels"] is None else state["labels"].numpy()
        self.rows = None if state["rows"] is None else state["rows"].numpy()
        self.guard.rollbacks = state["rollbacks"]
