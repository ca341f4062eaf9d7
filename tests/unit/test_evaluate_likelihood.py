"""The importance-weighted likelihood, against models whose likelihood is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ldebm.evaluate.legacy import nll_legacy
from ldebm.evaluate.likelihood import Estimate, LikelihoodSettings, likelihood, mean_interval
from ldebm.priors import DiffusionPrior, GaussianPrior, SymbolPrior, trajectories
from ldebm.priors.annealing import anneal, anneal_back, equilibrium
from ldebm.priors.base_measure import DiffusedMixture
from ldebm.priors.conditionals import Conditionals, conditionals, tilting
from ldebm.priors.mixture import Mixture
from ldebm.priors.normalisers import (
    choose_shift,
    distance_of_sides,
    global_normaliser,
    importance,
)
from ldebm.priors.trajectories import Trajectories
from ldebm.seeding import generator
from tests.unit.evaluate_models import (
    LOG_2PI,
    LinearGaussian,
    config,
    constant_energy,
    wavy_energy,
)


@pytest.mark.parametrize("latent", [2, 40])
def test_gaussian_prior_gives_the_exact_likelihood_of_a_linear_gaussian_model(latent: int) -> None:
    model = LinearGaussian(latent, blur=1.1)
    x = model.data(20)
    prior = GaussianPrior(latent, config("gaussian"))
    settings = LikelihoodSettings(trajectories=2000)
    result = likelihood(model, prior, [x[:10], x[10:]], settings)["prior"]
    assert np.abs(result.nll_B - model.exact(x)).max() < 0.1
    assert result.upper_B.mean() > model.exact(x).mean()


@pytest.mark.parametrize("latent", [2, 40])
@pytest.mark.parametrize("kind", ["svebm", "diffusion"])
def test_constant_energy_with_base_is_exactly_the_gaussian(kind: str, latent: int) -> None:
    model = LinearGaussian(latent)
    x = model.data(20)
    prior_class = DiffusionPrior if kind == "diffusion" else SymbolPrior
    prior = constant_energy(prior_class(latent, config(kind), generator(0)), 3.7)
    settings = LikelihoodSettings(trajectories=600, inner=4, top_draws=256)
    result = likelihood(model, prior, [x], settings)["prior"]
    # The forward process is the exact posterior of the other levels: only the level-0 noise of
    # standard deviation 0.01, which the decoder reads, is left, at the scale of the weights.
    tolerance = 0.05 if kind == "diffusion" else 1e-4
    assert np.abs(result.nll_B - model.exact(x)).max() < tolerance
    assert np.abs(result.nll_B - result.lower_B).max() < 1e-3
    levels = 5 if kind == "diffusion" else 0
    assert np.allclose(result.inner_ess, [(4.0, 4.0)] * levels)


@pytest.mark.parametrize("standardise", ["diagonal", "full"])
def test_likelihood_does_not_depend_on_the_standardisation_of_the_latent(standardise: str) -> None:
    """A prior standardised by N(m, C) with constant F is N(m, C): Jacobians must cancel."""
    latent = 6
    model = LinearGaussian(latent)
    x = model.data(8)
    mu = torch.randn(500, latent, generator=generator(3)) @ torch.randn(
        latent, latent, generator=generator(4)
    )
    prior = constant_energy(DiffusionPrior(latent, config(standardise=standardise)), 0.0)
    prior.fit_standardisation(mu, torch.zeros(500, latent))
    normal = torch.distributions.MultivariateNormal(
        prior.shift_D, prior.scale_DD @ prior.scale_DD.t()
    )
    settings = LikelihoodSettings(trajectories=2000, inner=2, top_draws=256)
    both = likelihood(model, prior, [x], settings, {"normal": normal.log_prob})
    assert np.abs(both["prior"].nll_B - both["normal"].nll_B).max() < 1e-2
    covariance = (
        model.weight @ normal.covariance_matrix @ model.weight.t()
        + model.noise** 2 * torch.eye(latent)
    )
    exact = torch.distributions.MultivariateNormal(model.weight @ prior.shift_D, covariance)
    assert np.abs(both["prior"].nll_B + exact.log_prob(x).numpy()).mean() < 0.2


def test_own_draw_keeps_a_sharp_energy_from_looking_too_good() -> None:
    """At d=40 few draws miss the mass of exp F: fresh draws alone overstate the likelihood."""
    latent = 40
    prior = wavy_energy(DiffusionPrior(latent, config(), generator(5)), 20.0)
    model = LinearGaussian(latent)
    x = model.data(10)
    result = likelihood(
        model, prior, [x], LikelihoodSettings(trajectories=100, inner=8, top_draws=4096)
    )["prior"]
    assert (result.lower_B < result.nll_B).all()
    assert (result.nll_B < result.upper_B).all()


def test_importance_sampling_matches_quadrature_in_one_dimension() -> None:
    prior = wavy_energy(DiffusionPrior(1, config(), generator(6)), 3.0)
    energies = conditionals(prior)
    grid = torch.linspace(-8, 8, 8001).unsqueeze(1)
    u_next = torch.tensor([[-1.5], [0.2], [1.0]])
    for t in (0, 3, 5):
        variance = energies.variance[t]
        exponent = (
            energies.value(grid, t).double()
            - 0.5 * ((grid - energies.factor[t] * u_next.t()).double() ** 2).t() / variance
        )
        exact = torch.logsumexp(exponent, 1) + math.log(
            16 / 8000 / math.sqrt(2 * math.pi * variance)
        )
        for shift in (0.0, 1.0):
            z = importance(energies, t, u_next, 20000, generator(7), shift=shift)
            assert torch.allclose(z.log_fresh_N, exact, atol=0.05)
        annealed, _ = anneal(energies, t, u_next, 2000, 20, generator(8))
        assert torch.allclose(annealed, exact, atol=0.1)


def test_sandwich_of_the_global_normaliser_encloses_quadrature() -> None:
    prior = wavy_energy(SymbolPrior(1, config("svebm"), generator(9)), 5.0)
    energies = conditionals(prior)
    grid = torch.linspace(-9, 9, 9001).unsqueeze(1)
    log_density = energies.value(grid, 0).double() - 0.5 * grid.double().square().sum(-1)
    exact = float(torch.logsumexp(log_density, 0)) + math.log(18 / 9000) - 0.5 * LOG_2PI
    start = torch.randn(200, 1, generator=generator(10))
    normaliser = global_normaliser(energies, start, generator(11), draws=40000, particles=2000)
    assert normaliser.plain == pytest.approx(exact, abs=0.02)
    assert normaliser.forward == pytest.approx(exact, abs=0.1)
    assert normaliser.reverse == pytest.approx(exact, abs=0.1)
    assert normaliser.log_z == normaliser.plain
    distrusting = global_normaliser(energies, start, generator(11), draws=4000, trusted_ess=1e9)
    assert distrusting.log_z == distrusting.forward


def test_pilot_moves_the_proposal_where_the_energy_is_steep() -> None:
    prior = DiffusionPrior(40, config(), generator(12))
    energies = conditionals(prior)
    slope = torch.full((40,), 2.0)
    steep = type(energies)(
        value=lambda v, _t: v @ slope,
        gradient=lambda v, _t: (v @ slope, slope.expand_as(v)),
        **{name: getattr(energies, name) for name in
           ("factor", "variance", "scale", "signal", "noise", "abar0", "sbar0", "step")},
    )  # fmt: skip
    u_next = torch.randn(20, 40, generator=generator(13))
    assert choose_shift(steep, 2, u_next, 64, generator(14)) == 1.0
    # For a linear F the moved proposal is exact: log Z = F(m) + s^2 |slope|^2 / 2.
    exact = (steep.factor[2] * u_next) @ slope + 0.5 * steep.variance[2] * 160.0
    z = importance(steep, 2, u_next, 64, generator(15), own_ND=u_next, shift=1.0)
    assert torch.allclose(z.log_fresh_N, exact.double(), atol=1e-3)
    assert torch.allclose(z.log_own_N, exact.double(), atol=1e-3)


def test_diffusion_likelihood_matches_two_level_quadrature_in_one_dimension() -> None:
    """p(x) of a 1-D LDEBM with a wavy energy, integrated on grids through every level."""
    prior = wavy_energy(DiffusionPrior(1, config(levels=3), generator(16)), 2.0)
    energies = conditionals(prior)
    axis = torch.linspace(-7, 7, 2801, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    density = None
    for t in reversed(range(3)):
        v = energies.scale[t] * axis
        energy = energies.value(v.float().unsqueeze(1), t).double().exp()
        kernel = torch.exp(
            -0.5 * (v[:, None] - energies.factor[t] * axis[None]) ** 2 / energies.variance[t]
        )
        joint = energy[:, None] * kernel
        joint = joint / (joint.sum(0, keepdim=True) * step)
        density = joint[:, 0] if density is None else (joint * density).sum(1) * step
    assert density is not None
    model = LinearGaussian(1, noise=0.4)
    x = model.data(30)
    decoder = torch.exp(
        -0.5 * (x.double() - axis[None] * float(model.weight)) ** 2 / 0.16
    ) / math.sqrt(2 * math.pi * 0.16)
    exact = -torch.log((decoder * density).sum(1) * step).numpy()
    settings = LikelihoodSettings(trajectories=2000, inner=32)
    result = likelihood(model, prior, [x], settings)["prior"]
    gaussian = model.exact(x)
    assert np.abs(exact - gaussian).max() > 0.05  # the energy matters
    assert abs((result.nll_B - exact).mean()) < 0.005
    assert np.abs(result.nll_B - exact).max() < 0.05


def test_results_repeat_and_follow_the_order_of_the_rows() -> None:
    model = LinearGaussian(3)
    x = model.data(6)
    prior = DiffusionPrior(3, config(), generator(17))
    settings = LikelihoodSettings(trajectories=50, inner=8, top_draws=512)
    first = likelihood(model, prior, [x[:3], x[3:]], settings)["prior"]
    again = likelihood(model, prior, [x[:3], x[3:]], settings)["prior"]
    assert (first.nll_B == again.nll_B).all()
    assert np.argmax(first.nll_B) == np.argmax(model.exact(x))


def test_metrics_hold_the_interval_and_the_diagnostics() -> None:
    model = LinearGaussian(2)
    prior = DiffusionPrior(2, config(), generator(18))
    settings = LikelihoodSettings(trajectories=50, inner=8, top_draws=512)
    metrics = likelihood(model, prior, [model.data(12)], settings)["prior"].metrics()
    assert metrics["nll_low"] < metrics["nll"] < metrics["nll_high"]
    assert metrics["nll_rows"] == 12
    assert {"nll_ess", "nll_inner_ess_0", "nll_half_outer", "nll_half_inner"} <= set(metrics)
    mean, error, _, _ = mean_interval(np.array([0.0, 2.0]))
    assert (mean, error) == (1.0, pytest.approx(1.0))


def test_published_svebm_estimator_loses_the_divergence_term() -> None:
    """With F = 0 the exact NLL is known; the published estimate is nats too low."""
    model = LinearGaussian(40, noise=0.5)
    x = model.data(10)
    prior = constant_energy(SymbolPrior(40, config("svebm")), 0.0)
    legacy = nll_legacy(model, prior, [x], seed=0)
    assert (model.exact(x) - legacy).mean() > 10


def test_published_ldebm_estimator_is_tens_of_nats_off_where_the_answer_is_known() -> None:
    """With F constant and D = 40 it is 54 to 69 nats too high (docs/method.md, section 5.2)."""
    model = LinearGaussian(40, noise=0.5)
    x = model.data(10)
    prior = constant_energy(DiffusionPrior(40, config(base=False)), 0.0)
    legacy = nll_legacy(model, prior, [x], seed=0)
    valid = likelihood(
        model, prior, [x], LikelihoodSettings(trajectories=200, inner=2, top_draws=256)
    )["prior"]
    assert abs((legacy - valid.nll_B).mean()) > 20


def test_rivals_are_scored_on_the_same_draws_in_coordinates_of_their_own() -> None:
    latent = 4
    model = LinearGaussian(latent)
    x = model.data(12)
    mu = torch.randn(500, latent, generator=generator(3)) * 1.5 + 0.3
    priors = {}
    for name, standardise in (("diagonal", "diagonal"), ("full", "full"), ("none", "none")):
        kind = SymbolPrior if name == "full" else DiffusionPrior
        energy_kind = "svebm" if name == "full" else "diffusion"
        prior = kind(latent, config(energy_kind, standardise=standardise), generator(0))
        priors[name] = constant_energy(prior, 1.0)
        priors[name].fit_standardisation(mu, torch.full((500, latent), -9.0))
    settings = LikelihoodSettings(trajectories=400, inner=4, top_draws=256)
    leader = GaussianPrior(latent, config("gaussian"))
    both = likelihood(model, leader, [x[:5], x[5:]], settings, rivals=priors)
    assert list(both) == ["diagonal", "full", "none", "prior"]
    # With constant energies each is a Gaussian: that of its coordinates, the leader N(0, I).
    assert np.abs(both["none"].nll_B - both["prior"].nll_B).max() < 0.05
    for name in ("diagonal", "full"):
        scale = priors[name].scale_DD
        covariance = model.weight @ scale @ scale.t() @ model.weight.t()
        covariance = covariance + model.noise**2 * torch.eye(len(covariance))
        normal = torch.distributions.MultivariateNormal(
            model.weight @ priors[name].shift_D, covariance
        )
        assert np.abs(both[name].nll_B + normal.log_prob(x).numpy()).mean() < 0.1
        assert len(both[name].inner_ess) == priors[name].levels - 1


def test_a_mixture_as_proposal_changes_the_spread_of_the_estimate_and_not_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trajectories, "SIDES", 4)
    model = LinearGaussian(2)
    x = model.data(8)
    prior = wavy_energy(DiffusionPrior(2, config(), generator(5)), 4.0)
    close = Mixture(2, 2).double()
    means, eye = torch.tensor([[0.4, 0.0], [-0.4, 0.1]]), torch.eye(2)
    close.take(torch.tensor([0.5, 0.5]).log(), means, torch.stack([0.8 * eye, eye]))
    settings = LikelihoodSettings(400, 64, top_draws=8192, top_particles=16, top_steps=10)
    plain = likelihood(model, prior, [x], settings)["prior"]
    rivals = {"same": prior}
    both = likelihood(model, prior, [x], settings, rivals=rivals, proposal=close)
    for name in ("prior", "same"):
        assert abs((both[name].nll_B - plain.nll_B).mean()) < 0.05


def test_the_mixture_is_the_proposal_where_it_beats_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F concentrates where the kernel hardly draws; the mixture sits there."""
    monkeypatch.setattr(trajectories, "SIDES", 4)
    prior = DiffusionPrior(2, config(), generator(6))
    sharp = Mixture(1, 2)
    sharp.take(torch.zeros(1), torch.full((1, 2), 0.5), 0.01 * torch.eye(2)[None])
    pilot = sharp.draw(256, generator(7))
    table = conditionals(prior)
    base = DiffusedMixture(sharp, prior.schedule, level_noise=True)
    settings = LikelihoodSettings(top_draws=256, top_particles=16, top_steps=4)
    scorer = Trajectories(prior, settings, pilot, proposal=sharp)
    scorer.energies = replace(table, value=base.ratio, gradient=base.ratio_and_gradient)
    scorer.mixed = tilting(scorer.energies, base)
    levels = table.forward(pilot, generator(8))
    scorer.written = [scorer.energies] * 5
    assert scorer._choose(0, levels[1][:64], generator(9))[0] == 0.0
    assert scorer.written[0] is scorer.mixed
    scorer._choose(4, levels[5][:64], generator(9))
    assert scorer.written[4] is scorer.energies


def test_levels_whose_draws_are_poor_get_more_of_them_at_the_same_cost() -> None:
    assert trajectories._divided(64, [60.0, 60.0, 60.0], [1.0, 1.0, 1.0]) == [64, 64, 64]
    inner = trajectories._divided(64, [8.0, 32.0, 63.9], [2.0, 1.0, 1.0])
    assert inner[0] > inner[1] > inner[2] == 8
    assert 2 * inner[0] + inner[1] + inner[2] == pytest.approx(3 * 64, abs=12)
    assert trajectories._divided(4, [1.0, 4.0], [1.0, 1.0]) == [8, 4]


def step_energy(height: float, place: float) -> Conditionals:
    """One inner level over a standard normal kernel, F = height beyond ``place``, above the top."""

    def value(v_ND: torch.Tensor, t: int) -> torch.Tensor:
        return height * torch.sigmoid((v_ND[:, 0] - place) / 0.1)

    def gradient(v_ND: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = torch.sigmoid((v_ND - place) / 0.1)
        return height * part[:, 0], height * part * (1 - part) / 0.1

    ones = (1.0, 1.0)
    return Conditionals(value, gradient, (0.0, 0.0), ones, ones, ones, ones, 1.0, 0.0, (0.5, 0.5))


def test_reverse_annealing_finds_the_other_side_of_an_inner_normaliser() -> None:
    u_next, grid = torch.zeros(64, 1), torch.linspace(-8, 8, 4001)[:, None]
    for height, place, own in ((2.0, 0.5, 1.0), (-1.0, 0.0, -0.5), (0.0, 0.0, 0.0)):
        energies = step_energy(height, place)
        log_p = energies.value(grid, 0) - 0.5 * grid[:, 0] ** 2 - 0.5 * LOG_2PI
        exact = float(torch.logsumexp(log_p, 0)) + math.log(16 / 4000)
        v = torch.full((64, 1), own)
        ends = equilibrium(energies, 0, u_next, v.repeat_interleave(50, 0), 100, generator(0))
        high = anneal_back(energies, 0, u_next, ends, 50, generator(1))
        assert float(high.mean()) == pytest.approx(exact, abs=0.05)
        assert distance_of_sides(energies, 0, u_next, v, 64, generator(2)) < 0.3


def test_sides_that_are_far_apart_are_seen_where_the_draws_show_nothing() -> None:
    """F = 16 on a share of 1.9e-4 of the kernel: the draws hardly ever meet it."""
    energies, u_next = step_energy(16.0, 3.55), torch.zeros(64, 1)
    inside = torch.full((64, 1), 3.9)
    ess = importance(energies, 0, u_next, 64, generator(0)).ess_N
    assert float(ess.median()) > 63
    assert distance_of_sides(energies, 0, u_next, inside, 64, generator(1)) > 2


def test_an_estimate_whose_sides_are_apart_gives_no_number() -> None:
    ones = np.ones(3)
    estimate = Estimate(ones, ones, ones, ones, ones, ones, ones, sides=[0.2, 0.3])
    assert not estimate.refused
    assert estimate.metrics()["nll"] == 1.0
    estimate.sides = [0.2, 1.3]
    assert estimate.refused
    metrics = estimate.metrics()
    assert metrics["nll_refused"] == 1.0
    assert metrics["nll_sandwich_1"] == 1.3
    assert not {"nll", "nll_low", "nll_lower", "nll_upper"} & metrics.keys()
