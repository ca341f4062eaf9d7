"""What every prior has: standardised coordinates, sampling with or without a class.

Shapes: B batch, D latent dimension, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import PriorConfig
from ldebm.errors import UsageError
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.priors.energy import EnergyPrior

__all__ = ["ExactPrior", "GaussianPrior", "Posteriors", "Prior"]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Posteriors:
    """Gaussian posteriors q(z|x) of rows.

    Attributes:
        mu_ND: means.
        logvar_ND: log-variances.
    """

    mu_ND: Tensor
    logvar_ND: Tensor

    @classmethod
    def of(
        cls, latents: Mapping[str, np.ndarray], split: int, device: torch.device | str = "cpu"
    ) -> Posteriors:
        """Those of a split of latents.parquet: 0, the training rows, or 1, the validation rows."""
        rows = latents["split"] == split
        return cls(*(torch.from_numpy(latents[name][rows]).to(device) for name in ("mu", "logvar")))

    def draw(self, each: int, limit: int, seed: int, name: str) -> Tensor:
        """``each`` draws of every row, or of as many random rows as ``limit`` draws allow.

        Args:
            each: draws of a row.
            limit: of all draws.
            seed: of rows and noise.
            name: of the purpose, which has a stream of its own.
        """
        stream = generator(seed, "posterior-draws", name)
        rows = self._rows(each, limit, stream)
        noise = torch.randn(len(rows), self.mu_ND.shape[1], generator=stream)
        rows, noise = rows.to(self.mu_ND.device), noise.to(self.mu_ND)
        return self.mu_ND[rows] + torch.exp(0.5 * self.logvar_ND[rows]) * noise

    def drawn(self, each: int, limit: int, seed: int, name: str) -> Tensor:
        """Of which row each of those draws is."""
        return self._rows(each, limit, generator(seed, "posterior-draws", name))

    def _rows(self, each: int, limit: int, stream: torch.Generator) -> Tensor:
        rows = torch.randperm(len(self.mu_ND), generator=stream)[: max(1, limit // each)]
        return rows.repeat(each)


class Prior(nn.Module):
    """N(0, I) in standardised coordinates; the base of the others.

    Args:
        latent: D.
        config: the experiment's prior section.
    """

    def __init__(self, latent: int, config: PriorConfig) -> None:
        super().__init__()
        self.latent, self.classes, self.config = latent, config.classes, config
        self.register_buffer("shift_D", torch.zeros(latent))
        self.shift_D: Tensor
        self.scale_DD: Tensor
        self.inverse_DD: Tensor
        self._add_scale()

    def _add_scale(self) -> None:
        self.register_buffer("scale_DD", torch.eye(self.latent))
        self.register_buffer("inverse_DD", torch.eye(self.latent))

    @torch.no_grad()
    def fit_standardisation(self, mu_BD: Tensor, logvar_BD: Tensor) -> None:
        """Takes shift and scale from the aggregate posterior's mean and covariance."""
        if self.config.standardise == "none":
            return
        mu = mu_BD.double()
        covariance = torch.cov(mu.t()).reshape(self.latent, self.latent)
        covariance = covariance + torch.diag(logvar_BD.double().exp().mean(0))
        if self.config.standardise == "diagonal":
            covariance = torch.diag(covariance.diagonal())
        scale = torch.linalg.cholesky(covariance)
        self.shift_D.copy_(mu.mean(0))
        self.scale_DD.copy_(scale)
        self.inverse_DD.copy_(torch.linalg.inv(scale))

    def fit(self, train: Posteriors, held_out: Posteriors, seed: int) -> None:
        """Fits what is not trained to the aggregate posterior; here the coordinates alone.

        Args:
            train: posteriors of the training rows.
            held_out: those of the validation rows, for what has to be chosen.
            seed: of the run.
        """
        del held_out, seed
        self.fit_standardisation(train.mu_ND, train.logvar_ND)

    def to_standard(self, z_BD: Tensor) -> Tensor:
        """u = scale^-1 (z - shift)."""
        return (z_BD - self.shift_D) @ self.inverse_DD.t()

    def from_standard(self, u_BD: Tensor) -> Tensor:
        """z = shift + scale u."""
        return u_BD @ self.scale_DD.t() + self.shift_D

    def log_det(self) -> Tensor:
        """log |det scale|: log p(z) = log p(u) - log_det()."""
        return self.scale_DD.diagonal().log().sum()

    @property
    def levels(self) -> int:
        """T, the number of conditional energies; 0: the density is exact."""
        return 0

    @property
    def energies(self) -> EnergyPrior | None:
        """The prior itself where it has energies."""
        return None

    without_classes = "a Gaussian prior has no classes"
    """What is said to whoever asks for a class of a prior that has none."""

    @property
    def has_classes(self) -> bool:
        """Whether p(y|z) says anything."""
        return False

    def class_logits(self, z_BD: Tensor) -> Tensor:
        """Unnormalised log p(y|z), shape (B, K)."""
        return z_BD.new_zeros(len(z_BD), self.classes)

    @property
    def contextual(self) -> bool:
        """Whether the density is one of z given a context."""
        return False

    def conditioned_on(self, context_BC: Tensor) -> Self:
        """p(z|c) of these contexts: row i of whatever is asked has context i modulo B.

        The parameters are the same, not copies. A prior without contexts is returned as it is.
        """
        del context_BC
        return self

    def sample(
        self,
        n: int,
        generator: torch.Generator,
        label: int | Sequence[int] | None = None,
        context_BC: Tensor | None = None,
    ) -> Tensor:
        """n latents in the backbone's coordinates, shape (n, D).

        Args:
            n: how many.
            generator: source of all noise.
            label: draw from p(z | y = label) instead of p(z), or from p(z | y is one of several).
            context_BC: draw from p(z | c); draw i has context i modulo B.
        """
        if context_BC is not None:
            return self.conditioned_on(context_BC).sample(n, generator, label)
        if label is None:
            return self.from_standard(self.sample_standard(n, generator))
        labels = [label] if isinstance(label, int) else list(label)
        for item in labels:
            if not 0 <= item < self.classes:
                raise UsageError(f"label {item}: expected a class from 0 to {self.classes - 1}")
        return self.sample_class(n, labels, generator)

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws of u, shape (n, D)."""
        device = self.shift_D.device
        return torch.randn(n, self.latent, generator=generator, device=device)

    def sample_levels(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """[u_0, ..., u_{T-1}] of n trajectories, each (n, D); of an exact density only u_0."""
        return [self.sample_standard(n, generator)]

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        """Exact draws from p(z|y) by rejection: a draw of p(z) is kept with probability p(y|z)."""
        kept: list[Tensor] = []
        have, tried = 0, 0
        while have < n:
            z = self.propose_class(n, n - have, labels, generator)
            batch = len(z)
            probability = torch.softmax(self.class_logits(z), -1)[:, labels].sum(-1)
            uniform = torch.rand(batch, generator=generator, device=z.device)
            accepted = z[uniform < probability]
            kept.append(accepted)
            have, tried = have + len(accepted), tried + batch
            if tried > 2000 * n + 100_000:
                raise UsageError(
                    f"label {labels[0]}: the model gives this class a probability below "
                    f"{(have + 1) / tried:.1e}; it was never discovered, choose another"
                )
        return torch.cat(kept)[:n]

    def propose_class(
        self, n: int, missing: int, labels: list[int], generator: torch.Generator
    ) -> Tensor:
        """Latents among which :meth:`sample_class` chooses: draws of p(z), some for each wanted."""
        del missing, labels
        return self.from_standard(self.sample_standard(max(4 * n, 256), generator))


class ExactPrior(Prior):
    """A prior whose density is known: a subclass gives ``log_standard`` and ``sample_standard``."""

    without_classes = "this prior has no classes"

    def log_standard(self, u_BD: Tensor) -> Tensor:
        """Exact log p(u) of standardised latents, shape (B,)."""
        raise NotImplementedError

    def log_prob(self, z_BD: Tensor) -> Tensor:
        """Exact log p(z), shape (B,)."""
        return self.log_standard(self.to_standard(z_BD)) - self.log_det()


class GaussianPrior(ExactPrior):
    """N(shift, scale scale^T): with ``standardise: none`` the VAE's own N(0, I)."""

    without_classes = Prior.without_classes

    def log_standard(self, u_BD: Tensor) -> Tensor:
        return -0.5 * (u_BD.square().sum(-1) + self.latent * LOG_2PI)
