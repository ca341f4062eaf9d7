"""Sample quality in the plane: each number is right on samples whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from ldebm.data import points as data
from ldebm.evaluate.points import bandwidth, density_panel, mmd2, mode_metrics, nll_true
from ldebm.seeding import generator


@pytest.mark.parametrize("name", data.NAMES)
def test_the_data_itself_covers_every_mode_with_the_expected_shares(name: str) -> None:
    x = torch.from_numpy(data.generate(name, 20000, 0)["x"])
    metrics = mode_metrics(name, x)
    assert metrics["modes_covered"] == len(data.mode_centres(name))
    assert metrics["mode_share_min"] > 0.85
    assert metrics["share_within_2_sigma"] == pytest.approx(1 - math.exp(-2), abs=0.03)
    assert metrics["share_within_1_sigma"] < metrics["share_within_2_sigma"]


def test_a_missing_mode_is_seen() -> None:
    generated = data.generate("gaussians16", 8000, 1)
    x = torch.from_numpy(generated["x"][generated["mode"] != 5])
    metrics = mode_metrics("gaussians16", x)
    assert metrics["modes_covered"] == 15
    assert metrics["mode_share_min"] < 0.05


def test_a_uniform_box_fools_the_3_sigma_share_but_not_the_others() -> None:
    box = 30 * torch.rand(5000, 2, generator=generator(0)) - 15
    x = torch.from_numpy(data.generate("gaussians16", 5000, 2)["x"])
    metrics = mode_metrics("gaussians16", box)
    assert metrics["modes_covered"] == 16
    assert metrics["share_within_2_sigma"] < 0.75
    width = bandwidth(x) / 5
    assert mmd2(box, x, width) > 10 * abs(mmd2(x[:2500], x[2500:], width))


def test_mmd_of_equal_distributions_is_zero_and_of_others_has_its_closed_form() -> None:
    x = torch.randn(3000, 2, generator=generator(1))
    y = torch.randn(3000, 2, generator=generator(2))
    assert abs(mmd2(x, y, 1.0)) < 2e-3
    # E k(x, y) for N(0, I) and N(d, I) with a unit kernel is exp(-|d|^2 / 6) / 3 in the plane.
    shifted = y + torch.tensor([2.0, 0.0])
    assert mmd2(x, shifted, 1.0) == pytest.approx(2 / 3 * (1 - math.exp(-4 / 6)), abs=0.01)


def test_entropy_of_the_data_is_known_only_for_generated_points() -> None:
    x = torch.from_numpy(data.generate("gaussians16", 4000, 3)["x"])
    # Separated modes: log 16 + log(2 pi e sigma^2), slightly less where they overlap.
    separate = math.log(16) + math.log(2 * math.pi * math.e * data.GAUSSIAN_SIGMA**2)
    assert separate - 0.2 < (nll_true("gaussians16", x) or 0) < separate + 0.05
    assert nll_true("mine", x) is None


def test_density_panel_integrates_to_one_and_peaks_at_the_samples() -> None:
    x = torch.tensor([[1.0, -2.0]]).repeat(100, 1)
    panel = density_panel(x, 4.0)
    assert panel.sum() * 0.08**2 == pytest.approx(1, abs=0.01)
    row, column = divmod(int(panel.argmax()), 100)
    assert column == pytest.approx((1 + 4) / 8 * 100, abs=1)
    assert row == pytest.approx((-2 + 4) / 8 * 100, abs=1)
