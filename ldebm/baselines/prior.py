"""The prior that belongs to a baseline: uniform codes, N(0, I), or its mixture of Gaussians.

Shapes: n samples, M variables, k values, D dimensions of z, K = k^M joint classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldebm.baselines.codes import digits, joint_log_probability, log_one_hot, of_variables
from ldebm.baselines.model import Baseline
from ldebm.config import PriorConfig
from ldebm.priors import Prior
from ldebm.priors.base import LOG_2PI

__all__ = ["MOST_CLASSES", "BaselinePrior"]

MOST_CLASSES = 4096  # codes with more values in all have no joint classes


class BaselinePrior(Prior):
    """Draws latents of :class:`ldebm.baselines.model.Baseline`; nothing is trained.

    Args:
        backbone: whose prior it is; the mixture is copied from it.
        config: the experiment's prior section.

    Attributes:
        classes: k^M, or 1 where that is above ``MOST_CLASSES`` or there is no code.
    """

    def __init__(self, backbone: Baseline, config: PriorConfig) -> None:
        super().__init__(backbone.latent, config)
        self.baseline, self.code_size = backbone.baseline, backbone.code_size
        self.vector_size = backbone.vector_size
        count = self.baseline.values**self.baseline.variables if self.baseline.coded else 1
        self.classes = count if count <= MOST_CLASSES else 1
        if self.baseline.mixture:
            self.register_buffer("mean_MKD", backbone.mixture_mean_MKD.detach().clone())
            self.register_buffer("logvar_MKD", backbone.mixture_logvar_MKD.detach().clone())
            self.mean_MKD: Tensor
            self.logvar_MKD: Tensor

    without_classes = "this baseline has no code, or too many of them"

    @property
    def has_classes(self) -> bool:
        return self.classes > 1

    def fit_standardisation(self, mu_BD: Tensor, logvar_BD: Tensor) -> None:
        """Nothing is fitted: the prior came with the backbone."""

    def to_standard(self, z_BD: Tensor) -> Tensor:
        return z_BD

    def from_standard(self, u_BD: Tensor) -> Tensor:
        return u_BD

    def class_logits(self, z_BD: Tensor) -> Tensor:
        """Log-probabilities of the joint codes, (n, K)."""
        if not self.has_classes:
            return z_BD.new_zeros(len(z_BD), 1)
        return joint_log_probability(self.code_part(z_BD))

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        if not self.baseline.coded:
            if self.vector_size == 0:
                return torch.zeros(n, 1, device=self.shift_D.device)
            return self._normal(n, generator)
        return self._of_codes(self.draw_codes(n, generator), generator)

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        """Draws given the joint code, which is one of ``labels`` in proportion to its prior."""
        return self._of_codes(self.draw_codes_of(n, labels, generator), generator)

    def code_part(self, latent: Tensor) -> Tensor:
        """The code's part of latents, (..., M, k): log q(c|x)."""
        code = latent[..., : self.code_size]
        return of_variables(code, self.baseline.variables, self.baseline.values)

    def code_log_prior(self, rows: int) -> Tensor:
        """log p(c) of every variable, (n, M, k) float64, for n rows."""
        shape = (rows, self.baseline.variables, self.baseline.values)
        uniform = -math.log(self.baseline.values)
        return torch.full(shape, uniform, dtype=torch.float64, device=self.shift_D.device)

    def draw_codes(self, n: int, generator: torch.Generator) -> Tensor:
        """n codes of the prior, (n, M)."""
        shape, device = (n, self.baseline.variables), self.shift_D.device
        return torch.randint(self.baseline.values, shape, generator=generator, device=device)

    def draw_codes_of(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        """n codes of the prior among the joint ones ``labels``, (n, M)."""
        device = self.shift_D.device
        chosen = torch.randint(len(labels), (n,), generator=generator, device=device)
        label_N = torch.tensor(labels, device=device)[chosen]
        return digits(label_N, self.baseline.variables, self.baseline.values)

    def _normal(self, n: int, generator: torch.Generator) -> Tensor:
        device = self.shift_D.device
        return torch.randn(n, self.vector_size, generator=generator, device=device)

    def _of_codes(self, codes_NM: Tensor, generator: torch.Generator) -> Tensor:
        parts = [log_one_hot(codes_NM, self.baseline.values).flatten(1)]
        if self.baseline.continuous:
            z = self._normal(len(codes_NM), generator)
            if self.baseline.mixture:
                variable = torch.arange(codes_NM.shape[1], device=codes_NM.device)
                mean = self.mean_MKD[variable, codes_NM].flatten(1)
                z = mean + (0.5 * self.logvar_MKD[variable, codes_NM].flatten(1)).exp() * z
            parts.append(z)
        return torch.cat(parts, -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) with the code summed out exactly, (..., n) of z (..., n, D), float64."""
        z = z.double()
        if not self.baseline.mixture:
            return -0.5 * (z.square() + LOG_2PI).sum(-1)
        mean, logvar = self.mean_MKD.double(), self.logvar_MKD.double()
        residual = z.reshape(*z.shape[:-1], mean.shape[0], 1, mean.shape[2]) - mean
        log_p = -0.5 * (residual.square() * (-logvar).exp() + logvar + LOG_2PI).sum(-1)
        return torch.logsumexp(log_p + self.code_log_prior(z.shape[-2]), -1).sum(-1)
