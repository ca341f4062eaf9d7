"""The two-dimensional data: their densities are exact and their draws follow them."""

import math

import numpy as np
import pytest
import torch

from ldebm.data import points
from ldebm.errors import UsageError

AREA = {"gaussians16": 20.0, "gaussians8": 20.0, "pinwheel10": 25.0, "pinwheel5": 25.0}


def _grid(name: str, size: int) -> tuple[torch.Tensor, float]:
    axis = torch.linspace(-AREA[name], AREA[name], size, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("name", points.NAMES)
def test_density_integrates_to_one_and_its_entropy_is_that_of_draws(name: str) -> None:
    grid, cell = _grid(name, 120)
    logs = points.log_density(name, grid)
    entropy = float(-(logs.exp() * logs).sum() * cell)
    assert float(logs.exp().sum() * cell) == pytest.approx(1, abs=1e-5)
    drawn = -points.log_density(name, torch.from_numpy(points.generate(name, 10000, 0)["x"]))
    assert float(drawn.mean()) == pytest.approx(entropy, abs=4 * float(drawn.std()) / 10000**0.5)


@pytest.mark.parametrize("name", points.NAMES)
def test_draws_fall_into_boxes_as_often_as_the_density_says(name: str) -> None:
    x = points.generate(name, 100_000, 1)["x"]
    edges = np.linspace(-AREA[name], AREA[name], 11)
    share = np.histogram2d(x[:, 0], x[:, 1], bins=(edges, edges))[0] / len(x)
    middles = (np.arange(120) + 0.5) / 120 * 2 * AREA[name] - AREA[name]
    axis = torch.from_numpy(middles)
    density = points.log_density(name, torch.cartesian_prod(axis, axis)).exp()
    cell = (2 * AREA[name] / 120) ** 2
    expected = density.reshape(10, 12, 10, 12).sum(dim=(1, 3)).numpy() * cell
    assert np.abs(share - expected).max() < 5 * math.sqrt(expected.max() / len(x))


@pytest.mark.parametrize("name", points.NAMES)
def test_distance_from_the_own_mode_is_rayleigh_distributed(name: str) -> None:
    drawn = points.generate(name, 20_000, 2)
    label = torch.from_numpy(drawn[points.LABEL_COLUMN[name]])
    own = points.mode_distances(name, torch.from_numpy(drawn["x"]))[torch.arange(20_000), label]
    for radius in (1.0, 2.0, 3.0):
        share = float((own < radius).double().mean())
        assert share == pytest.approx(1 - math.exp(-(radius**2) / 2), abs=0.01)


def test_mode_centres_are_at_distance_zero_of_their_own_mode() -> None:
    for name in points.NAMES:
        assert points.mode_distances(name, points.mode_centres(name)).diagonal().max() < 1e-9
    assert float(points.mode_centres("gaussians16").abs().max()) == pytest.approx(11.315, abs=1e-3)


def test_generation_depends_on_the_seed_only() -> None:
    first, again, other = (points.generate("pinwheel10", 50, seed)["x"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(UsageError, match="expected one of gaussians16, gaussians8, pinwheel10"):
        points.generate("spiral", 5, 0)
