"""The prior that belongs to a baseline: uniform codes, N(0, I), or its mixture of Gaussians.

Shapes: n samples, M variables, k values, D dimensions of z, K = k^M joint classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldebm.baselines.codes import digits, joint_log_probability, log_one_hot
from ldebm.baselines.model import TextBaseline
from ldebm.config import PriorConfig
from ldebm.priors import LOG_2PI, Prior

__all__ = ["MOST_CLASSES", "OwnPrior"]

MOST_CLASSES = 4096  # codes with more values in all have no joint classes


class OwnPrior(Prior):
    """Draws latents of :class:`ldebm.baselines.model.TextBaseline`; nothing is trained.

    Args:
        backbone: whose prior it is; the mixture is copied from it.
        config: the experiment's prior section.

    Attributes:
        classes: k^M, or 1 where that is above ``MOST_CLASSES`` or there is no code.
    """

    def __init__(self, backbone: TextBaseline, config: PriorConfig) -> None:
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
        shape = (len(z_BD), self.baseline.variables, self.baseline.values)
        return joint_log_probability(z_BD[:, : self.code_size].reshape(shape))

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        if not self.baseline.coded:
            if self.vector_size == 0:
                return torch.zeros(n, 1, device=self.shift_D.device)
            return self._normal(n, generator)
        shape = (n, self.baseline.variables)
        device = self.shift_D.device
        codes = torch.randint(self.baseline.values, shape, generator=generator, device=device)
        return self._of_codes(codes, generator)

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        """Draws given the joint code, which is one of ``labels`` with equal probability."""
        device = self.shift_D.device
        chosen = torch.randint(len(labels), (n,), generator=generator, device=device)
        label_N = torch.tensor(labels, device=device)[chosen]
        codes = digits(label_N, self.baseline.variables, self.baseline.values)
        return self._of_codes(codes, generator)

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
        """log p(z) with the code summed out exactly, (...,) of z (..., D), float64."""
        z = z.double()
        if not self.baseline.mixture:
            return -0.5 * (z.square() + LOG_2PI).sum(-1)
        mean, logvar = self.mean_MKD.double(), self.logvar_MKD.double()
        away = z.reshape(*z.shape[:-1], mean.shape[0], 1, mean.shape[2]) - mean
        log_p = -0.5 * (away.square() * (-logvar).exp() + logvar + LOG_2PI).sum(-1)
        log_mixture = torch.logsumexp(log_p, -1) - torch.tensor(mean.shape[1]).double().log()
        return log_mixture.sum(-1)
