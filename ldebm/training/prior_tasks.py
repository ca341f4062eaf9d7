"""What the second stage trains: a prior on stored latents, or a prior and a backbone together.

Pang and Wu (2021), algorithm 1; Cui and Han (2024), algorithm 1; docs/method.md, section 4.

Shapes: B batch, D latent dimension, n rows of the training split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.data.packed import Split
from ldebm.errors import DivergenceError
from ldebm.optimisers import Group
from ldebm.priors import EnergyPrior, Pairs
from ldebm.priors.langevin import Chain
from ldebm.seeding import generator
from ldebm.training.classifier import pool_rows
from ldebm.training.clustering import epoch_rows, geometric_clusters, stability
from ldebm.training.inputs import PriorInputs
from ldebm.training.latents import batch_noise, encode_split, make_batch
from ldebm.training.objectives import Terms, sample_posterior
from ldebm.training.parallel import is_main, rank, share
from ldebm.training.prior_objectives import (
    joint_terms,
    prior_terms,
    with_labelled,
)
from ldebm.training.score_matching import score_matching_terms

__all__ = ["FrozenTask", "JointTask", "PriorTask"]

MAX_ROLLBACKS = 200


class _AcceptanceGuard:
    """Keeps Metropolis-adjusted training alive (acceptance falls before losses do).

    Below ``rollback_acceptance`` the averaged weights are restored; a run that stays below
    ``minimum_acceptance`` is stopped.
    """

    def __init__(self, prior: EnergyPrior) -> None:
        self.prior, self.rollbacks = prior, 0

    def check(self, chain: Chain, step: int, averaged: dict[str, Tensor] | None, at: str) -> None:
        config = self.prior.config
        if config.sampler.method == "ula":
            return
        acceptance = float(chain.acceptance_B.mean())
        if step < 20 or acceptance >= config.rollback_acceptance:
            return
        self.rollbacks += 1
        if averaged is not None:
            own = dict(self.prior.named_parameters())
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(averaged[at + name])
        if self.rollbacks > MAX_ROLLBACKS and acceptance < config.sampler.minimum_acceptance:
            raise DivergenceError(
                f"prior: the sampler accepts {acceptance:.2f} of its moves at update {step} "
                f"(below {config.sampler.minimum_acceptance}); the energies became too steep: "
                "lower prior.training.optimiser.lr or raise its clipping"
            )


def _sampler_metrics(prior: EnergyPrior) -> dict[str, float]:
    """Acceptance and step size of every level."""
    acceptance = {f"acceptance_{t}": float(a) for t, a in enumerate(prior.acceptance_T)}
    return acceptance | {f"step_{t}": float(s) for t, s in enumerate(prior.step_T)}


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
        self.guard = _AcceptanceGuard(prior)
        self.rows: np.ndarray | None = None
        self.chain: tuple[Chain, Pairs] | None = None
        self.persistent: Tensor | None = None

    @abstractmethod
    def draw(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        """Standardised draws of q for training rows, (B, D)."""

    @abstractmethod
    def warm_up(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        """Loss of an update that warms up by score matching."""

    def conditioned_on(self, rows: np.ndarray) -> EnergyPrior:
        """The prior of these training rows: with their contexts, where it reads any."""
        del rows
        return self.prior

    def groups(self) -> list[Group]:
        return [Group("prior", list(self.prior.parameters()), self.config.training.optimiser)]

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
        return generator(self.seed, "prior", step, *_rank_path(), device=self.device)

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
        return _sampler_metrics(self.prior)

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
    """

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
    ) -> None:
        super().__init__(prior, len(mu), labels, config, seed, device)
        self.mu, self.logvar = torch.from_numpy(mu).to(device), torch.from_numpy(logvar).to(device)
        self.contexts = None if contexts is None else torch.from_numpy(contexts).to(device)
        prior.fit_standardisation(self.mu, self.logvar)

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

    def warm_up(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        return score_matching_terms(self.conditioned_on(rows), *self.latents(rows), labels, stream)


def _rank_path() -> tuple[str, ...]:
    return () if is_main() else ("rank", str(rank()))


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
        return cls(*stages, inputs.labels, inputs.config, inputs.seed, inputs.device, log=print)

    def __init__(
        self,
        backbone: Backbone,
        prior: EnergyPrior,
        train: Split,
        labels: np.ndarray | None,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.module: nn.Module = nn.ModuleDict({"backbone": backbone, "prior": prior})
        self.backbone, self.prior, self.train_split = backbone, prior, train
        self.config, self.seed, self.device, self.log = config, seed, device, log
        self.labels = labels
        self.steps_per_epoch = steps_per_epoch(train.n, config.prior.training.batch)
        self.rows: np.ndarray | None = None
        self.guard = _AcceptanceGuard(prior)
        self.chain: tuple[Chain, Pairs] | None = None

    def groups(self) -> list[Group]:
        training = self.config.prior.training
        return [
            Group("prior", list(self.prior.parameters()), training.optimiser),
            Group(
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
                self.log(f"clusters: {stability(fresh, self.labels):.2f} of the rows kept theirs")
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
        stream = generator(self.seed, "joint-prior", step, *_rank_path(), device=self.device)
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
        factor = min(1.0, (step + 1) / max(config.backbone.kl_warmup, 1))
        prior = self.prior
        if prior.contextual:  # the context encoder learns from the responses alone
            prior = prior.conditioned_on(self.backbone.context(batch).detach())
        first = config.backbone
        terms, chain, pairs = joint_terms(
            *(prior, nll, mu, logvar, z, labels, stream),
            *(first.entropy_mask, factor, first.kl_floor),
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
        return _sampler_metrics(self.prior)

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
