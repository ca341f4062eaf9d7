"""The noise schedule and the forward process of the latent diffusion.

Yu et al. (2022), eq. 4 and A20; Cui and Han (2024), eq. 6; docs/method.md, section 2.2.

Levels k = 0..T. Level 0 is already one tiny noising step on top of the encoder's sample z:

    u_k = abar_k z + sbar_k e,            u_{k+1} = a_{k+1} u_k + sigma_{k+1} e'

The energy of level t in 0..T-1 lives on the scaled variable v_t = c_{t+1} u_t with c_k = a_k for
k < T and c_T = 1.

Shapes: B batch, D latent dimension, T number of energies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Schedule", "make_schedule", "one_level"]

FINE_STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 2e-2


@dataclass(frozen=True)
class Schedule:
    """Float64 tables over the levels 0..T.

    Attributes:
        a: signal kept by the step from level k-1 to k (level 0: from z).
        sigma: noise added by that step, ``sqrt(1 - a^2)``.
        abar: signal kept from z to level k.
        sbar: noise of level k given z, ``sqrt(1 - abar^2)``.
        scale: c_k, the factor between u_{k-1} and the scaled variable of energy k-1.
    """

    a: np.ndarray
    sigma: np.ndarray
    abar: np.ndarray
    sbar: np.ndarray
    scale: np.ndarray

    @property
    def levels(self) -> int:
        """T, the number of energies."""
        return len(self.a) - 1

    def published_step(self, delta: float) -> np.ndarray:
        """Squared step sizes s_t^2 = (sbar_t / sbar_0) delta sigma_{t+1}^2, t = 0..T-1.

        Of the public code: docs/method.md, section 3.2.
        """
        return np.asarray(self.sbar[:-1] / self.sbar[0] * delta * self.sigma[1:] ** 2)

    def published_weight(self) -> np.ndarray:
        """Loss weights w_t = sigma_1 / sigma_{t+1}, t = 0..T-1, of the public code."""
        return np.asarray(self.sigma[1] / self.sigma[1:])

    def marginal(self, z_BD: Tensor, level_B: Tensor, noise_BD: Tensor) -> Tensor:
        """u_k for per-row levels k: ``abar_k z + sbar_k noise``, shape (B, D)."""
        # q(u_k | z): Yu et al. (2022), eq. A20
        return _rows(self.abar, level_B, z_BD) * z_BD + _rows(self.sbar, level_B, z_BD) * noise_BD

    def step(self, u_BD: Tensor, level_B: Tensor, noise_BD: Tensor) -> Tensor:
        """One forward step into per-row levels k >= 1: ``a_k u_{k-1} + sigma_k noise``."""
        # q(u_k | u_{k-1}): Yu et al. (2022), eq. 4; Cui and Han (2024), eq. 6
        return _rows(self.a, level_B, u_BD) * u_BD + _rows(self.sigma, level_B, u_BD) * noise_BD


def _rows(table: np.ndarray, index_B: Tensor, like: Tensor) -> Tensor:
    values = torch.as_tensor(table, dtype=like.dtype, device=like.device)
    return values[index_B].unsqueeze(-1)


def make_schedule(levels: int) -> Schedule:
    """The schedule of the public code: 1,000 linear betas cut into ``levels`` + 1 pieces.

    Args:
        levels: T >= 2, the number of energies.

    Example:
        >>> [round(float(s), 4) for s in make_schedule(6).sigma]
        [0.01, 0.3237, 0.5165, 0.6322, 0.7132, 0.7734, 0.9997]
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    log_keep = 0.5 * np.log1p(-np.linspace(BETA_FIRST, BETA_LAST, FINE_STEPS))
    cuts = [k * (FINE_STEPS // (2 * (levels - 1))) for k in range(levels)] + [FINE_STEPS - 1]
    cumulative = np.cumsum(log_keep)
    log_abar = cumulative[cuts]
    abar = np.exp(log_abar)
    a = np.exp(np.diff(log_abar, prepend=0.0))
    sigma, sbar = np.sqrt(1 - a**2), np.sqrt(1 - abar**2)
    scale = a.copy()
    scale[-1] = 1.0
    return Schedule(a, sigma, abar, sbar, scale)


def one_level() -> Schedule:
    """The case T = 1 without noise: u_0 is z, and the only energy is not conditioned."""
    one = np.ones(2)
    return Schedule(a=one, sigma=one, abar=one, sbar=np.array([0.0, 1.0]), scale=one)
