"""A Student-t prior: one number to learn, how heavy the tails are.

The density is that of unit covariance, p(u) ~ (1 + |u|^2 / (nu - 2))^(-(nu + D) / 2), in
coordinates that the fitted Gaussian has standardised; nu is trained by maximum likelihood on draws
of the aggregate posterior. As nu grows it becomes N(0, I).

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ldebm.config import PriorConfig
from ldebm.config.sections import Section
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.optimisers import ParameterGroup
from ldebm.plugins import PriorPlugin
from ldebm.priors import ExactPrior
from ldebm.seeding import generator
from ldebm.training.inputs import PriorInputs
from ldebm.training.objectives import Terms, sample_posterior
from ldebm.training.trainer import Task


class Options(Section):
    """``prior.options``."""

    degrees: float = Field(8.0, gt=2)
    """Degrees of freedom nu at the start of the training."""


class StudentTPrior(ExactPrior):
    """Student-t of unit covariance with learned degrees of freedom."""

    def __init__(
        self, latent: int, config: PriorConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(latent, config)
        del generator  # nothing is drawn
        start = Options(**config.options).degrees
        self.log_excess = nn.Parameter(torch.tensor(math.log(start - 2)))

    @property
    def degrees(self) -> Tensor:
        """nu, above 2."""
        return 2 + self.log_excess.exp()

    def log_standard(self, u_BD: Tensor) -> Tensor:
        nu, half = self.degrees, self.latent / 2
        constant = torch.lgamma(nu / 2 + half) - torch.lgamma(nu / 2) - half * (nu - 2).log()
        kernel = -(nu / 2 + half) * torch.log1p(u_BD.square().sum(-1) / (nu - 2))
        return constant - half * math.log(math.pi) + kernel

    @torch.no_grad()
    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        # A Gaussian over the root of a chi-square; torch draws no chi-square from a generator.
        normal = super().sample_standard(n, generator)
        seed = torch.randint(2**62, (1,), generator=generator, device=normal.device)
        chi = np.random.default_rng(int(seed)).chisquare(float(self.degrees), (n, 1))
        return normal * ((self.degrees - 2) / torch.from_numpy(chi).to(normal)).sqrt()


class StudentTTask(Task):
    """Maximum likelihood of standardised draws of the aggregate posterior."""

    title = "student-t"

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        return cls(inputs)

    def __init__(self, inputs: PriorInputs) -> None:
        self.module = self.prior = inputs.prior
        self.training, self.seed, self.device = (
            inputs.config.prior.training,
            inputs.seed,
            inputs.device,
        )
        self.mu, self.logvar = (
            torch.from_numpy(inputs.column(name)).to(self.device) for name in ("mu", "logvar")
        )
        self.prior.fit_standardisation(self.mu, self.logvar)
        self.steps_per_epoch = steps_per_epoch(len(self.mu), self.training.batch)

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("prior", list(self.prior.parameters()), self.training.optimiser)]

    def loss(self, step: int) -> Terms:
        rows = torch.from_numpy(
            batch_rows(len(self.mu), self.training.batch, self.seed, step).copy()
        )
        mu, logvar = self.mu[rows.to(self.device)], self.logvar[rows.to(self.device)]
        stream = generator(self.seed, "student-t", step, device=self.device)
        noise = torch.randn(mu.shape, generator=stream, device=self.device)
        z = sample_posterior(mu, logvar, noise)
        nll = -self.prior.log_standard(self.prior.to_standard(z)).mean()
        return Terms(nll, {"nll": nll.detach(), "degrees": self.prior.degrees.detach()})


plugin = PriorPlugin(StudentTPrior, task=StudentTTask, options=Options)
