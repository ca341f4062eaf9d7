"""The diffusion EBM of Yu et al. (2022): a chain of conditional energy-based models.

    p(v_t | u_{t+1}) = exp(F(v_t, t)) N(v_t; m_t, s_t^2 I) / Z_t(u_{t+1}),    v_t = c_{t+1} u_t

u_t is the paper's z_t in standardised coordinates, v_t its z-tilde. With ``base: false`` this is
Yu et al. (2022), eq. A2: m_t = u_{t+1}, s_t = sigma_{t+1}, and at the top eq. A1, m = 0. With
``base: true`` it is Cui and Han (2024), eq. 9: m_t = a_{t+1}^2 u_{t+1}, s_t = a_{t+1} sigma_{t+1}.
docs/method.md, sections 2.2 to 2.4.

Shapes: B batch, D latent dimension, T levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldebm.config import PriorConfig
from ldebm.draws import Stream, integers, normal
from ldebm.priors.energy import EnergyPrior, Pairs
from ldebm.priors.schedule import make_schedule

__all__ = ["DiffusionPrior"]


class DiffusionPrior(EnergyPrior):
    """LDEBM: a chain of T conditional EBMs, sampled from the top level down.

    Yu et al. (2022), eq. A2; at the top level the marginal, Yu et al. (2022), eq. A1.
    """

    def __init__(
        self,
        latent: int,
        config: PriorConfig,
        generator: torch.Generator | None = None,
        context: int = 0,
    ) -> None:
        super().__init__(latent, config, make_schedule(config.levels), generator, context)

    def top_state(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.latent, generator=generator, device=self.shift_D.device)

    def _tensor(self, table: object) -> Tensor:
        return torch.as_tensor(table, dtype=self.shift_D.dtype, device=self.shift_D.device)

    def kernel_tables(self) -> tuple[Tensor, Tensor]:
        a, sigma = self.schedule.a[1:], self.schedule.sigma[1:]
        if self.config.base:  # Cui and Han (2024), eq. 9, in v = a u: a reference at every level
            factor, variance = a**2, a**2 * sigma**2
            top_variance = 1.0
        else:  # Yu et al. (2022), eq. A2: N(v_t; u_{t+1}, sigma_{t+1}^2 I)
            factor, variance = a * 0 + 1, sigma**2
            top_variance = float(sigma[-1] ** 2)
        # the top level is a marginal with a Gaussian reference: Yu et al. (2022), eq. A1
        factor[-1], variance[-1] = 0.0, top_variance
        return self._tensor(factor), self._tensor(variance)

    def step2_T(self) -> Tensor:
        sampler = self.config.sampler
        if sampler.rule == "published":
            return self._tensor(self.schedule.published_step(sampler.delta))
        return super().step2_T()

    def temperature_T(self, *, of_sampler: bool) -> Tensor:
        scale = self.config.energy_scale
        if scale == "consistent" or (scale == "code" and of_sampler):
            return self._tensor(self.schedule.published_step(self.config.sampler.delta))
        return torch.ones(self.levels, device=self.shift_D.device)

    def level_zero(self, u_BD: Tensor, generator: Stream) -> Tensor:
        if not self.config.level_noise:
            return u_BD
        noise = _noise_like(u_BD, generator)
        return float(self.schedule.abar[0]) * u_BD + float(self.schedule.sbar[0]) * noise

    def pairs(self, u0_BD: Tensor, generator: Stream) -> Pairs:
        """(v_t, u_{t+1}) with t uniform, or as published: t < T-1 at random, and T-1 for all."""
        rows, top = len(u0_BD), self.levels - 1
        published = self.config.t_sampling == "published"
        high = top if published else self.levels
        t_B = integers(high, rows, generator, u0_BD.device)
        if published:
            t_B = torch.cat([t_B, torch.full_like(t_B, top)])
            u0_BD = torch.cat([u0_BD, u0_BD])
        schedule = self.schedule
        # q(u_t | u_0), Yu et al. (2022), eq. A20: signal abar_t / abar_0, so that the level-0 noise
        # is shared. Then one step, q(u_{t+1} | u_t), Yu et al. (2022), eq. 4.
        signal = schedule.abar[:-1] / schedule.abar[0]
        signal_B = self._tensor(signal)[t_B].unsqueeze(-1)
        u_t = signal_B * u0_BD + (1 - signal_B.square()).clamp(min=0).sqrt() * _noise_like(
            u0_BD, generator
        )
        u_next = schedule.step(u_t, t_B + 1, _noise_like(u0_BD, generator))
        v = self._tensor(schedule.scale[1:])[t_B].unsqueeze(-1) * u_t
        return Pairs(v, t_B, u_next, self.weight_T()[t_B])

    def weight_T(self) -> Tensor:
        """What the loss of every level is multiplied by."""
        if self.config.t_weight == "published":
            return self._tensor(self.schedule.published_weight())
        if self.config.t_weight == "step":
            return self._tensor(1 / self.schedule.published_step(self.config.sampler.delta))
        return torch.ones(self.levels, device=self.shift_D.device)


def _noise_like(x: Tensor, generator: Stream) -> Tensor:
    return normal(tuple(x.shape), generator, x.device, x.dtype)
