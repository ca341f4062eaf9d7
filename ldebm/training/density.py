"""Training of priors whose density is exact: maximum likelihood on draws of the posterior.

Shapes: B batch, D latent dimension, n rows of the training split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.optimisers import ParameterGroup
from ldebm.priors import ExactPrior, Posteriors
from ldebm.seeding import generator
from ldebm.training.inputs import PriorInputs
from ldebm.training.objectives import Terms, sample_posterior

__all__ = ["DensityTask"]

HELD_OUT_DRAWS = 20000


class DensityTask:
    """-log p(z) of a fresh draw of every row's posterior.

    Args:
        prior: whose coordinates are fitted.
        rows: of the training split.
        draw: gives a draw of the posterior for training rows, (B, D).
        held_out_ND: draws of validation rows, by which the weights are chosen.
        config: the experiment.
        seed: of the run.
        device: where to train.
    """

    title = "prior"

    def __init__(
        self,
        prior: ExactPrior,
        rows: int,
        draw: Callable[[np.ndarray, torch.Generator], Tensor],
        held_out_ND: Tensor,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = prior
        self.prior, self.config = prior, config.prior.training
        self.rows, self.draw, self.held_out_ND = rows, draw, held_out_ND
        self.seed, self.device = seed, device
        self.steps_per_epoch = steps_per_epoch(rows, self.config.batch)

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        prior = cast(ExactPrior, inputs.prior)  # the table gives this task to no other
        posteriors = inputs.posteriors(0), inputs.posteriors(1)
        return cls.on(prior, *posteriors, inputs.config, inputs.seed, inputs.device)

    @classmethod
    def on(
        cls,
        prior: ExactPrior,
        train: Posteriors,
        held_out: Posteriors,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> Self:
        """The task on Gaussian posteriors, to which the prior's coordinates are fitted here."""
        prior.fit(train, held_out, seed)
        each = max(1, min(10, HELD_OUT_DRAWS // max(1, len(held_out.mu_ND))))
        draws_ND = held_out.draw(each, HELD_OUT_DRAWS, seed, "held-out")

        def draw(rows: np.ndarray, stream: torch.Generator) -> Tensor:
            index = torch.from_numpy(rows).to(device)
            mu, logvar = train.mu_ND[index], train.logvar_ND[index]
            noise = torch.randn(mu.shape, generator=stream, device=device)
            return sample_posterior(mu, logvar, noise)

        return cls(prior, len(train.mu_ND), draw, draws_ND, config, seed, device)

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("prior", list(self.prior.parameters()), self.config.optimiser)]

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def loss(self, step: int) -> Terms:
        rows = batch_rows(self.rows, self.config.batch, self.seed, step).copy()
        stream = generator(self.seed, "prior", step, device=self.device)
        nll = -self.prior.log_prob(self.draw(rows, stream)).mean()
        return Terms(nll, {"nll": nll.detach()})

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Mean -log p(z) of draws of the validation rows, which chooses the weights."""
        parts = [self.prior.log_prob(z).double() for z in self.held_out_ND.split(2048)]  # type: ignore[no-untyped-call]
        return {"score": -float(torch.cat(parts).mean())}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing beside the weights."""
