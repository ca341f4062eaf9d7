"""Normalising constants of the conditional energies, Z_t of Yu et al. (2022), eq. A2.

docs/method.md, section 5.1; annealed importance sampling: Neal (2001).

Every conditional of a prior has the form exp(F(v, t)) N(v; m, s^2 I) / Z_t(u_{t+1}) with
m = factor_t u_{t+1}, so Z_t is the mean of exp F under a Gaussian. Drawing from that Gaussian is
the base-conditional proposal; moving its mean by ``shift`` s^2 grad F(m) takes the linear part of F
out of the weights and is as valid for any F. Which shift suits a level is tried first.

Two estimates come from the same draws. ``log_fresh`` uses fresh draws alone: unbiased for Z, so its
logarithm is low on average. ``log_own`` also counts the point whose density is wanted among them.
Then exp(F(v)) N(v) / Z_own is, on average, exactly the density of v under the normalised model that
draws M + 1 proposals and keeps one by its weight. That model is not the prior: where the draws
miss what F favours, both logarithms are too low, and the likelihood is too good. Reverse annealing
from chains bounds log Z from the other side (``distance_of_sides``).

Shapes: N conditions, M draws, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldebm.priors.annealing import anneal, anneal_back, equilibrium
from ldebm.priors.conditionals import Conditionals

__all__ = [
    "Normaliser",
    "Sandwich",
    "choose_shift",
    "distance_of_sides",
    "global_normaliser",
    "importance",
    "plain_normaliser",
    "rate_shifts",
]

SHIFTS = (0.0, 0.5, 1.0)
TRUSTED_ESS = 1000.0  # from which plain Monte Carlo of the top normaliser is used
CHUNK_ROWS = 32768  # network rows a call: keeps an activation of width 128 under 16 MiB


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
    if energies.base is not None:
        return _importance_of_base(energies, t, u_next_ND, draws, generator, own_ND)
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
    own_N = None
    if own_ND is not None:
        residual_ND = (own_ND - mean_ND) / spread
        own_N = energies.value(own_ND, t).double()
        own_N += (0.5 * g_ND.square().sum(-1) - (g_ND * residual_ND).sum(-1)).double()
    # Z_t of Yu et al. (2022), eq. A2, over the kernel's: the mean of exp F under the kernel
    return _normaliser(weight, own_N)


def _importance_of_base(
    energies: Conditionals,
    t: int,
    u_next_ND: Tensor,
    draws: int,
    generator: torch.Generator,
    own_ND: Tensor | None,
) -> Normaliser:
    """The same with draws of the base measure's reverse conditional, weighted by exp F alone."""
    v_PD = energies.reference_draws(u_next_ND, t, draws, generator)
    weight = energies.energy(v_PD, t).reshape(-1, draws).double()
    base_N = energies.log_reference(u_next_ND, t).double()
    own_N = None if own_ND is None else energies.energy(own_ND, t).double() + base_N
    return _normaliser(weight + base_N[:, None], own_N)


def _normaliser(weight_NM: Tensor, own_N: Tensor | None) -> Normaliser:
    """The estimates from the log weights of the draws, and of the own point where there is one."""
    draws = weight_NM.shape[1]
    total_N = torch.logsumexp(weight_NM, 1)
    half_N = torch.logsumexp(weight_NM[:, : draws // 2], 1)
    ess_N = torch.exp(2 * total_N - torch.logsumexp(2 * weight_NM, 1))
    fresh_N = total_N - math.log(draws)
    if own_N is None:
        return Normaliser(fresh_N, fresh_N, half_N - math.log(draws // 2), ess_N)
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
    shifts = SHIFTS if energies.base is None else SHIFTS[:1]
    medians = [
        float(importance(energies, t, u_next_ND, draws, generator, shift=shift).ess_N.median())
        for shift in shifts
    ]
    best = medians.index(max(medians))
    return shifts[best], medians[best]


@dataclass(frozen=True)
class Sandwich:
    """The one normaliser of the top level (or of SVEBM), estimated in three ways.

    Attributes:
        log_z: the estimate used: plain Monte Carlo where its ESS allows, else forward annealing.
        plain: plain Monte Carlo from the kernel, or from the mixture that is tilted.
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
    ends = equilibrium(energies, t, zero_1D, start_ND[index], 2 * steps, generator)
    reverse = float(anneal_back(energies, t, zero_1D, ends, steps, generator))
    return Sandwich(log_plain if ess >= trusted_ess else forward, log_plain, ess, forward, reverse)


@torch.no_grad()
def distance_of_sides(
    energies: Conditionals,
    t: int,
    u_next_ND: Tensor,
    own_ND: Tensor,
    draws: int,
    generator: torch.Generator,
    shift: float = 0.0,
    particles: int = 8,
    steps: int = 50,
    back: Conditionals | None = None,
) -> float:
    """How far reverse annealing is above :attr:`Normaliser.log_fresh_N`, nats, mean.

    Fresh draws are low on average: where they miss what the energies favour, log Z is too low and
    the likelihood too good. Reverse annealing is high on average. It starts at the ends of long
    chains, some of which began at ``own_ND`` and some at draws of the conditional without energies:
    where the two disagree, the chains do not mix, and the larger counts.

    Args:
        energies: the prior's conditionals.
        t: level below the top.
        u_next_ND: conditions u_{t+1}.
        own_ND: v_t of each.
        draws: M, fresh.
        generator: source of all noise.
        shift: of its proposal.
        particles: chains of each condition and beginning.
        steps: temperatures, and half the moves of the chains before.
        back: the same conditionals as tilts of a mixture, to which the annealing then goes: it is
            nearer than the kernel.
    """
    back = back or energies
    low_N = importance(energies, t, u_next_ND, draws, generator, shift=shift).log_fresh_N
    begins = (
        own_ND.repeat_interleave(particles, 0),
        back.reference_draws(u_next_ND, t, particles, generator),
    )
    high = []
    for start_PD in begins:
        ends_PD = equilibrium(back, t, u_next_ND, start_PD, 2 * steps, generator)
        high.append(anneal_back(back, t, u_next_ND, ends_PD, steps, generator))
    return float((torch.maximum(*high) - low_N).mean())
