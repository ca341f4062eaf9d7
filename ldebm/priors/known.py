"""What is estimated once of a prior, so that its likelihood of many rows costs little.

The evaluation measures how good its normalisers are, by three estimates of the top one. A user who
scores texts wants numbers soon: here the top normaliser is estimated once for a model (plain Monte
Carlo, annealed only where the effective sample size is poor), and every other level gets as many
draws as its own spread asks for. The draws come from the seed alone, never from the rows.

Shapes: N conditions, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldebm.devices import one_thread
from ldebm.errors import UsageError
from ldebm.files import read_json, write_json
from ldebm.priors.annealing import anneal
from ldebm.priors.conditionals import Conditionals, conditionals
from ldebm.priors.energy import EnergyPrior
from ldebm.priors.normalisers import TRUSTED_ESS, plain_normaliser, rate_shifts
from ldebm.seeding import generator as make_generator

__all__ = [
    "SETTINGS",
    "Known",
    "find_known",
    "find_proposals",
    "find_top",
    "read_known",
    "write_known",
]

DRAWS, PARTICLES, STEPS = 65536, 512, 100  # of the top normaliser
PILOTS, PILOT_DRAWS = 64, 64  # conditions of every other level, and draws of each
VARIANCE = 0.2  # of log Z_t(u_{t+1}) at a level; a text's trajectories differ by several nats
FEWEST = 2  # draws of a level
SETTINGS = {
    "draws": [DRAWS, PARTICLES, STEPS, PILOTS, PILOT_DRAWS, FEWEST],
    "trusted": TRUSTED_ESS,
    "variance": VARIANCE,
}
"""What an estimate depends on beside the model and the seed."""


@dataclass(frozen=True)
class Known:
    """The top normaliser of a prior, and how the others are estimated.

    Attributes:
        log_z: of the top level.
        standard_error: of ``log_z``.
        draws: of the estimate.
        ess: effective number of them.
        seed: of the draws.
        shift: of the proposal of every other level, see :mod:`ldebm.priors.normalisers`.
        inner: draws that every other level needs, at most ``PILOT_DRAWS``.
    """

    log_z: float
    standard_error: float
    draws: int
    ess: float
    seed: int
    shift: tuple[float, ...]
    inner: tuple[int, ...]


@one_thread()
@torch.no_grad()
def find_known(prior: EnergyPrior, seed: int = 0) -> Known:
    """Estimates the normaliser of a prior that reads no contexts.

    Args:
        prior: its density does not depend on contexts.
        seed: of all draws.
    """
    energies = conditionals(prior)
    stream = make_generator(seed, "known", device=prior.shift_D.device)
    zero_1D = torch.zeros_like(prior.shift_D).unsqueeze(0)
    log_z, ess, draws = find_top(energies, zero_1D, stream)
    u_ND = torch.randn(PILOTS, prior.latent, generator=stream, device=zero_1D.device)
    levels = energies.forward(u_ND.to(zero_1D.dtype), stream)
    shift, inner = find_proposals(energies, levels, PILOT_DRAWS, stream)
    error = math.sqrt(max(1 / ess - 1 / draws, 0.0))
    return Known(log_z, error, draws, ess, seed, shift, inner)


@torch.no_grad()
def find_top(
    energies: Conditionals,
    zero_1D: Tensor,
    stream: torch.Generator,
    draws: int = DRAWS,
    particles: int = PARTICLES,
    steps: int = STEPS,
) -> tuple[float, float, int]:
    """log Z of the top level, the effective number of draws, and their number.

    Plain Monte Carlo, or annealing where its effective sample size is poor.
    """
    log_z, ess = plain_normaliser(energies, zero_1D, draws, stream)
    if ess >= min(TRUSTED_ESS, draws / 8):
        return log_z, ess, draws
    annealed, annealed_ess = anneal(
        energies, energies.levels - 1, zero_1D, particles, steps, stream
    )
    return float(annealed), float(annealed_ess), particles


@torch.no_grad()
def find_proposals(
    energies: Conditionals, levels: list[Tensor], draws: int, stream: torch.Generator
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """For every level but the top one the shift of its proposal, and how many draws it needs.

    With M draws of effective number E the variance of log Z is about 1 / E - 1 / M.

    Args:
        energies: the prior's conditionals.
        levels: u_0..u_{T-1} to try them at.
        draws: M; none gets more.
        stream: source of the noise.
    """
    shifts, inner = [], []
    for t in range(energies.levels - 1):
        shift, ess = rate_shifts(energies, t, levels[t + 1][:PILOTS], draws, stream)
        needed = math.ceil((draws / max(ess, 1.0) - 1) / VARIANCE)
        shifts.append(shift)
        inner.append(min(draws, max(FEWEST, needed + needed % 2)))
    return tuple(shifts), tuple(inner)


def write_known(path: Path, known: Known) -> None:
    """Writes an estimate as JSON."""
    write_json(path, asdict(known))


def read_known(path: Path) -> Known:
    """Reads what :func:`write_known` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    content: Any = read_json(path)
    try:
        content |= {name: tuple(content[name]) for name in ("shift", "inner")}
        return Known(**content)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not an estimate of a normaliser ({error})") from None
