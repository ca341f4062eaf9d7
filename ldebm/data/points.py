"""The two-dimensional data of the papers with their exact densities.

docs/method.md, section 6.1.

``gaussians16`` is a 4 x 4 grid of Gaussians (Yu et al. 2022, figure 2), ``gaussians8`` a ring of
eight (Pang and Wu 2021, figure 2). ``pinwheel10`` and ``pinwheel5`` (of the same figures) bend
Gaussian arms: a point (r, t) of an arm, radial and tangential, is turned clockwise by the arm's
angle plus ``rate * exp(r)``.

Shapes: N points, K modes or arms.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ldebm.errors import UsageError
from ldebm.seeding import numpy_generator

__all__ = ["LABEL_COLUMN", "NAMES", "generate", "log_density", "mode_centres", "mode_distances"]

MODES = {"gaussians16": 16, "gaussians8": 8}
ARMS = {"pinwheel10": 10, "pinwheel5": 5}
NAMES = (*MODES, *ARMS)
LABEL_COLUMN = {name: "mode" if name in MODES else "arm" for name in NAMES}

GRID = (1.0, 1 / 3, -1 / 3, -1.0)
GRID_SCALE = 4 / 1.414  # the published file is divided by 1.414 and read times 4
GAUSSIAN_SIGMA = 0.5 * GRID_SCALE

RADIAL_SIGMA, TANGENTIAL_SIGMA, RATE = 0.3, 0.1, 0.25
ARM_SCALE = 8.0  # x2 when the file is written, x4 when it is read


def generate(name: str, n: int, seed: int) -> dict[str, np.ndarray]:
    """Draws n independent points.

    Returns:
        ``x`` float32 (N, 2) and the integer label column (``mode`` or ``arm``), int64 (N).

    Raises:
        UsageError: no such data.
    """
    _check(name)
    stream = numpy_generator(seed, name)
    label_N = stream.integers(0, MODES.get(name) or ARMS[name], size=n)
    noise_N2 = stream.standard_normal((n, 2))
    if name in MODES:
        x_N2 = mode_centres(name).numpy()[label_N] + GAUSSIAN_SIGMA * noise_N2
    else:
        radial_N = 1 + RADIAL_SIGMA * noise_N2[:, 0]
        tangential_N = TANGENTIAL_SIGMA * noise_N2[:, 1]
        angle_N = 2 * math.pi * label_N / ARMS[name] + RATE * np.exp(radial_N)
        turned_N = (radial_N + 1j * tangential_N) * np.exp(-1j * angle_N)
        x_N2 = ARM_SCALE * np.stack([turned_N.real, turned_N.imag], axis=1)
    return {"x": x_N2.astype(np.float32), LABEL_COLUMN[name]: label_N.astype(np.int64)}


def mode_centres(name: str) -> Tensor:
    """The means of the Gaussians, or where the mean of every arm falls; float64 (K, 2)."""
    _check(name)
    if name == "gaussians16":
        grid = torch.tensor(GRID, dtype=torch.float64)
        return 4 * GRID_SCALE * torch.cartesian_prod(grid, grid)
    count = MODES.get(name) or ARMS[name]
    angle_K = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    if name in ARMS:
        angle_K = -(angle_K + RATE * math.e)
    radius = 4 * GRID_SCALE if name in MODES else ARM_SCALE
    return radius * torch.stack([angle_K.cos(), angle_K.sin()], dim=1)


def log_density(name: str, x: Tensor) -> Tensor:
    """The exact log density of the data in nats.

    Args:
        name: one of :data:`NAMES`.
        x: points (N, 2); computed in float64.

    Returns:
        float64 (N). The map of a pinwheel folds where t < -exp(-r) / rate, which holds less
        than 1e-7 of the mass; there one of the preimages is counted.

    Raises:
        UsageError: no such data.
    """
    logs_NK = -0.5 * mode_distances(name, x).square()
    if name in MODES:
        constant = math.log(MODES[name]) + math.log(2 * math.pi * GAUSSIAN_SIGMA**2)
        return torch.logsumexp(logs_NK, dim=1) - constant
    radial_NK, tangential_NK = _unbend(x, ARMS[name])
    slope_NK = 1 + RATE * tangential_NK * radial_NK.exp()  # d(angle of x) / d(angle before bending)
    constant = math.log(ARMS[name]) + math.log(2 * math.pi * RADIAL_SIGMA * TANGENTIAL_SIGMA)
    constant += 2 * math.log(ARM_SCALE)
    return torch.logsumexp(logs_NK - slope_NK.abs().clamp_min(1e-12).log(), dim=1) - constant


def mode_distances(name: str, x: Tensor) -> Tensor:
    """Distance of every point from every mode in standard deviations of the mode; float64 (N, K).

    For an arm it is measured before bending, so that the two data sets read alike: exp(-d^2 / 2) is
    the share of a mode's mass that lies farther out than d.

    Raises:
        UsageError: no such data.
    """
    _check(name)
    if name in MODES:
        return torch.cdist(x.double(), mode_centres(name).to(x.device)) / GAUSSIAN_SIGMA
    radial_NK, tangential_NK = _unbend(x, ARMS[name])
    return torch.hypot((radial_NK - 1) / RADIAL_SIGMA, tangential_NK / TANGENTIAL_SIGMA)


def _unbend(x: Tensor, arms: int) -> tuple[Tensor, Tensor]:
    """(r, t) of every point for every arm; (N, K).

    Bending keeps the length and turns the angle phi of (r, t) to phi - rate exp(length cos phi).
    That rises from ``start``, the upper end of the fold where there is one, to ``start`` + 2 pi.
    """
    y_N2 = x.double() / ARM_SCALE
    length_N1 = y_N2.norm(dim=1, keepdim=True)
    arms_K = torch.arange(arms, dtype=torch.float64, device=x.device)
    wanted_NK = torch.atan2(y_N2[:, 1:], y_N2[:, :1]) + 2 * math.pi * arms_K / arms

    def bent(angle: Tensor) -> Tensor:
        return angle.sub((length_N1 * angle.cos()).exp(), alpha=RATE)

    def folded(angle: Tensor) -> Tensor:
        slope = (length_N1 * angle.cos()).exp() * length_N1 * angle.sin()
        return torch.lt(slope, -1 / RATE)

    steepest_N1 = -torch.arccos(2 * length_N1 / (1 + (1 + 4 * length_N1.square()).sqrt()))
    start_N1 = _bisect(folded, steepest_N1, torch.zeros_like(steepest_N1), 50)
    wanted_NK = bent(start_N1) + torch.remainder(wanted_NK - bent(start_N1), 2 * math.pi)
    low_NK = start_N1.expand_as(wanted_NK)
    low_NK = _bisect(lambda angle: bent(angle) < wanted_NK, low_NK, low_NK + 2 * math.pi, 12)
    high_NK = low_NK + 2 * math.pi / 2**12
    angle_NK = 0.5 * (low_NK + high_NK)
    for _ in range(5):  # Newton's method, kept between the ends
        growth_NK = (length_N1 * angle_NK.cos()).exp() * RATE
        slope_NK = 1 + growth_NK * length_N1 * angle_NK.sin()
        step_NK = (angle_NK - growth_NK - wanted_NK) / slope_NK
        angle_NK = (angle_NK - step_NK).nan_to_num(0.0).clamp(low_NK, high_NK)
    return length_N1 * angle_NK.cos(), length_N1 * angle_NK.sin()


def _bisect(below: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, halvings: int) -> Tensor:
    """The lower end of where ``below`` turns false; ``low`` where it is false throughout."""
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        is_below = below(middle)
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return low


def _check(name: str) -> None:
    if name not in NAMES:
        raise UsageError(f"points {name!r}: expected one of {', '.join(NAMES)}")
