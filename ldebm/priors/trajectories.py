"""Weights of latent trajectories under an energy prior, for :mod:`ldebm.evaluate.likelihood`.

Shapes: N trajectories, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldebm.priors.annealing import anneal
from ldebm.priors.base_measure import DiffusedMixture
from ldebm.priors.conditionals import Conditionals, conditionals, tilting
from ldebm.priors.energy import EnergyPrior
from ldebm.priors.known import Known, find_proposals, find_top
from ldebm.priors.mixture import Mixture
from ldebm.priors.normalisers import (
    TRUSTED_ESS,
    Sandwich,
    distance_of_sides,
    global_normaliser,
    importance,
    plain_normaliser,
    rate_shifts,
)
from ldebm.seeding import generator as make_generator

__all__ = ["LikelihoodSettings", "Trajectories", "held_out_bound"]

LOG_2PI = math.log(2 * math.pi)
HELD_OUT_TRAJECTORIES, HELD_OUT_INNER = 4, 32
COST_OF_MIXTURE = 2.0  # of a draw of the mixture's reverse conditional, next to the Gaussian's
FEWEST = 8  # draws of a level
SIDES = 64  # conditions of a level at which its normaliser is estimated from both sides


@dataclass(frozen=True)
class LikelihoodSettings:
    """How much is drawn.

    Attributes:
        trajectories: S, of each row.
        inner: M, fresh draws of each normaliser Z_t(u_{t+1}) on average over the levels; even.
        top_draws: plain draws for the top normaliser.
        top_particles: of its annealed estimates.
        top_steps: temperatures of these.
        threshold: inner ESS below which a normaliser is estimated again by annealing.
        anneal_particles: particles of that annealing.
        anneal_steps: its temperatures.
        anneal_share: at most this share of a level's normalisers is annealed.
        of_sampler: the temperature that is sampled, else the stated one
            (docs/method.md, section 3.2).
        sandwich: the top normaliser is estimated in three ways, and every other with ``inner``
            draws; else once, with as many draws as each level needs (``known``).
        seed: of all draws.
    """

    trajectories: int = 500
    inner: int = 64
    top_draws: int = 65536
    top_particles: int = 512
    top_steps: int = 100
    threshold: float = 4.0
    anneal_particles: int = 8
    anneal_steps: int = 20
    anneal_share: float = 0.05
    of_sampler: bool = True
    sandwich: bool = True
    bfloat16: bool = False
    seed: int = 0

    def of_context(self) -> LikelihoodSettings:
        """The same with fewer draws for the top normaliser, which every context has its own of."""
        return replace(self, top_draws=4096, top_particles=64, top_steps=50)


def _gaussian(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    """log N(x; mean, variance I) over the last axis, float64."""
    squared = (x - mean).double().square().sum(-1)
    return -0.5 * (squared / variance + x.shape[-1] * (LOG_2PI + math.log(variance)))


@torch.no_grad()
def held_out_bound(prior: EnergyPrior, z_ND: Tensor, seed: int) -> float:
    """Mean bound on log p(z) of latents that the prior was not trained on, nats.

    The same seed gives the same draws, so that the bounds of two moments can be compared.

    Args:
        prior: reads no contexts.
        z_ND: draws of the posteriors of validation rows.
        seed: of all draws.
    """
    settings = LikelihoodSettings(
        inner=HELD_OUT_INNER, top_draws=8192, top_particles=64, sandwich=False, seed=seed
    )
    stream = make_generator(seed, "held-out", device=z_ND.device)
    u_ND = prior.to_standard(z_ND).repeat(HELD_OUT_TRAJECTORIES, 1)
    if prior.config.level_noise:
        noise = torch.randn(u_ND.shape, generator=stream, device=u_ND.device)
        u_ND = float(prior.schedule.abar[0]) * u_ND + float(prior.schedule.sbar[0]) * noise
    own, _, _ = Trajectories(prior, settings, u_ND[: len(z_ND)])(u_ND, stream)
    log_mean = torch.logsumexp(own.view(HELD_OUT_TRAJECTORIES, -1), 0)
    bound = float(log_mean.mean()) - math.log(HELD_OUT_TRAJECTORIES)
    return bound - float(prior.log_det())


def _divided(draws: int, ess_T: Sequence[float], cost_T: Sequence[float]) -> list[int]:
    """Draws of every level, at the cost of ``draws`` cheap ones a level on average.

    With M draws of effective number E the variance of log Z is about (M / E - 1) / M; the sum over
    levels is least when M is in proportion to the root of M / E - 1 over the cost.
    """
    spread = [
        math.sqrt(max(draws / ess - 1, 0.01) / cost)
        for ess, cost in zip(ess_T, cost_T, strict=True)
    ]
    total = sum(part * cost for part, cost in zip(spread, cost_T, strict=True))
    wanted = [draws * len(ess_T) * part / total for part in spread]
    return [max(min(draws, FEWEST), 2 * round(part / 2)) for part in wanted]


def _tilting(energies: Conditionals, prior: EnergyPrior, mixture: Mixture) -> Conditionals | None:
    """The conditionals as tilts of a mixture of z; ``None`` if they are tilts of one already."""
    if energies.base is not None:
        return None
    inverse_DD = prior.inverse_DD.double()
    here = mixture.double().to(inverse_DD.device)
    here = here.mapped(inverse_DD, -(inverse_DD @ prior.shift_D.double()))
    here = here.to(prior.shift_D.dtype)
    noisy = prior.config.level_noise
    return tilting(energies, DiffusedMixture(here, prior.schedule, level_noise=noisy))


class Trajectories:
    """log p(u_0..u_{T-1}) / q(u_1..u_{T-1}|u_0) of an energy prior, with its diagnostics.

    Args:
        prior: in whose coordinates everything is.
        settings: how much is drawn.
        pilot_ND: values of u_0 at which the proposals are tried.
        before: of another context of the same prior: its proposals and diagnostics are taken over.
        known: what was estimated before.
        proposal: a mixture of z that is close to what the prior was trained on.
    """

    tops: list[Sandwich]
    shift: Sequence[float]
    inner: Sequence[int]
    ess: list[list[Tensor]]
    sides: list[float]
    annealed: int = 0
    total: int = 0

    def __init__(
        self,
        prior: EnergyPrior,
        settings: LikelihoodSettings,
        pilot_ND: Tensor,
        before: Trajectories | None = None,
        known: Known | None = None,
        proposal: Mixture | None = None,
    ) -> None:
        self.settings = settings
        self.energies: Conditionals = conditionals(prior, of_sampler=settings.of_sampler)
        top = self.energies.levels - 1
        self.mixed = None if proposal is None else _tilting(self.energies, prior, proposal)
        self.written = [self.energies] * top
        if known is not None:
            self.log_z, self.shift, self.inner = known.log_z, known.shift, known.inner
            self.tops, self.ess, self.sides = [], [[] for _ in range(top)], []
            return
        stream = make_generator(settings.seed, "nll", "pilot", device=pilot_ND.device)
        levels = self.energies.forward(pilot_ND, stream)
        self.tops = [] if before is None else before.tops
        self._find_top(self.energies.scale[top] * levels[top], stream)
        if before is not None:  # another context of the same prior: the diagnostics are joined
            self.shift, self.inner, self.ess = before.shift, before.inner, before.ess
            self.sides = before.sides
            self.annealed, self.total = before.annealed, before.total
            return
        self.ess, self.sides = [[] for _ in range(top)], []
        if not settings.sandwich:
            proposals = find_proposals(self.energies, levels, settings.inner, stream)
            self.shift, self.inner = proposals
            return
        chosen = [self._choose(t, levels[t + 1][:128], stream) for t in range(top)]
        self.shift = [shift for shift, _ in chosen]
        self.inner = _divided(settings.inner, [ess for _, ess in chosen], self.costs)
        stream = make_generator(settings.seed, "nll", "sides", device=pilot_ND.device)
        few = slice(SIDES)
        self.sides = [
            distance_of_sides(
                self.written[t], t, levels[t + 1][few], self.energies.scale[t] * levels[t][few],
                self.inner[t], stream, self.shift[t], back=self.mixed,
            )
            for t in range(top)
        ]  # fmt: skip

    def _find_top(self, start_ND: Tensor, stream: torch.Generator) -> None:
        """The top normaliser, with the other estimates of it where they are wanted."""
        wanted = self.settings
        sizes = (wanted.top_draws, wanted.top_particles, wanted.top_steps)
        if not wanted.sandwich:
            zero_1D = torch.zeros_like(start_ND[:1])
            self.log_z, _, _ = find_top(self.energies, zero_1D, stream, *sizes)
            return
        energies = self.energies
        if self.mixed is not None:
            zero_1D = torch.zeros_like(start_ND[:1])
            _, ess = plain_normaliser(energies, zero_1D, wanted.top_draws, stream)
            energies = energies if ess >= TRUSTED_ESS else self.mixed
        normaliser = global_normaliser(energies, start_ND, stream, *sizes)
        self.log_z, self.tops = normaliser.log_z, [*self.tops, normaliser]

    @property
    def costs(self) -> list[float]:
        """What a draw of each level costs, next to one of the Gaussian proposal."""
        return [1.0 if energies is self.energies else COST_OF_MIXTURE for energies in self.written]

    def _choose(self, t: int, u_next_ND: Tensor, stream: torch.Generator) -> tuple[float, float]:
        """Chooses the proposal of a level: its shift, and whether it is the mixture's.

        The mixture's is not tried where half of the Gaussian's draws are effective.

        Returns:
            The shift, and the median effective sample size of ``settings.inner`` draws.
        """
        draws = self.settings.inner
        shift, ess = rate_shifts(self.energies, t, u_next_ND, draws, stream)
        if self.mixed is None or ess >= draws / 2:
            return shift, ess
        _, of_mixture = rate_shifts(self.mixed, t, u_next_ND, draws, stream)
        if of_mixture <= ess:
            return shift, ess
        self.written[t] = self.mixed
        return 0.0, of_mixture

    def __call__(self, u0_ND: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(own draws counted, fresh draws only, half of the inner draws), each (N,).

        The log of one term of Yu et al. (2022), eq. A6, by levels; docs/method.md, section 5.1.
        """
        energies = self.energies
        levels = energies.forward(u0_ND, stream)
        top, latent = energies.levels - 1, u0_ND.shape[1]
        # log p(v_{T-1}) + D log c_T: Yu et al. (2022), eq. A1
        v = energies.scale[top] * levels[top]
        common = energies.value(v, top).double() + _gaussian(v, 0.0, energies.variance[top])
        common += latent * math.log(energies.scale[top]) - self.log_z
        own, fresh, half = (torch.zeros_like(common) for _ in range(3))
        for t in range(top):
            # log p(v_t | u_{t+1}) + D log c_{t+1}: Yu et al. (2022), eq. A2
            v, u_next = energies.scale[t] * levels[t], levels[t + 1]
            common += energies.value(v, t).double()
            common += _gaussian(v, energies.factor[t] * u_next, energies.variance[t])
            common += latent * math.log(energies.scale[t])
            # - log q(u_{t+1} | u_t): Yu et al. (2022), eq. 4
            common -= _gaussian(u_next, energies.signal[t] * levels[t], energies.noise[t] ** 2)
            z = importance(self.written[t], t, u_next, self.inner[t], stream, v, self.shift[t])
            self.ess[t].append(z.ess_N)
            own, half = own - z.log_own_N, half - z.log_half_N
            fresh = fresh - self._annealed(t, u_next, z.log_fresh_N, z.ess_N, stream)
        return common + own, common + fresh, common + half

    def _annealed(
        self, t: int, u_next_ND: Tensor, log_z_N: Tensor, ess_N: Tensor, stream: torch.Generator
    ) -> Tensor:
        """Replaces the estimates with the poorest ESS by annealed ones."""
        settings = self.settings
        limit = int(settings.anneal_share * len(ess_N))
        poorest = torch.argsort(ess_N, stable=True)[:limit]
        poorest = poorest[ess_N[poorest] < settings.threshold]
        self.total += len(ess_N)
        if len(poorest) == 0:
            return log_z_N
        self.annealed += len(poorest)
        particles, steps = settings.anneal_particles, settings.anneal_steps
        again, _ = anneal(self.written[t], t, u_next_ND[poorest], particles, steps, stream)
        result = log_z_N.clone()
        result[poorest] = again
        return result
