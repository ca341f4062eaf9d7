"""The estimators behind the published NLL columns: to be compared with, not a likelihood.

docs/method.md, section 5.2.

SVEBM normalises its importance weights by themselves, so the divergence of the encoder from the
prior cancels: the result lies between the smallest and largest -log p(x|z_i) whatever the prior is.
LDEBM divides by one scalar for the whole batch that is no condition's normaliser, leaves out the
Jacobian of the scaled variable, and draws the levels independently of each other.

Shapes: B rows, S draws of a block, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.evaluate.likelihood import reconstruction
from ldebm.priors import Prior
from ldebm.priors.conditionals import Conditionals, conditionals
from ldebm.priors.schedule import Schedule
from ldebm.seeding import generator as make_generator

__all__ = ["nll_legacy"]

BLOCKS, BLOCK = 5, 100
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@torch.no_grad()
def nll_legacy(backbone: Any, prior: Prior, batches: Iterable[Any], seed: int = 0) -> np.ndarray:
    """The published estimate for every row: 5 blocks of 100 draws, averaged as probabilities.

    A row whose estimate underflows or is not a number counts as 0 nats, as published. For a prior
    without energies this is the ordinary importance-weighted estimate, which is valid.

    Args:
        backbone: encoder and decoder.
        prior: SVEBM or LDEBM.
        batches: what the backbone encodes, a few rows each.
        seed: of all draws.
    """
    backbone.eval()
    results = []
    for index, batch in enumerate(batches):
        mu, logvar = backbone.encode(batch)
        stream = make_generator(seed, "nll-legacy", index, device=mu.device)
        blocks = []
        for _ in range(BLOCKS):
            shape = (BLOCK, *mu.shape)
            noise = torch.randn(shape, generator=stream, device=mu.device, dtype=mu.dtype)
            z_SBD = mu + torch.exp(0.5 * logvar) * noise
            log_x_SB = -reconstruction(backbone, batch, z_SBD)
            blocks.append(_block(prior, log_x_SB, z_SBD, mu, logvar, stream))
        log_p_B = torch.logsumexp(torch.stack(blocks), 0) - math.log(BLOCKS)
        results.append(torch.nan_to_num(-log_p_B, nan=0.0, posinf=0.0, neginf=0.0).cpu().numpy())
    return np.concatenate(results)


def _block(
    prior: Prior,
    log_x_SB: Tensor,
    z_SBD: Tensor,
    mu_BD: Tensor,
    logvar_BD: Tensor,
    stream: torch.Generator,
) -> Tensor:
    """log of the published estimate of p(x), shape (B,)."""
    log_q_SB = _normal(z_SBD, mu_BD, logvar_BD)
    ebm, u_SBD = prior.energies, prior.to_standard(z_SBD)
    if ebm is not None and ebm.levels > 1:
        energies = conditionals(ebm, of_sampler=False)
        log_p_SB = _published_bound(ebm.schedule, energies, u_SBD, stream, base=ebm.config.base)
        log_p_SB = log_p_SB - prior.log_det().double()
        return _log_mean(log_x_SB + log_p_SB - log_q_SB)
    if ebm is not None:
        energy = conditionals(ebm).value(u_SBD.reshape(-1, u_SBD.shape[-1]), 0)
        zero = torch.zeros_like(mu_BD)
        # The published code wrote the Gaussian with a misplaced parenthesis.
        weight_SB = energy.reshape(log_x_SB.shape).double() + _misplaced(u_SBD, zero, zero)
        weight_SB = weight_SB - _misplaced(z_SBD, mu_BD, logvar_BD)
        return _log_mean(log_x_SB + weight_SB) - _log_mean(weight_SB)
    zero = torch.zeros_like(mu_BD)
    log_p_SB = _normal(u_SBD, zero, zero) - prior.log_det().double()
    return _log_mean(log_x_SB + log_p_SB - log_q_SB)


def _published_bound(
    schedule: Schedule,
    energies: Conditionals,
    u_SBD: Tensor,
    stream: torch.Generator,
    *,
    base: bool,
) -> Tensor:
    """The published bound on log p(u), shape (S, B), level by level.

    u_t is drawn from q(u_t|u) for every t, independently of u_{t-1}, yet both terms of the pair are
    evaluated on it; the scalar Zhat uses draws u'_t of q(u_t|u_{t-1}) and q(u_{t-1}|u).
    """
    latent = u_SBD.shape[-1]
    total = torch.zeros(u_SBD.shape[:2], dtype=torch.float64, device=u_SBD.device)

    def noise() -> Tensor:
        return torch.randn(u_SBD.shape, generator=stream, device=u_SBD.device, dtype=u_SBD.dtype)

    def gaussian(x: Tensor, mean: Tensor, spread: float) -> Tensor:
        squared = ((x - mean) / spread).double().square().sum(-1)
        return -0.5 * squared - latent * (HALF_LOG_2PI + math.log(spread))

    def unnormalised(u_before: Tensor, u_next: Tensor, t: int) -> Tensor:
        v = energies.scale[t] * u_before
        value = energies.value(v.reshape(-1, latent), t).double().reshape(total.shape)
        residual = (v - energies.factor[t] * u_next).double().square().sum(-1) / energies.variance[
            t
        ]
        # With the base energy inside F, the recovery kernel leaves |u_{t+1}|^2 / 2 outside.
        rest = u_next.double().square().sum(-1) if base and t < energies.levels - 1 else 0.0
        return value - 0.5 * (residual + rest)

    u_before = schedule.abar[0] * u_SBD + schedule.sbar[0] * noise()
    for t in range(energies.levels):
        signal, spread = float(schedule.a[t + 1]), float(schedule.sigma[t + 1])
        u_next = schedule.abar[t + 1] * u_SBD + schedule.sbar[t + 1] * noise()
        redrawn = signal * u_before + spread * noise()
        density = gaussian(u_before, float(schedule.abar[t]) * u_SBD, float(schedule.sbar[t]))
        log_z = _log_mean((unnormalised(u_before, redrawn, t) - density).reshape(-1, 1))
        total += unnormalised(u_before, u_next, t) - log_z
        total -= gaussian(u_next, signal * u_before, spread)
        u_before = u_next
    return total + gaussian(u_before, torch.zeros_like(u_before), 1.0)


def _log_mean(weight_SB: Tensor) -> Tensor:
    return torch.logsumexp(weight_SB, 0) - math.log(len(weight_SB))


def _normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mean, diag exp logvar), float64."""
    squared = (z - mean).double().square() / logvar.double().exp()
    return -0.5 * (squared + logvar.double() + 2 * HALF_LOG_2PI).sum(-1)


def _misplaced(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """-(z - m)^2 / (2 e^l - l/2 - log(2 pi)/2), summed: what the published code computes."""
    width = 2 * logvar.double().exp() - 0.5 * logvar.double() - HALF_LOG_2PI
    return -((z - mean).double().square() / width).sum(-1)
