"""Langevin dynamics as pure functions with an explicit generator.

``ula`` is the unadjusted chain of the papers (Pang and Wu (2021), eq. 7; Cui and Han (2024), eq. 3;
docs/method.md, section 3.1); ``mala`` and ``pcnl`` accept or reject each move by
Metropolis-Hastings, so that the chain's stationary density is exactly the one given. ``pcnl`` knows
the Gaussian factor of the density and leaves that exactly invariant: its step is limited by the
energy alone, not by the number of dimensions.

Shapes: B chains, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldebm.draws import Stream, normal, uniform

__all__ = [
    "Chain",
    "Conditional",
    "Evaluate",
    "Noise",
    "Target",
    "draw_noise",
    "mala",
    "pcnl",
    "ula",
]

Target = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps x_BD to (log density up to a constant per row, shape B; its gradient, shape B D)."""


Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps (x_BD, level of each row) to (F, dF/dx)."""


@dataclass(frozen=True)
class Conditional:
    """Chains of p(x) proportional to exp(beta F(x, t)) N(x; mean, variance I), one per row.

    The conditional EBMs of Yu et al. (2022), eq. A2, and Cui and Han (2024), eq. 9.

    Attributes:
        start_BD: initial states.
        mean_BD: of the Gaussian factor.
        variance_B1: of the Gaussian factor.
        inverse_temperature_B1: what F is multiplied by.
        step2_B1: squared step sizes.
        t_B: level of each row.
    """

    start_BD: Tensor
    mean_BD: Tensor
    variance_B1: Tensor
    inverse_temperature_B1: Tensor
    step2_B1: Tensor
    t_B: Tensor

    def target(self, evaluate: Evaluate) -> Target:
        """The log density up to a constant, and its gradient, for F from ``evaluate``."""

        def log_density(x_BD: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = evaluate(x_BD, self.t_B)
            residual = (x_BD - self.mean_BD) / self.variance_B1
            log_kernel = -0.5 * ((x_BD - self.mean_BD) * residual).sum(-1)
            # the score: Pang and Wu (2021), eq. 8; Cui and Han (2024), eq. 13
            return value * self.inverse_temperature_B1.squeeze(
                -1
            ) + log_kernel, gradient * self.inverse_temperature_B1 - residual

        return log_density

    def run(
        self,
        method: str,
        evaluate: Evaluate,
        steps: int,
        generator: Stream | None,
        noise: Noise | None = None,
    ) -> Chain:
        """The chains by ``method``: mala, pcnl or ula."""
        target, start = self.target(evaluate), self.start_BD
        if method == "pcnl":
            kernel = self.mean_BD, self.variance_B1
            return pcnl(target, start, kernel, self.step2_B1, steps, generator, noise)
        move = mala if method == "mala" else ula
        return move(target, start, self.step2_B1, steps, generator, noise)


@dataclass(frozen=True)
class Noise:
    """The draws of a whole chain, made beforehand.

    Attributes:
        normal_SBD: of every step.
        uniform_SB: of every step, for the acceptance.
    """

    normal_SBD: Tensor
    uniform_SB: Tensor


def draw_noise(like_BD: Tensor, steps: int, generator: torch.Generator | None) -> Noise:
    """What ``steps`` moves of states like ``like_BD`` need."""
    shape, device, dtype = (steps, *like_BD.shape), like_BD.device, like_BD.dtype
    return Noise(
        torch.randn(shape, generator=generator, device=device, dtype=dtype),
        torch.rand(shape[:2], generator=generator, device=device, dtype=dtype),
    )


@dataclass(frozen=True)
class Chain:
    """Where the chains ended.

    Attributes:
        x_BD: final states.
        acceptance_B: share of accepted moves per chain (1 for the unadjusted sampler).
    """

    x_BD: Tensor
    acceptance_B: Tensor


def ula(
    target: Target,
    start_BD: Tensor,
    step2: Tensor,
    steps: int,
    generator: Stream | None,
    noise: Noise | None = None,
) -> Chain:
    """Unadjusted Langevin: ``x <- x + s^2/2 grad + s e``.

    Args:
        target: log density and gradient.
        start_BD: initial states.
        step2: squared step size s^2 in units of x^2, shape () or (B, 1).
        steps: number of moves.
        generator: source of the noise (``None``: the default one).
        noise: draws made beforehand, as CUDA graphs need; ``generator`` is then unused.
    """
    x = start_BD
    size = step2.sqrt()
    for step in range(steps):
        _, gradient = target(x)
        drawn = _normal(x, generator) if noise is None else noise.normal_SBD[step]
        # Pang and Wu (2021), eq. 7, with s^2 / 2 for the paper's step
        x = x + 0.5 * step2 * gradient + size * drawn
    return Chain(x, torch.ones(len(x), device=x.device, dtype=x.dtype))


def mala(
    target: Target,
    start_BD: Tensor,
    step2: Tensor,
    steps: int,
    generator: Stream | None,
    noise: Noise | None = None,
) -> Chain:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996); arguments as :func:`ula`.

    One evaluation of ``target`` a move: the gradient at the proposal is that of the next state.
    A proposal with a non-finite density is rejected.
    """

    def drift(x: Tensor, gradient: Tensor) -> Tensor:
        return x + 0.5 * step2 * gradient

    def residual(x: Tensor, proposal: Tensor, gradient: Tensor) -> Tensor:
        return x - proposal - 0.5 * step2 * gradient

    return _adjusted(target, start_BD, (drift, residual), step2.sqrt(), steps, generator, noise)


def pcnl(
    target: Target,
    start_BD: Tensor,
    kernel: tuple[Tensor, Tensor],
    step2: Tensor,
    steps: int,
    generator: Stream | None,
    noise: Noise | None = None,
) -> Chain:
    """Preconditioned Crank-Nicolson Langevin (Cotter et al. 2013), Metropolis-adjusted.

    For p(x) proportional to exp(E(x)) N(x; m, v I), with k = sqrt(1 - s^2 / v):
    ``x <- m + k (x - m) + (1 - k) v grad E + s e``. Without E every move is accepted, and at
    s^2 = v the states are independent.

    Args:
        target: log density, Gaussian factor included, and gradient.
        start_BD: initial states.
        kernel: m (B, D) and v (B, 1).
        step2: squared step size s^2, at most v; shape (B, 1).
        steps: number of moves.
        generator: source of the noise (``None``: the default one).
        noise: draws made beforehand, as CUDA graphs need; ``generator`` is then unused.
    """
    mean, variance = kernel
    signal = (1 - step2 / variance).clamp(min=0).sqrt()

    def drift(x: Tensor, gradient: Tensor) -> Tensor:
        centred = x - mean
        return mean + signal * centred + (1 - signal) * (variance * gradient + centred)

    def residual(x: Tensor, proposal: Tensor, gradient: Tensor) -> Tensor:
        return x - drift(proposal, gradient)

    return _adjusted(target, start_BD, (drift, residual), step2.sqrt(), steps, generator, noise)


Drift = Callable[[Tensor, Tensor], Tensor]
"""(state, gradient there) to the mean of the proposal."""

Residual = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, state, gradient there): x less the mean of the proposal."""


def _adjusted(
    target: Target,
    x: Tensor,
    proposal_of: tuple[Drift, Residual],
    size: Tensor,
    steps: int,
    generator: Stream | None,
    noise: Noise | None,
) -> Chain:
    """Metropolis-Hastings with proposals N(drift(x, gradient), size^2 I)."""
    drift, residual = proposal_of
    log_density, gradient = target(x)
    accepted = torch.zeros_like(log_density)
    for step in range(steps):
        if noise is None:
            e, u = _normal(x, generator), uniform(len(x), generator, x.device, x.dtype)
        else:
            e, u = noise.normal_SBD[step], noise.uniform_SB[step]
        proposal = drift(x, gradient) + size * e
        new_log_density, new_gradient = target(proposal)
        backward = residual(x, proposal, new_gradient) / size
        log_ratio = new_log_density - log_density + 0.5 * (e.square() - backward.square()).sum(-1)
        accept_B = u.log() < log_ratio
        accept = accept_B.unsqueeze(-1)
        x = torch.where(accept, proposal, x)
        gradient = torch.where(accept, new_gradient, gradient)
        log_density = torch.where(accept_B, new_log_density, log_density)
        accepted = accepted + accept_B
    return Chain(x, accepted / steps)


def _normal(x: Tensor, generator: Stream | None) -> Tensor:
    return normal(tuple(x.shape), generator, x.device, x.dtype)
