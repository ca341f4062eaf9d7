"""A Gaussian mixture as what the energies tilt, at every level of the noise.

A mixture that the forward process has noised is a mixture again, and so is its reverse conditional:

    q_t(u_t)           = sum_k w_k N(u_t; s_t m_k, s_t^2 S_k + n_t^2 I)
    q(u_t | u_{t+1})   = q_t(u_t) N(u_{t+1}; a u_t, sigma^2 I) / q_{t+1}(u_{t+1})

with the schedule's signal s_t and noise n_t of level t. An energy-based prior that has the mixture
as its base measure adds log q_t(u_t) - log N(u_t; 0, I) to every F(v_t, t): with F = 0 the chain of
conditionals is the chain of these reverse conditionals, and its level 0 the mixture itself.

Shapes: B batch, D latent dimension, K components, T levels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ldebm.draws import Stream
from ldebm.priors.base import LOG_2PI
from ldebm.priors.frozen import BaseMeasure
from ldebm.priors.mixture import Mixture, draw_along, in_chunks, pick
from ldebm.priors.schedule import Schedule

__all__ = ["DiffusedMixture"]


class DiffusedMixture(BaseMeasure):
    """A mixture at the levels of a schedule: what it adds to F, and its reverse conditionals.

    Args:
        mixture: of the standardised latents.
        schedule: of the prior.
        level_noise: whether level 0 has the schedule's small noise.
    """

    @torch.no_grad()
    def __init__(self, mixture: Mixture, schedule: Schedule, *, level_noise: bool) -> None:
        signal = schedule.abar if level_noise else schedule.abar / schedule.abar[0]
        noise = np.sqrt(np.maximum(1 - signal**2, 0.0))
        self.levels, self.schedule = schedule.levels, schedule
        self.signal, self.noise = signal[:-1], noise[:-1]
        self.at = [
            mixture.at(float(s), float(n)) for s, n in zip(self.signal, self.noise, strict=True)
        ]
        self.clean = mixture.at()

    def ratio(self, v_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """log q_t(u) - log N(u; 0, I) at u = v / c_{t+1}, shape (B,); differentiable in v."""
        return self._by_level(v_BD, t_B, self._ratio)

    @torch.no_grad()
    def ratio_and_gradient(self, v_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        """:meth:`ratio` and its gradient with respect to v, (B,) and (B, D)."""

        def both(v: Tensor, t: int) -> Tensor:
            scale = float(self.schedule.scale[t + 1])
            u = v / scale
            value, score = self.at[t].log_prob_and_score(u)
            return torch.cat([_over_normal(value, u)[:, None], (score + u) / scale], 1)

        joined = self._by_level(v_BD, t_B, both)
        return joined[:, 0], joined[:, 1:]

    @torch.no_grad()
    def log_normaliser(self, u_next_BD: Tensor, t: int) -> Tensor:
        """log of the kernel's mean of exp(ratio): log q_{t+1} - log N at u_{t+1}; 0 at the top."""
        if t == self.levels - 1:
            return torch.zeros_like(u_next_BD[:, 0])
        return _over_normal(self.at[t + 1].log_prob(u_next_BD), u_next_BD)

    @torch.no_grad()
    def draw(
        self, u_next_BD: Tensor, t_B: Tensor | int, generator: Stream, draws: int = 1
    ) -> Tensor:
        """v_t of the mixture's reverse conditional given u_{t+1}; at the top of its marginal.

        Args:
            u_next_BD: the conditions.
            t_B: level of each, or of all.
            generator: source of the noise.
            draws: of each condition, one behind the other: (B draws, D).
        """

        def posterior(u: Tensor, t: int) -> Tensor:
            top = t == self.levels - 1
            log_part = self.clean.log_weight_K.expand(len(u), -1)
            return (log_part if top else self.at[t + 1].log_parts(u)[0]).softmax(1)

        k = pick(self._by_level(u_next_BD, t_B, posterior).repeat_interleave(draws, 0), generator)
        u_next = u_next_BD.repeat_interleave(draws, 0)
        t_N = torch.as_tensor(t_B, device=u_next.device).expand(len(u_next_BD))
        t_N = t_N.repeat_interleave(draws, 0)
        s, n, a, sigma, scale = (
            torch.as_tensor(table, dtype=u_next.dtype, device=u_next.device)[t_N][:, None]
            for table in (
                self.signal, self.noise, self.schedule.a[1:], self.schedule.sigma[1:],
                self.schedule.scale[1:],
            )
        )  # fmt: skip
        clean = self.clean
        before = s.square() * clean.variance_KD[k] + n.square()
        information = torch.where((t_N == self.levels - 1)[:, None], 0.0, (a / sigma).square())
        variance = 1 / (1 / before + information)
        along = [
            torch.einsum("bij,bi->bj", clean.axes_KDD[component], u)
            for component, u in in_chunks(k, u_next)
        ]
        pull = information / a * torch.cat(along)
        mean = variance * (s * clean.mean_KD[k] / before + pull)
        return scale * draw_along(clean.axes_KDD, k, mean, variance, generator)

    def _ratio(self, v_BD: Tensor, t: int) -> Tensor:
        u = v_BD / float(self.schedule.scale[t + 1])
        return _over_normal(self.at[t].log_prob(u), u)

    def _by_level(
        self, x_BD: Tensor, t_B: Tensor | int, of_level: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """``of_level`` of the rows of every level, in the order of the rows."""
        if isinstance(t_B, int):
            return of_level(x_BD, t_B)
        order = torch.argsort(t_B, stable=True)
        counts = torch.bincount(t_B, minlength=self.levels).tolist()
        parts = torch.split(x_BD[order], counts)
        results = [of_level(part, t) for t, part in enumerate(parts) if len(part)]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(results)[back]


def _over_normal(log_q_B: Tensor, u_BD: Tensor) -> Tensor:
    """log q(u) - log N(u; 0, I)."""
    return log_q_B + 0.5 * (u_BD.square().sum(-1) + u_BD.shape[1] * LOG_2PI)
