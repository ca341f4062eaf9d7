"""Chains keep the density they are given; the unadjusted one has the known bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldebm.priors.langevin import mala, pcnl, ula
from ldebm.seeding import generator

VARIANCE = 0.5


def gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    return -0.5 * x.square().sum(-1) / VARIANCE, -x / VARIANCE


def double_well(x: Tensor) -> tuple[Tensor, Tensor]:
    value = -((x.square() - 1).square()).sum(-1)
    return value, -4 * x * (x.square() - 1)


def test_mala_is_exact_for_a_large_step() -> None:
    start = torch.zeros(20_000, 2)
    chain = mala(gaussian, start, torch.tensor(0.6), 60, generator(0, "mala"))
    assert float(chain.x_BD.var()) == pytest.approx(VARIANCE, rel=0.02)
    assert 0.5 < float(chain.acceptance_B.mean()) < 1.0


def test_ula_has_its_closed_form_stationary_variance() -> None:
    step2 = 0.6
    chain = ula(gaussian, torch.zeros(20_000, 2), torch.tensor(step2), 60, generator(0, "ula"))
    keep = 1 - 0.5 * step2 / VARIANCE
    assert float(chain.x_BD.var()) == pytest.approx(step2 / (1 - keep**2), rel=0.02)
    assert float(chain.x_BD.var()) > 1.2 * VARIANCE


def test_mala_matches_quadrature_on_a_double_well() -> None:
    start = torch.randn(20_000, 1, generator=generator(1, "start")).clamp(-1.5, 1.5)
    chain = mala(double_well, start, torch.tensor(0.3), 300, generator(1, "well"))
    grid = torch.linspace(-4, 4, 4001).unsqueeze(1)
    weight = torch.softmax(double_well(grid)[0], 0)
    second = float((weight * grid.squeeze().square()).sum())
    assert float(chain.x_BD.square().mean()) == pytest.approx(second, rel=0.02)


def test_per_row_step_sizes_are_used() -> None:
    step2 = torch.tensor([[1e-8], [0.5]])
    start = torch.ones(2, 3)
    chain = ula(gaussian, start, step2, 5, generator(0, "rows"))
    assert float((chain.x_BD[0] - 1).abs().max()) < 1e-2
    assert float((chain.x_BD[1] - 1).abs().max()) > 1e-1


def test_a_proposal_of_non_finite_density_is_rejected() -> None:
    def wall(x: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs().amax(-1) < 1
        value = torch.where(inside, torch.zeros(()), torch.tensor(float("-inf")))
        return value, torch.zeros_like(x)

    chain = mala(wall, torch.zeros(5000, 1), torch.tensor(1.0), 30, generator(0, "wall"))
    assert float(chain.x_BD.abs().max()) < 1
    assert float(chain.x_BD.var()) == pytest.approx(1 / 3, rel=0.06)


def test_equal_generators_give_equal_chains() -> None:
    first = mala(gaussian, torch.zeros(8, 2), torch.tensor(0.3), 7, generator(3, "a"))
    again = mala(gaussian, torch.zeros(8, 2), torch.tensor(0.3), 7, generator(3, "a"))
    assert torch.equal(first.x_BD, again.x_BD)


KERNEL = torch.tensor([[0.2]]), torch.tensor([[0.5]])


def tilted(x: Tensor) -> tuple[Tensor, Tensor]:
    """The double well times N(0.2, 0.5)."""
    mean, variance = KERNEL
    value, gradient = double_well(x)
    away = (x - mean) / variance
    return value - 0.5 * ((x - mean) * away).sum(-1), gradient - away


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_pcnl_matches_quadrature_on_a_tilted_double_well(share: float) -> None:
    start = torch.randn(20_000, 1, generator=generator(1, "start")).clamp(-1.2, 1.2)
    chain = pcnl(tilted, start, KERNEL, share * KERNEL[1], 150, generator(1, "well"))
    grid = torch.linspace(-4, 4, 4001).unsqueeze(1)
    weight = torch.softmax(tilted(grid)[0], 0)
    for power in (1, 2):
        exact = float((weight * grid.squeeze() ** power).sum())
        assert float((chain.x_BD**power).mean()) == pytest.approx(exact, abs=0.02)
    assert 0.3 < float(chain.acceptance_B.mean()) < 0.98


def test_pcnl_accepts_every_move_where_there_is_no_energy() -> None:
    kernel = torch.full((5000, 3), 2.0), torch.full((5000, 1), VARIANCE)

    def base(x: Tensor) -> tuple[Tensor, Tensor]:
        away = (x - kernel[0]) / VARIANCE
        return -0.5 * ((x - kernel[0]) * away).sum(-1), -away

    far = torch.full((5000, 3), 9.0)
    one = pcnl(base, far, kernel, torch.tensor([[VARIANCE]]), 1, generator(0, "base"))
    assert float(one.acceptance_B.mean()) == 1.0
    assert float(one.x_BD.mean()) == pytest.approx(2.0, abs=0.03)  # one move forgets the start
    assert float(one.x_BD.var()) == pytest.approx(VARIANCE, rel=0.05)
