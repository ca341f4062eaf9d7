"""Annealed importance sampling between a conditional without its energies and the conditional.

Neal (2001); docs/method.md, section 5.1.

Shapes: N conditions, D latent dimension, P particles of all conditions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldebm.priors.conditionals import Conditionals
from ldebm.priors.langevin import Target, mala

__all__ = ["anneal", "anneal_back", "equilibrium", "tempered"]


def tempered(energies: Conditionals, t: int, mean_ND: Tensor, beta: float) -> Target:
    variance = energies.variance[t]

    def target(v_ND: Tensor) -> tuple[Tensor, Tensor]:
        value_N, gradient_ND = energies.gradient(v_ND, t)
        scaled = (v_ND - mean_ND) / variance
        value_N = beta * value_N - 0.5 * ((v_ND - mean_ND) * scaled).sum(-1)
        gradient_ND = beta * gradient_ND - scaled
        if energies.base is None:
            return value_N, gradient_ND
        ratio_N, slope_ND = energies.base.ratio_and_gradient(v_ND, t)
        return value_N + (1 - beta) * ratio_N, gradient_ND + (1 - beta) * slope_ND

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
    v_PD = energies.reference_draws(u_next_ND, t, particles, generator)
    step2 = mean_PD.new_tensor(energies.step[t] * energies.variance[t])
    weight_P = torch.zeros(len(v_PD), dtype=torch.float64, device=v_PD.device)
    for k in range(steps):
        weight_P += energies.energy(v_PD, t).double() / steps
        if k < steps - 1:
            target = tempered(energies, t, mean_PD, (k + 1) / steps)
            v_PD = mala(target, v_PD, step2, 1, generator).x_BD
    weight_NP = weight_P.reshape(-1, particles)
    total_N = torch.logsumexp(weight_NP, 1)
    ess_N = torch.exp(2 * total_N - torch.logsumexp(2 * weight_NP, 1))
    return total_N - math.log(particles) + energies.log_reference(u_next_ND, t).double(), ess_N


@torch.no_grad()
def anneal_back(
    energies: Conditionals,
    t: int,
    u_next_ND: Tensor,
    v_PD: Tensor,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Reverse annealing from draws of the conditionals to the conditionals without energies.

    Args:
        energies: the prior's conditionals.
        t: level.
        u_next_ND: conditions u_{t+1} (at the top one row of zeros).
        v_PD: draws of each condition, those of one behind those of another, as many of each.
        steps: temperatures.
        generator: source of the noise.

    Returns:
        log Z (N,), high on average where ``v_PD`` are draws of the density itself.
    """
    n = len(u_next_ND)
    mean_PD = (energies.factor[t] * u_next_ND).repeat_interleave(len(v_PD) // n, 0)
    step2 = mean_PD.new_tensor(energies.step[t] * energies.variance[t])
    weight_P = torch.zeros(len(v_PD), dtype=torch.float64, device=v_PD.device)
    for k in reversed(range(steps)):
        weight_P += energies.energy(v_PD, t).double() / steps
        if k:
            target = tempered(energies, t, mean_PD, k / steps)
            v_PD = mala(target, v_PD, step2, 1, generator).x_BD
    weight_NP = weight_P.view(n, -1)
    inverse_N = torch.logsumexp(-weight_NP, 1) - math.log(weight_NP.shape[1])
    return energies.log_reference(u_next_ND, t).double() - inverse_N


@torch.no_grad()
def equilibrium(
    energies: Conditionals, t: int, u_next_ND: Tensor, start_PD: Tensor, moves: int,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """The ends of long chains of the conditionals, (P, D); arguments as :func:`anneal_back`."""
    mean_PD = (energies.factor[t] * u_next_ND).repeat_interleave(len(start_PD) // len(u_next_ND), 0)
    step2 = mean_PD.new_tensor(energies.step[t] * energies.variance[t])
    return mala(tempered(energies, t, mean_PD, 1.0), start_PD, step2, moves, generator).x_BD
