"""Exact densities of two-dimensional priors by quadrature through all levels.

With E_t = exp F(v, t) and a Gaussian kernel N, p(v_t | u_{t+1}) = E_t N(v_t; m, s^2) / Z_t(u_{t+1})
where Z_t is a blur of E_t, hence

    p(v_t) = E_t(v) * integral of N(v; factor u, s^2) p(u) / Z_t(u) du,        u = u_{t+1}.

Every level uses one axis for u; the grid of v_t is that axis times c_{t+1}, so no interpolation is
needed, and the blurs are two separable products. The likelihood of x is then the sum over cells of
p(u_0) N(x; g(z), noise^2 I) with the model's decoder g. All in standardised coordinates.

Shapes: G points of an axis, N rows, C cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.priors import Prior
from ldebm.priors.conditionals import Conditionals, conditionals
from ldebm.seeding import generator as make_generator

__all__ = ["Grid", "Variation", "nll_by_quadrature", "prior_grid", "total_variation"]

BINS = 40
POINTS = 240  # of an axis at first
ROWS = 200  # of data that are summed at a time
LARGEST_BORDER = 1e-5  # mass
MARGIN = 1.15  # of the extent over the largest coordinate seen
GROWTH = 1.3
BORDER = 0.04  # share of the axis on either side that counts as the border
FLOOR_REPEATS = 5


@dataclass(frozen=True)
class Grid:
    """A density on a square grid of standardised level-0 latents.

    Attributes:
        axis_G: coordinates of the cell centres, the same in both directions.
        mass_GG: probability of every cell; first index is the first coordinate. Sums to 1.
        border: probability within the outer 4 % of the axis on any side, largest over the levels.
            Mass outside the grid shows here.
        finest: cells per standard deviation of the narrowest kernel (under 2: too coarse).
    """

    axis_G: Tensor
    mass_GG: Tensor
    border: float
    finest: float

    @property
    def cell(self) -> float:
        """Side of a cell."""
        return float(self.axis_G[1] - self.axis_G[0])

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact draws (cell by mass, uniform within it), shape (n, 2)."""
        flat = self.mass_GG.flatten().clamp(min=0)
        cells = torch.multinomial(flat, n, replacement=True, generator=generator)
        size = len(self.axis_G)
        centre = torch.stack([self.axis_G[cells // size], self.axis_G[cells % size]], 1)
        jitter = torch.rand(n, 2, generator=generator, dtype=centre.dtype) - 0.5
        return centre + self.cell * jitter

    def log_density(self, u_N2: Tensor) -> Tensor:
        """log p(u_0) at the nearest cells, shape (N,); -inf outside."""
        index = ((u_N2.double() - self.axis_G[0]) / self.cell).round().long()
        inside = ((index >= 0) & (index < len(self.axis_G))).all(1)
        index = index.clamp(0, len(self.axis_G) - 1)
        log_p = self.mass_GG[index[:, 0], index[:, 1]].log() - 2 * math.log(self.cell)
        return torch.where(inside, log_p, torch.full_like(log_p, -math.inf))


@torch.no_grad()
def prior_grid(prior: Prior, seen_N2: Tensor, *, of_sampler: bool = True) -> Grid:
    """The exact density of the standardised level-0 variable.

    The extent starts at the largest coordinate of ``seen_N2`` and of N(0, I) and grows, with the
    number of points, until the border holds less than 1e-5 (three times at most).

    Args:
        prior: a prior with D = 2.
        seen_N2: standardised samples of prior and posterior.
        of_sampler: the temperature that is sampled, else the stated one.

    Raises:
        ValueError: the prior is not two-dimensional.
    """
    if prior.latent != 2:
        raise ValueError(f"quadrature needs 2 latent dimensions, got {prior.latent}")
    finite = seen_N2[torch.isfinite(seen_N2).all(1)].double()
    reach = float(finite.abs().max()) if len(finite) else 0.0
    extent = MARGIN * min(max(reach, 4.5), 40.0)
    points = POINTS
    grid = _grid_at(prior, extent, points, of_sampler)
    for _ in range(3):
        if grid.border <= LARGEST_BORDER:
            break
        extent, points = extent * GROWTH, int(points * GROWTH)
        grid = _grid_at(prior, extent, points, of_sampler)
    return grid


def _grid_at(prior: Prior, extent: float, points: int, of_sampler: bool) -> Grid:
    points += -points % BINS
    half = extent * (1 - 1 / points)  # centres of cells that fill [-extent, extent]
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    cell = float(axis[1] - axis[0])
    if (ebm := prior.energies) is None:
        exact: Any = prior
        log_p = exact.log_standard(torch.cartesian_prod(axis, axis))
        mass = torch.softmax(log_p, 0).reshape(points, points)
        return Grid(axis, mass, _border(mass), 1 / cell)
    energies = conditionals(ebm, of_sampler=of_sampler)
    mass, worst, finest = torch.zeros(()), 0.0, math.inf
    for t in reversed(range(energies.levels)):
        mass = _level(energies, t, axis, mass)
        worst = max(worst, _border(mass))
        finest = min(finest, math.sqrt(energies.variance[t]) / (energies.scale[t] * cell))
    return Grid(axis, mass, worst, finest)


def _level(energies: Conditionals, t: int, axis: Tensor, next_mass: Tensor) -> Tensor:
    """Cell probabilities of u_t from those of u_{t+1}."""
    v = energies.scale[t] * axis
    cells = torch.cartesian_prod(v, v).float()
    log_e = energies.value(cells, t).double().reshape(len(v), len(v))
    log_e = log_e - log_e.max()  # constants cancel in E / Z
    if t == energies.levels - 1:
        log_p = log_e - 0.5 * (v[:, None] ** 2 + v[None] ** 2) / energies.variance[t]
        return torch.softmax(log_p.flatten(), 0).reshape(log_e.shape)
    weight = log_e.exp()
    residual = v[:, None] - energies.factor[t] * axis[None]
    kernel = torch.exp(-0.5 * residual**2 / energies.variance[t])  # [v, u]
    normaliser = kernel.t() @ weight @ kernel
    ratio = torch.where(next_mass > 0, next_mass / normaliser.clamp(min=1e-290), 0.0)
    return weight * (kernel @ ratio @ kernel.t())


def _border(mass: Tensor) -> float:
    """Probability of the outer cells; 1 where the density is not finite."""
    width = max(1, int(BORDER * len(mass)))
    value = 1.0 - float(mass[width:-width, width:-width].sum())
    return max(value, 0.0) if math.isfinite(value) else 1.0


@torch.no_grad()
def nll_by_quadrature(backbone: Any, prior: Prior, grid: Grid, x_N2: Tensor) -> Tensor:
    """-log p(x) in nats, float64 (N,), by summing over the grid's cells.

    Cells that together hold less than 1e-12 of the mass are left out.

    Args:
        backbone: its decoder's mean and ``noise``.
        prior: for the way from standardised coordinates to the decoder's.
        grid: from :func:`prior_grid`.
        x_N2: points.
    """
    flat = grid.mass_GG.flatten()
    ordered, order = torch.sort(flat)
    cells = order[torch.cumsum(ordered, 0) > 1e-12]
    size = len(grid.axis_G)
    u_C2 = torch.stack([grid.axis_G[cells // size], grid.axis_G[cells % size]], 1)
    mean_C2 = backbone.decode(prior.from_standard(u_C2.to(prior.shift_D.dtype)))
    centre = mean_C2.mean(0)
    mean_C2 = (mean_C2 - centre) / backbone.noise
    bias_C = flat[cells].log().to(mean_C2.dtype) - 0.5 * mean_C2.square().sum(1)
    x_N2 = (x_N2 - centre) / backbone.noise
    parts = []
    for start in range(0, len(x_N2), ROWS):
        x = x_N2[start : start + ROWS]
        exponent = torch.addmm(bias_C, x, mean_C2.t())
        parts.append(torch.logsumexp(exponent, 1).double() - 0.5 * x.double().square().sum(1))
    constant = math.log(2 * math.pi * backbone.noise**2)
    return constant - torch.cat(parts)


@dataclass(frozen=True)
class Variation:
    """Total variation between samples and the density, on 40 x 40 bins.

    Attributes:
        sampler: of the given samples.
        floor: of as many exact draws (mean of 5 sets): what sampling noise alone gives.
        floor_spread: standard deviation of the sets.
        outside: share of the given samples outside the bins.
    """

    sampler: float
    floor: float
    floor_spread: float
    outside: float


def total_variation(grid: Grid, u_N2: Tensor, seed: int = 0) -> Variation:
    """Compares standardised level-0 samples with the density they should have.

    The bins cover the grid's smallest centred square that holds all but 1e-4 of the mass; what is
    outside counts as one more bin.
    """
    size = len(grid.axis_G)
    reach = torch.maximum(grid.axis_G.abs()[:, None], grid.axis_G.abs()[None])
    middle = size // 2
    edge = size
    for half in range(BINS // 2, middle + 1, BINS // 2):
        limit = half * grid.cell
        if float(grid.mass_GG[reach < limit].sum()) >= 1 - 1e-4:
            edge = half
            break
    edge = min(edge, middle - middle % (BINS // 2))
    block = 2 * edge // BINS
    inner = grid.mass_GG[middle - edge : middle + edge, middle - edge : middle + edge]
    expected = inner.reshape(BINS, block, BINS, block).sum((1, 3)).flatten()
    expected = torch.cat([expected, (1 - expected.sum()).clamp(min=0).reshape(1)])

    def distance(points: Tensor) -> float:
        observed = _histogram(points, edge * grid.cell)
        return 0.5 * float((observed - expected).abs().sum())

    floors = [
        distance(grid.draw(len(u_N2), make_generator(seed, "tv-floor", repeat)))
        for repeat in range(FLOOR_REPEATS)
    ]
    outside = float(_histogram(u_N2, edge * grid.cell)[-1])
    return Variation(distance(u_N2), float(np.mean(floors)), float(np.std(floors)), outside)


def _histogram(u_N2: Tensor, limit: float) -> Tensor:
    """Shares of the bins of [-limit, limit]^2, then of everything else."""
    index = torch.floor((u_N2.double() / limit + 1) * (BINS / 2)).nan_to_num(nan=-1.0)
    inside = ((index >= 0) & (index < BINS)).all(1)
    index = index.clamp(0, BINS - 1).long()
    flat = torch.where(inside, index[:, 0] * BINS + index[:, 1], BINS * BINS)
    return torch.bincount(flat, minlength=BINS * BINS + 1).double() / len(u_N2)
