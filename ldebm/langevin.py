"""Langevin dynamics as pure functions with an explicit generator.

``ula`` is the unadjusted chain of the papers (LDEBM eq. A2; MR 2.4); ``mala`` accepts or rejects
each move by Metropolis-Hastings, so that the chain's stationary density is exactly the one given.

Shapes: B chains, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Chain", "Target", "mala", "ula"]

Target = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps x_BD to (log density up to a constant per row, shape B; its gradient, shape B D)."""


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
    target: Target, start_BD: Tensor, step2: Tensor, steps: int, generator: torch.Generator | None
) -> Chain:
    """Unadjusted Langevin: ``x <- x + s^2/2 grad + s e``.

    Args:
        target: log density and gradient.
        start_BD: initial states.
        step2: squared step size s^2 in units of x^2, shape () or (B, 1).
        steps: number of moves.
        generator: source of the noise (``None``: the default one, as CUDA graphs need).
    """
    x = start_BD
    size = step2.sqrt()
    for _ in range(steps):
        _, gradient = target(x)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = x + 0.5 * step2 * gradient + size * noise
    return Chain(x, torch.ones(len(x), device=x.device, dtype=x.dtype))


def mala(
    target: Target, start_BD: Tensor, step2: Tensor, steps: int, generator: torch.Generator | None
) -> Chain:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996); arguments as :func:`ula`.

    One evaluation of ``target`` a move: the gradient at the proposal is that of the next state.
    A proposal with a non-finite density is rejected.
    """
    x = start_BD
    size = step2.sqrt()
    log_density, gradient = target(x)
    accepted = torch.zeros_like(log_density)
    for _ in range(steps):
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        uniform = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        proposal = x + 0.5 * step2 * gradient + size * noise
        new_log_density, new_gradient = target(proposal)
        backward = (x - proposal - 0.5 * step2 * new_gradient) / size
        log_ratio = (
            new_log_density - log_density + 0.5 * (noise.square() - backward.square()).sum(-1)
        )
        accept_B = uniform.log() < log_ratio
        accept = accept_B.unsqueeze(-1)
        x = torch.where(accept, proposal, x)
        gradient = torch.where(accept, new_gradient, gradient)
        log_density = torch.where(accept_B, new_log_density, log_density)
        accepted = accepted + accept_B
    return Chain(x, accepted / steps)
