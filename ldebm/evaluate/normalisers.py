"""Normalising constants of the conditional energies, Z_t of Yu et al. (2022), eq. A2.

docs/method.md, section 5.1; annealed importance sampling: Neal (2001).

Every conditional of a prior has the form exp(F(v, t)) N(v; m, s^2 I) / Z_t(u_{t+1}) with
m = factor_t u_{t+1}, so Z_t is the mean of exp F under a Gaussian. Drawing from that Gaussian is
the base-conditional proposal; moving its mean by ``shift`` s^2 grad F(m) takes the linear part of F
out of the weights and is as valid for any F. Which shift suits a level is tried first.

Two estimates come from the same draws. ``log_fresh`` uses fresh draws alone: unbiased for Z, so its
logarithm is low on average. ``log_own`` also counts the point whose density is wanted among them.
Then exp(F(v)) N(v) / Z_own is, on average, exactly the density of v under the normalised model that
draws M + 1 proposals and keeps one by its weight: however few, draws cannot make a likelihood too
good.

Shapes: N conditions, M draws, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldebm.priors import EnergyPrior
from ldebm.priors.langevin import Target, mala

__all__ = [
    "Conditionals",
    "Normaliser",
    "Sandwich",
    "anneal",
    "anneal_back",
    "choose_shift",
    "conditionals",
    "global_normaliser",
    "importance",
    "plain_normaliser",
    "rate_shifts",
]

SHIFTS = (0.0, 0.5, 1.0)
TRUSTED_ESS = 1000.0  # from which plain Monte Carlo of the top normaliser is used
CHUNK_ROWS = 32768  # network rows a call: keeps an activation of width 128 under 16 MiB


@dataclass(frozen=True)
class Conditionals:
    """The conditionals of a prior as plain functions and tables, one entry a level.

    Attributes:
        value: (v_ND, t) -> F_N over the temperature of level t.
        gradient: the same with its gradient, shape (N, D).
        factor: the kernel's mean is ``factor[t] * u_{t+1}`` (0 at the top).
        variance: the kernel's variance s^2.
        scale: c_{t+1}, v_t = scale[t] u_t.
        signal: a_{t+1} of the forward process (unused at the top).
        noise: sigma_{t+1}.
        abar0: signal of level 0 given the standardised encoder sample.
        sbar0: noise of level 0 (0: the prior models the encoder sample itself).
        step: squared step of the sampler over the kernel's variance.
    """

    value: Callable[[Tensor, int], Tensor]
    gradient: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    factor: tuple[float, ...]
    variance: tuple[float, ...]
    scale: tuple[float, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]
    abar0: float
    sbar0: float
    step: tuple[float, ...]

    @property
    def levels(self) -> int:
        """T."""
        return len(self.factor)

    def forward(self, u0_ND: Tensor, stream: torch.Generator) -> list[Tensor]:
        """u_0..u_{T-1} by the forward process."""
        levels = [u0_ND]
        for t in range(self.levels - 1):
            noise = torch.randn(
                u0_ND.shape, generator=stream, device=u0_ND.device, dtype=u0_ND.dtype
            )
            levels.append(self.signal[t] * levels[t] + self.noise[t] * noise)
        return levels


def conditionals(prior: EnergyPrior, *, of_sampler: bool = True) -> Conditionals:
    """The tables of ``prior``, its network frozen once.

    Args:
        prior: SVEBM (one level) or LDEBM.
        of_sampler: take the temperature that is sampled, else the stated one
            (docs/method.md, section 3.2).
    """
    frozen = prior.net.freeze()
    inverse_temperature = [1.0 / float(t) for t in prior.temperature_T(of_sampler=of_sampler)]
    factor, variance = (tuple(map(float, table)) for table in prior.kernel_tables())
    table, abar0, sbar0 = prior.schedule, 1.0, 0.0
    signal, noise, scale = (tuple(map(float, x[1:])) for x in (table.a, table.sigma, table.scale))
    if prior.config.level_noise:
        abar0, sbar0 = float(table.abar[0]), float(table.sbar[0])

    @torch.no_grad()
    def value(v_ND: Tensor, t: int) -> Tensor:
        return frozen.value(v_ND, t) * inverse_temperature[t]

    @torch.no_grad()
    def gradient(v_ND: Tensor, t: int) -> tuple[Tensor, Tensor]:
        value_N, gradient_ND = frozen.value_and_gradient(v_ND, t)
        return value_N * inverse_temperature[t], gradient_ND * inverse_temperature[t]

    steps = prior.step2_T() / prior.kernel_tables()[1]
    step = tuple(min(float(s), 1.0) for s in steps)
    return Conditionals(value, gradient, factor, variance, scale, signal, noise, abar0, sbar0, step)


@dataclass(frozen=True)
class Normaliser:
    """Estimates of log Z for N conditions.

    Attributes:
        log_fresh_N: from the fresh draws; low on average.
        log_own_N: with the given point among the draws (equal to ``log_fresh_N`` without one).
        log_half_N: ``log_own_N`` from half of the fresh draws.
        ess_N: effective number of the fresh draws.
    """

    log_fresh_N: Tensor
    log_own_N: Tensor
    log_half_N: Tensor
    ess_N: Tensor


@torch.no_grad()
def importance(
    energies: Conditionals,
    t: int,
    u_next_ND: Tensor,
    draws: int,
    generator: torch.Generator,
    own_ND: Tensor | None = None,
    shift: float = 0.0,
) -> Normaliser:
    """log Z_t(u_{t+1}) by importance sampling, in chunks.

    Args:
        energies: the prior's conditionals.
        t: level.
        u_next_ND: conditions u_{t+1} (ignored at the top, where all Z are the same number).
        draws: M, even.
        generator: source of the draws.
        own_ND: v_t whose density is wanted.
        shift: share of s^2 grad F(m) added to the proposal's mean.
    """
    rows = max(1, CHUNK_ROWS // (draws + 1))
    parts = [
        _importance(
            energies, t, u_next_ND[i : i + rows], draws, generator,
            None if own_ND is None else own_ND[i : i + rows], shift,
        )
        for i in range(0, len(u_next_ND), rows)
    ]  # fmt: skip
    return Normaliser(
        torch.cat([part.log_fresh_N for part in parts]),
        torch.cat([part.log_own_N for part in parts]),
        torch.cat([part.log_half_N for part in parts]),
        torch.cat([part.ess_N for part in parts]),
    )


def _importance(
    energies: Conditionals,
    t: int,
    u_next_ND: Tensor,
    draws: int,
    generator: torch.Generator,
    own_ND: Tensor | None,
    shift: float,
) -> Normaliser:
    n, latent = u_next_ND.shape
    spread = math.sqrt(energies.variance[t])
    mean_ND = energies.factor[t] * u_next_ND
    noise_NMD = torch.randn(
        n, draws, latent, generator=generator, device=mean_ND.device, dtype=mean_ND.dtype
    )
    # With g = shift s grad F(m) the proposal is m + s (noise + g), and
    # log N(v; m, s^2) - log proposal = -g . noise - |g|^2 / 2.
    g_ND = torch.zeros_like(mean_ND)
    if shift:
        g_ND = shift * spread * energies.gradient(mean_ND, t)[1]
    v_NMD = torch.add(g_ND.unsqueeze(1), noise_NMD).mul_(spread).add_(mean_ND.unsqueeze(1))
    weight = energies.value(v_NMD.reshape(-1, latent), t).reshape(n, draws).double()
    if shift:
        weight -= torch.einsum("nmd,nd->nm", noise_NMD, g_ND).double()
        weight -= 0.5 * g_ND.square().sum(-1, keepdim=True).double()
    total_N = torch.logsumexp(weight, 1)
    half_N = torch.logsumexp(weight[:, : draws // 2], 1)
    ess_N = torch.exp(2 * total_N - torch.logsumexp(2 * weight, 1))
    # Z_t of Yu et al. (2022), eq. A2, over the kernel's: the mean of exp F under the kernel
    fresh_N = total_N - math.log(draws)
    if own_ND is None:
        return Normaliser(fresh_N, fresh_N, half_N - math.log(draws // 2), ess_N)
    residual_ND = (own_ND - mean_ND) / spread
    own_N = energies.value(own_ND, t).double()
    own_N += (0.5 * g_ND.square().sum(-1) - (g_ND * residual_ND).sum(-1)).double()
    with_own_N = torch.logaddexp(total_N, own_N) - math.log(draws + 1)
    half_own_N = torch.logaddexp(half_N, own_N) - math.log(draws // 2 + 1)
    return Normaliser(fresh_N, with_own_N, half_own_N, ess_N)


def choose_shift(
    energies: Conditionals, t: int, u_next_ND: Tensor, draws: int, generator: torch.Generator
) -> float:
    """The shift of the proposal with the largest median effective sample size."""
    return rate_shifts(energies, t, u_next_ND, draws, generator)[0]


def rate_shifts(
    energies: Conditionals, t: int, u_next_ND: Tensor, draws: int, generator: torch.Generator
) -> tuple[float, float]:
    """The shift of :func:`choose_shift`, and its median effective sample size."""
    medians = [
        float(importance(energies, t, u_next_ND, draws, generator, shift=shift).ess_N.median())
        for shift in SHIFTS
    ]
    best = medians.index(max(medians))
    return SHIFTS[best], medians[best]


def _tempered(energies: Conditionals, t: int, mean_ND: Tensor, beta: float) -> Target:
    variance = energies.variance[t]

    def target(v_ND: Tensor) -> tuple[Tensor, Tensor]:
        value_N, gradient_ND = energies.gradient(v_ND, t)
        scaled = (v_ND - mean_ND) / variance
        return beta * value_N - 0.5 * ((v_ND - mean_ND) * scaled).sum(
            -1
        ), beta * gradient_ND - scaled

    return target


@torch.no_grad()
def anneal(
    energies: Conditionals,
    t: int,
    u_next_ND: Tensor,
    particles: int,
    steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Forward annealed importance sampling from the kernel to the conditional.

    Returns:
        log Z (N,), low on average, and the effective number of particles (N,).
    """
    mean_PD = (energies.factor[t] * u_next_ND).repeat_interleave(particles, 0)
    noise_PD = torch.randn(
        mean_PD.shape, generator=generator, device=mean_PD.device, dtype=mean_PD.dtype
    )
    v_PD = mean_PD + math.sqrt(energies.variance[t]) * noise_PD
    step2 = mean_PD.new_tensor(energies.step[t] * energies.variance[t])
    weight_P = torch.zeros(len(v_PD), dtype=torch.float64, device=v_PD.device)
    for k in range(steps):
        weight_P += energies.value(v_PD, t).double() / steps
        if k < steps - 1:
            target = _tempered(energies, t, mean_PD, (k + 1) / steps)
            v_PD = mala(target, v_PD, step2, 1, generator).x_BD
    weight_NP = weight_P.reshape(-1, particles)
    total_N = torch.logsumexp(weight_NP, 1)
    ess_N = torch.exp(2 * total_N - torch.logsumexp(2 * weight_NP, 1))
    return total_N - math.log(particles), ess_N


@torch.no_grad()
def anneal_back(
    energies: Conditionals, t: int, v_ND: Tensor, steps: int, generator: torch.Generator
) -> float:
    """Reverse annealing from draws of the conditional with mean 0 (the top level, or SVEBM).

    Returns:
        log Z, high on average where ``v_ND`` are draws of the density itself.
    """
    mean_ND = torch.zeros_like(v_ND)
    step2 = mean_ND.new_tensor(energies.step[t] * energies.variance[t])
    weight_N = torch.zeros(len(v_ND), dtype=torch.float64, device=v_ND.device)
    for k in reversed(range(steps)):
        weight_N += energies.value(v_ND, t).double() / steps
        if k:
            target = _tempered(energies, t, mean_ND, k / steps)
            v_ND = mala(target, v_ND, step2, 1, generator).x_BD
    return -float(torch.logsumexp(-weight_N, 0) - math.log(len(weight_N)))


@dataclass(frozen=True)
class Sandwich:
    """The one normaliser of the top level (or of SVEBM), estimated in three ways.

    Attributes:
        log_z: the estimate used: plain Monte Carlo where its ESS allows, else forward annealing.
        plain: plain Monte Carlo from the kernel.
        plain_ess: its effective sample size.
        forward: forward annealing, low on average.
        reverse: reverse annealing from long chains started at encoder samples, high on average.
    """

    log_z: float
    plain: float
    plain_ess: float
    forward: float
    reverse: float


@torch.no_grad()
def plain_normaliser(
    energies: Conditionals, zero_1D: Tensor, draws: int, generator: torch.Generator
) -> tuple[float, float]:
    """log Z of the top level by plain Monte Carlo from its kernel, and the effective sample size.

    Args:
        energies: the prior's conditionals.
        zero_1D: the condition of the top level.
        draws: how many.
        generator: source of all noise.
    """
    # One condition with many draws, in pieces that fit the chunk.
    t, pieces = energies.levels - 1, max(1, draws // CHUNK_ROWS)
    plain = importance(energies, t, zero_1D.expand(pieces, -1), draws // pieces, generator)
    log_sizes = plain.log_fresh_N
    log_plain = float(torch.logsumexp(log_sizes, 0) - math.log(pieces))
    squares = torch.logsumexp(2 * log_sizes - plain.ess_N.log(), 0)
    return log_plain, float(torch.exp(2 * torch.logsumexp(log_sizes, 0) - squares))


@torch.no_grad()
def global_normaliser(
    energies: Conditionals,
    start_ND: Tensor,
    generator: torch.Generator,
    draws: int = 65536,
    particles: int = 512,
    steps: int = 100,
    trusted_ess: float = TRUSTED_ESS,
) -> Sandwich:
    """log Z of the top level with its sandwich.

    Args:
        energies: the prior's conditionals.
        start_ND: v_{T-1} of encoder samples, the starts of the long chains.
        generator: source of all noise.
        draws: plain Monte Carlo draws.
        particles: of both annealed estimates.
        steps: temperatures of the annealing, and twice as many moves of the long chains.
        trusted_ess: plain Monte Carlo is used from this effective sample size on.
    """
    t = energies.levels - 1
    zero_1D = torch.zeros_like(start_ND[:1])
    log_plain, ess = plain_normaliser(energies, zero_1D, draws, generator)
    forward = float(anneal(energies, t, zero_1D, particles, steps, generator)[0])
    index = torch.arange(particles, device=start_ND.device) % len(start_ND)
    start = start_ND[index]
    step2 = start.new_tensor(energies.step[t] * energies.variance[t])
    target = _tempered(energies, t, torch.zeros_like(start), 1.0)
    equilibrium = mala(target, start, step2, 2 * steps, generator).x_BD
    reverse = anneal_back(energies, t, equilibrium, steps, generator)
    return Sandwich(log_plain if ess >= trusted_ess else forward, log_plain, ess, forward, reverse)
