"""Quadrature through the levels, against closed forms and the sampler."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood
from ldebm.evaluate.quadrature import nll_by_quadrature, prior_grid, total_variation
from ldebm.priors import DiffusionPrior, GaussianPrior, Prior, SymbolPrior
from ldebm.seeding import generator
from tests.unit.evaluate_models import config, constant_energy, wavy_energy

SEEN = torch.randn(2000, 2, generator=generator(0, "seen"))


class Plane(nn.Module):
    """x = W z + noise e in two dimensions with its exact posterior as encoder."""

    def __init__(self, noise: float = 0.5) -> None:
        super().__init__()
        self.noise = noise
        self.weight = torch.diag(torch.tensor([2.0, 0.7]))

    def decode(self, z_BD: Tensor) -> Tensor:
        return z_BD @ self.weight.t()

    def encode(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        variance = 1 / (1 + (self.weight.diagonal() / self.noise) ** 2)
        mu = x_BD * self.weight.diagonal() / self.noise**2 * variance
        return mu, variance.log().expand_as(mu)

    def reconstruction_nll(self, x_BD: Tensor, z_BD: Tensor) -> Tensor:
        away = (x_BD - self.decode(z_BD)) / self.noise
        return 0.5 * away.square().sum(-1) + math.log(2 * math.pi * self.noise**2)


@pytest.mark.parametrize("kind", ["gaussian", "svebm", "diffusion"])
def test_constant_energy_gives_the_standard_normal_on_the_grid(kind: str) -> None:
    priors: dict[str, Prior] = {
        "gaussian": GaussianPrior(2, config("gaussian")),
        "svebm": constant_energy(SymbolPrior(2, config("svebm")), 2.0),
        "diffusion": constant_energy(DiffusionPrior(2, config()), 2.0),
    }
    grid = prior_grid(priors[kind], SEEN)
    u = torch.tensor([[0.0, 0.0], [1.0, -0.5], [-2.0, 1.5]])
    index = ((u.double() - grid.axis_G[0]) / grid.cell).round().long()
    centre = grid.axis_G[index]
    exact = -0.5 * centre.square().sum(1) - math.log(2 * math.pi)
    assert torch.allclose(grid.log_density(u), exact, atol=1e-3)
    assert grid.border < 1e-5
    assert float(grid.mass_GG.sum()) == pytest.approx(1, abs=1e-6)


def test_likelihood_by_quadrature_is_exact_for_a_linear_gaussian_model() -> None:
    model = Plane()
    prior = constant_energy(DiffusionPrior(2, config()), 0.0)
    x = torch.randn(50, 2, generator=generator(1)) * torch.tensor([2.0, 0.9])
    covariance = model.weight @ model.weight.t() + 0.25 * torch.eye(2)
    exact = -torch.distributions.MultivariateNormal(torch.zeros(2), covariance).log_prob(x)
    nll = nll_by_quadrature(model, prior, prior_grid(prior, SEEN), x)
    assert torch.allclose(nll, exact.double(), atol=1e-3)


def test_quadrature_agrees_with_importance_weighting_for_a_wavy_energy() -> None:
    model = Plane()
    prior = wavy_energy(DiffusionPrior(2, config(levels=4), generator(2)), 2.0)
    x = 2 * torch.randn(30, 2, generator=generator(3))
    exact = nll_by_quadrature(model, prior, prior_grid(prior, SEEN), x).numpy()
    plain = constant_energy(DiffusionPrior(2, config()), 0.0)
    gaussian = nll_by_quadrature(model, plain, prior_grid(plain, SEEN), x).numpy()
    settings = LikelihoodSettings(trajectories=1000, inner=32)
    nll = likelihood(model, prior, [x], settings)["prior"].nll_B
    assert abs(exact - gaussian).mean() > 0.05
    assert abs((nll - exact).mean()) < 0.01


def test_published_schedule_without_base_agrees_with_importance_weighting() -> None:
    model = Plane(noise=0.2)
    prior = wavy_energy(DiffusionPrior(2, config(base=False, levels=3), generator(4)), 0.3)
    x = 2 * torch.randn(20, 2, generator=generator(5))
    grid = prior_grid(prior, 3 * SEEN)
    exact = nll_by_quadrature(model, prior, grid, x).numpy()
    settings = LikelihoodSettings(trajectories=1000, inner=32)
    nll = likelihood(model, prior, [x], settings)["prior"].nll_B
    assert abs((nll - exact).mean()) < 0.03


def test_the_samplers_chains_have_the_density_of_the_grid() -> None:
    prior = wavy_energy(DiffusionPrior(2, config(), generator(6)), 1.0)
    u = prior.sample_standard(5000, generator(7))
    variation = total_variation(prior_grid(prior, u), u)
    assert abs(variation.sampler - variation.floor) < 0.03
    assert 0.05 < variation.floor < 0.3


def test_total_variation_sees_a_wrong_sampler() -> None:
    prior = GaussianPrior(2, config("gaussian"))
    grid = prior_grid(prior, SEEN)
    right = total_variation(grid, torch.randn(5000, 2, generator=generator(8)))
    wide = total_variation(grid, 1.2 * torch.randn(5000, 2, generator=generator(8)))
    assert abs(right.sampler - right.floor) < 0.02
    assert wide.sampler - wide.floor > 0.05
    assert total_variation(grid, torch.full((100, 2), math.nan)).outside == 1.0


def test_a_grid_that_misses_mass_says_so() -> None:
    prior = GaussianPrior(2, config("gaussian"))
    assert prior_grid(prior, SEEN).border < 1e-5
    from ldebm.evaluate.quadrature import _grid_at

    assert _grid_at(prior, 1.5, 80, True).border > 0.01


def test_quadrature_refuses_other_dimensions() -> None:
    with pytest.raises(ValueError, match="2 latent dimensions, got 3"):
        prior_grid(GaussianPrior(3, config("gaussian")), torch.zeros(1, 3))
