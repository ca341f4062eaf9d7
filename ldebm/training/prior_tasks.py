"""What the second stage trains: a prior on the latents of a frozen backbone.

Pang and Wu (2021), algorithm 1; Cui and Han (2024), algorithm 1; docs/method.md, section 4.

Shapes: B batch, D latent dimension, n rows of the training split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.optimisers import ParameterGroup
from ldebm.priors import EnergyPrior, Pairs, Posteriors
from ldebm.priors.langevin import Chain
from ldebm.priors.trajectories import held_out_bound
from ldebm.seeding import generator
from ldebm.training.acceptance import AcceptanceGuard, rank_path, sampler_metrics
from ldebm.training.classifier import pool_rows
from ldebm.training.clustering import epoch_rows
from ldebm.training.inputs import PriorInputs
from ldebm.training.objectives import Terms, sample_posterior
from ldebm.training.parallel import share
from ldebm.training.prior_objectives import (
    prior_terms,
    with_labelled,
)
from ldebm.training.score_matching import score_matching_terms

__all__ = ["FrozenTask", "PriorTask"]

HELD_OUT_ROWS = 500


class FrozenTask(ABC):
    """Second stage on a frozen backbone: energies on fresh draws of the aggregate posterior.

    Args:
        prior: the energies, already standardised.
        rows: training rows, n.
        labels: class of every row or -1; ``None`` without labels.
        config: the experiment.
        seed: of the run.
        device: where to train.
    """

    title = "prior"

    def __init__(
        self,
        prior: EnergyPrior,
        rows: int,
        labels: np.ndarray | None,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = prior
        self.prior, self.config, self.seed, self.device = prior, config.prior, seed, device
        self.sampler = config.cluster.sampler if labels is not None else "natural"
        self.labels_np = labels
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self.count = rows
        self.steps_per_epoch = steps_per_epoch(rows, self.config.training.batch)
        warm = self.config.score_matching
        total = self.config.training.updates or round(
            (self.config.training.epochs or 0) * self.steps_per_epoch
        )
        self.warm_updates = round(warm * total)
        self.guard = AcceptanceGuard(prior)
        self.rows: np.ndarray | None = None
        self.chain: tuple[Chain, Pairs] | None = None
        self.persistent: Tensor | None = None

    def shorten(self, total: int) -> None:
        """Takes note that the training will have only so many updates."""
        self.warm_updates = round(self.config.score_matching * total)

    @abstractmethod
    def draw(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        """Standardised draws of q for training rows, (B, D)."""

    @abstractmethod
    def warm_up(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        """Loss of an update that warms up by score matching."""

    def conditioned_on(self, rows: np.ndarray) -> EnergyPrior:
        """The prior of these training rows: with their contexts, where it reads any."""
        return self.prior

    def groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("prior", list(self.prior.parameters()), self.config.training.optimiser)
        ]

    def begin_epoch(self, epoch: int) -> None:
        if self.labels_np is not None and self.sampler != "natural":
            self.rows = epoch_rows(self.labels_np, self.sampler, self.seed, epoch)

    def batch(self, step: int) -> np.ndarray:
        """Training rows of an update, (B)."""
        size = self.config.training.batch
        if self.rows is None:
            return batch_rows(self.count, size, self.seed, step).copy()
        position = step % self.steps_per_epoch * size
        return self.rows[position : position + size].copy()

    def stream(self, step: int) -> torch.Generator:
        """The source of all noise of an update."""
        return generator(self.seed, "prior", step, *rank_path(), device=self.device)

    def begin_loss(self) -> None:
        """What an update does before its loss: the spectral norms."""
        if self.config.energy.spectral_norm:
            self.prior.net.power_iterate()

    def labels_of(self, rows: np.ndarray) -> Tensor | None:
        """Classes of training rows, (B), -1 for none; ``None`` without labels."""
        if self.labels is None:
            return None
        return self.labels[torch.from_numpy(rows).to(self.device)]

    def loss(self, step: int) -> Terms:
        self.begin_loss()
        stream, batch = self.stream(step), self.batch(step)
        rows = batch[share(len(batch))]
        apart = self.config.labelled_batch
        labels = None if apart else self.labels_of(rows)
        if step < self.warm_updates and self.prior.levels > 1:
            self.chain = None
            terms = self.warm_up(rows, labels, stream)
        else:
            terms = self.contrast(rows, labels, stream)
        if self.labels_np is None or not apart:
            return terms
        known = pool_rows(self.labels_np, apart, self.seed, step)
        known_B = torch.from_numpy(self.labels_np[known]).to(self.device)
        u_BD = self.draw(known, stream)
        return with_labelled(self.conditioned_on(known), terms, u_BD, known_B, stream)

    def contrast(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        """Loss of an update against samples of the prior itself."""
        # Pang and Wu (2021), algorithm 1, steps 2 to 4; Cui and Han (2024), algorithm 1, lines 3-7
        u0 = self.prior.level_zero(self.draw(rows, stream), stream)
        start = self._persistent_start(len(u0), stream)
        terms, chain, pairs = prior_terms(self.conditioned_on(rows), u0, labels, stream, start)
        self.chain = (chain, pairs)
        if self.config.sampler.persistent:
            assert self.persistent is not None
            self.persistent[: len(chain.x_BD)] = chain.x_BD
        return terms

    def _persistent_start(self, rows: int, stream: torch.Generator) -> Tensor | None:
        """States of the persistent chains; ``None`` for short-run chains.

        Pang and Wu (2021), algorithm 1, step 2.
        """
        if not self.config.sampler.persistent:
            return None
        if self.persistent is None:
            shape = (self.config.training.batch, self.prior.latent)
            self.persistent = torch.randn(shape, generator=stream, device=self.device)
        return self.persistent[:rows].clone()

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        if self.chain is not None:
            chain, pairs = self.chain
            self.prior.observe_acceptance(chain, pairs.t_B, step - self.warm_updates)
            self.guard.check(chain, step - self.warm_updates, averaged, "")

    def validate(self, step: int) -> dict[str, float]:
        """Acceptance and step size per level: the likelihood is measured by evaluate."""
        return sampler_metrics(self.prior)

    def state(self) -> dict[str, Any]:
        return {
            "rows": None if self.rows is None else torch.from_numpy(self.rows),
            "persistent": self.persistent,
            "rollbacks": self.guard.rollbacks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.rows = None if state["rows"] is None else state["rows"].numpy()
        self.persistent = state["persistent"]
        if self.persistent is not None:
            self.persistent = self.persistent.to(self.device)
        self.guard.rollbacks = state["rollbacks"]


class PriorTask(FrozenTask):
    """Second stage on stored latents: z is a fresh posterior sample of them.

    Args:
        prior: the energies; their standardisation is fitted here.
        mu: posterior means of the training rows, (n, D).
        logvar: posterior log-variances.
        labels: class of every row or -1; ``None`` without labels.
        config: the experiment.
        seed: of the run.
        device: where to train.
        contexts: of the training rows, (n, C), where the prior reads them.
        held_out: posteriors of the validation rows; ``None``: those of the training rows.

    Attributes:
        held_out_labels: classes of the validation rows, -1 for none: where they are set, the score
            of a validation is that of latent and class together, -log p(z) - log p(y|z).
    """

    held_out_labels: np.ndarray | None = None

    def __init__(
        self,
        prior: EnergyPrior,
        mu: np.ndarray,
        logvar: np.ndarray,
        labels: np.ndarray | None,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
        contexts: np.ndarray | None = None,
        held_out: Posteriors | None = None,
    ) -> None:
        super().__init__(prior, len(mu), labels, config, seed, device)
        self.mu, self.logvar = torch.from_numpy(mu).to(device), torch.from_numpy(logvar).to(device)
        self.contexts = None if contexts is None else torch.from_numpy(contexts).to(device)
        self.held_out = held_out
        train = Posteriors(self.mu, self.logvar)
        prior.fit(train, held_out or train, seed)

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        assert inputs.prior.energies is not None
        contexts = inputs.column("context") if "context" in inputs.latents else None
        return cls(
            inputs.prior.energies,
            inputs.column("mu"),
            inputs.column("logvar"),
            inputs.labels,
            inputs.config,
            inputs.seed,
            inputs.device,
            contexts,
            inputs.posteriors(1),
        )

    def conditioned_on(self, rows: np.ndarray) -> EnergyPrior:
        if self.contexts is None:
            return self.prior
        return self.prior.conditioned_on(self.contexts[torch.from_numpy(rows).to(self.device)])

    def latents(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Posterior means and log-variances of training rows, (B, D) each."""
        index = torch.from_numpy(rows).to(self.device)
        return self.mu[index], self.logvar[index]

    def draw(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        mu, logvar = self.latents(rows)
        noise = torch.randn(mu.shape, generator=stream, device=self.device)
        return self.prior.to_standard(sample_posterior(mu, logvar, noise))

    def validate(self, step: int) -> dict[str, float]:
        """With ``validate_every``, minus the held-out bound on log p(z) chooses the weights."""
        metrics = super().validate(step)
        chooses = self.config.training.validate_every is not None and not self.prior.contextual
        if not chooses or self.held_out is None:
            return metrics
        bound = held_out_bound(self.prior, self.held_out_latents(), self.seed)
        if self.held_out_labels is None or not (known := self.held_out_labels >= 0).any():
            return metrics | {"score": -bound}
        label_B = torch.from_numpy(self.held_out_labels[known]).to(self.device)
        mu_BD = self.held_out.mu_ND[torch.from_numpy(known).to(self.device)]
        with torch.no_grad():
            logits = self.prior.class_logits(mu_BD)
            classes = float(nn.functional.cross_entropy(logits, label_B))
        return metrics | {"bound": bound, "class": classes, "score": classes - bound}

    def held_out_latents(self) -> Tensor:
        """A draw of the posteriors of some validation rows, always the same, (N, D)."""
        assert self.held_out is not None
        return self.held_out.draw(1, HELD_OUT_ROWS, self.seed, "held-out")

    def warm_up(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        return score_matching_terms(self.conditioned_on(rows), *self.latents(rows), labels, stream)
