"""Mixtures: fitting, densities behind noise, and as the base measure of energies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from ldebm.assembly import build_prior
from ldebm.config import ExperimentConfig, MixtureConfig, PriorConfig
from ldebm.priors import EnergyPrior, Posteriors
from ldebm.priors.conditionals import conditionals, tilting
from ldebm.priors.mixture import MixturePrior, choose_mixture, fit_em
from ldebm.priors.normalisers import importance, plain_normaliser
from ldebm.priors.trajectories import held_out_bound
from ldebm.seeding import generator
from ldebm.training.density import DensityTask
from ldebm.training.prior_tasks import PriorTask
from ldebm.training.trainer import train

MIXTURE = {"components": [3], "draws": 2, "rows": 4000}


def heaps(n: int, latent: int, seed: int) -> torch.Tensor:
    """Draws of three Gaussians of different shapes."""
    stream = generator(seed, "heaps")
    centre = 2.0 * torch.randn(3, latent, generator=generator(0, "centres"))
    root = 0.4 * torch.randn(3, latent, latent, generator=generator(0, "roots"))
    which = torch.randint(0, 3, (n,), generator=stream)
    noise = torch.randn(n, latent, generator=stream)
    return centre[which] + torch.einsum("nij,nj->ni", root[which], noise)


def prior_of(kind: str, latent: int = 3, **more: object) -> EnergyPrior | MixturePrior:
    config = PriorConfig.model_validate(
        {
            "kind": kind,
            "levels": 4,
            "classes": 3,
            "energy": {"hidden": 16, "blocks": 2, "spectral_norm": False, "activation": "silu"},
            "standardise": "diagonal",
            "training": {"updates": 1},
            **more,
            **({"mixture": MIXTURE} if "mixture" in (kind, more.get("base_measure")) else {}),
        }
    )
    prior = build_prior(latent, config, generator(0, "prior"))
    x = heaps(4000, latent, 1)
    posteriors = Posteriors(x, torch.full_like(x, -4.0))
    prior.fit(posteriors, posteriors, 0)
    return prior  # type: ignore[return-value]


def silence(prior: EnergyPrior) -> None:
    """F = log K everywhere."""
    with torch.no_grad():
        prior.net.output.weight.zero_()  # type: ignore[union-attr, operator]
        prior.net.output.bias.zero_()  # type: ignore[union-attr, operator]


def test_em_is_as_good_as_that_of_scikit_learn():
    x, held_out = heaps(3000, 4, 1), heaps(3000, 4, 2)
    other = GaussianMixture(3, reg_covar=1e-4, random_state=0).fit(x.numpy())
    weight, mean, covariance = fit_em(x, 3, 0)
    normal = torch.distributions.MultivariateNormal(mean, covariance)
    ours = torch.logsumexp(normal.log_prob(held_out.double()[:, None]) + weight, 1).mean()
    assert float(ours) == pytest.approx(other.score(held_out.numpy()), abs=0.01)
    assert sorted(weight.exp().tolist()) == pytest.approx(sorted(other.weights_), abs=0.01)


def test_the_number_of_components_is_that_of_the_likeliest_held_out_rows():
    x, held_out = heaps(400, 3, 1), heaps(400, 3, 2)
    chosen = choose_mixture(x, held_out, [1, 2, 3, 20], 0)
    assert len(chosen.mean_KD) == 3
    assert chosen.turned
    assert list(chosen.held_out) == [1, 2, 3, 20]
    assert not choose_mixture(x, held_out, [1, 2], 0).turned


def test_a_mixture_prior_has_the_density_of_what_it_draws():
    prior = prior_of("mixture", 2)
    assert isinstance(prior, MixturePrior)
    z = prior.sample(200_000, generator(3, "draws"))
    side = torch.linspace(-8, 8, 41)
    share, *_ = np.histogram2d(*z.numpy().T, bins=(side.numpy(), side.numpy()))
    middle = torch.cartesian_prod(0.5 * (side[1:] + side[:-1]), 0.5 * (side[1:] + side[:-1]))
    fine = middle[:, None] + 0.4 * (torch.cartesian_prod(*2 * [torch.arange(8) / 8]) - 7 / 16)
    mass = prior.log_prob(fine.reshape(-1, 2)).exp().view(-1, 64).mean(1) * 0.16
    assert 0.5 * np.abs(share.ravel() / len(z) - mass.numpy()).sum() < 0.03


def test_the_log_ratio_has_the_gradient_that_chains_use():
    prior = prior_of("diffusion", base_measure="mixture")
    base = prior.tilted
    assert base is not None
    v = torch.randn(20, 3, generator=generator(0, "v")).requires_grad_()
    t = torch.arange(20) % 4
    value, gradient = base.ratio_and_gradient(v.detach(), t)
    exact = base.ratio(v, t)
    torch.testing.assert_close(value, exact.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(exact.sum(), v)[0])
    each = torch.cat([base.ratio(v[i : i + 1], int(t[i])) for i in range(20)])
    torch.testing.assert_close(each, exact)


@pytest.mark.parametrize("kind", ["svebm", "diffusion"])
def test_without_energies_the_prior_is_the_mixture(kind):
    prior = prior_of(kind, base_measure="mixture", level_noise=False)
    exact = prior_of("mixture")
    silence(prior)
    u = exact.sample_standard(6, generator(0, "u"))
    table = conditionals(prior)
    levels = table.forward(u, generator(0, "noise"))
    top, stream = table.levels - 1, generator(0, "draws")
    # Along any trajectory p(u_0..) / q(u_1.. | u_0) is the density of u_0 itself.
    v = table.scale[top] * levels[top]
    total = table.value(v, top).double() - 0.5 * v.double().square().sum(1)
    total += 3 * math.log(table.scale[top]) - plain_normaliser(table, u[:1] * 0, 64, stream)[0]
    for t in range(top):
        v, u_next = table.scale[t] * levels[t], levels[t + 1]
        total += table.value(v, t).double() + 3 * math.log(table.scale[t])
        kernel = (v - table.factor[t] * u_next).double().square().sum(1) / table.variance[t]
        total -= 0.5 * (kernel + 3 * math.log(table.variance[t]))
        forward = (u_next - table.signal[t] * levels[t]).double().square().sum(1)
        total += 0.5 * (forward / table.noise[t] ** 2 + 3 * math.log(table.noise[t] ** 2))
        total -= importance(table, t, u_next, 8, stream).log_fresh_N
    total -= 0.5 * 3 * math.log(2 * math.pi)
    torch.testing.assert_close(total.float(), exact.log_standard(u), atol=2e-3, rtol=1e-3)


def test_energies_that_have_learned_the_mixture_need_no_weights_under_its_draws():
    """F = the mixture's log-ratio: written as tilts of it, every inner normaliser is exact."""
    prior, plain = (prior_of("diffusion", base_measure=name) for name in ("mixture", "normal"))
    silence(prior)
    base = prior.tilted
    assert base is not None
    learned = replace(
        conditionals(plain),
        value=base.ratio,
        gradient=base.ratio_and_gradient,
    )
    written = tilting(learned, base)
    u = prior_of("mixture").sample_standard(200, generator(0, "u"))
    levels = learned.forward(u, generator(0, "noise"))
    for t in range(learned.levels - 1):
        v, u_next = learned.scale[t] * levels[t], levels[t + 1]
        exact = importance(learned, t, u_next, 4096, generator(1, t))
        z = importance(written, t, u_next, 16, generator(2, t), own_ND=v)
        torch.testing.assert_close(z.ess_N, torch.full_like(z.ess_N, 16.0))
        torch.testing.assert_close(z.log_own_N, z.log_fresh_N, atol=1e-4, rtol=1e-4)
        trusted = exact.ess_N > 500
        assert trusted.sum() > 50
        assert (z.log_fresh_N - exact.log_fresh_N)[trusted].abs().mean() < 0.03


def test_mapped_mixture_is_the_density_of_the_mapped_draws():
    mixture = prior_of("mixture").mixture.double()
    matrix = torch.randn(3, 3, generator=generator(0, "A"), dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    x = mixture.draw(50, generator(0, "x"))
    mapped = mixture.mapped(matrix, shift).log_prob(x @ matrix.t() + shift)
    exact = mixture.log_prob(x) - torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(mapped, exact, atol=1e-6, rtol=1e-6)


def test_chains_start_at_exact_draws_of_the_base_measure():
    prior, exact = prior_of("diffusion", base_measure="mixture"), prior_of("mixture")
    silence(prior)
    u = prior.sample_standard(20_000, generator(0, "a"))
    other = exact.sample_standard(20_000, generator(0, "b"))
    torch.testing.assert_close(u.mean(0), other.mean(0), atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(u.t()), torch.cov(other.t()), atol=0.05, rtol=0)
    mine, its = exact.log_standard(u), exact.log_standard(other)
    assert float(mine.mean()) == pytest.approx(float(its.mean()), abs=0.03)


def test_a_saved_mixture_comes_back():
    prior, other = prior_of("diffusion", base_measure="mixture"), prior_of("diffusion")
    fresh = build_prior(3, prior.config, generator(1, "other"))
    fresh.load_state_dict(prior.state_dict())
    v = torch.randn(5, 3, generator=generator(0, "v"))
    torch.testing.assert_close(fresh.net(v, 0), prior.net(v, 0))  # type: ignore[operator]
    assert not any(name.startswith("mixture") for name in other.state_dict())


@pytest.mark.parametrize("sizes", [[], [0, 3], [5, 3], [3, 3]])
def test_numbers_of_components_that_make_no_sense_are_refused(sizes):
    with pytest.raises(ValueError, match="components"):
        MixtureConfig.model_validate({"components": sizes})


def test_a_flow_learns_what_a_gaussian_cannot(tmp_path):
    x, held_out = heaps(2000, 2, 1), heaps(1000, 2, 2)
    exact = Posteriors(x, torch.full_like(x, -9.0)), Posteriors(held_out, held_out * 0 - 9)
    prior = {"kind": "flow", "standardise": "diagonal", "classes": 1}
    prior |= {"flow": {"transforms": 2, "hidden": 32}, "training": {"updates": 150, "batch": 256}}
    prior["training"] |= {"optimiser": {"lr": 5e-3}}
    backbone = {"arch": "mlp", "latent": 2, "training": {"updates": 1}}
    config = ExperimentConfig.model_validate(
        {"data": "points", "backbone": backbone, "prior": prior}
    )
    flow, gaussian = (
        build_prior(2, config.prior.model_copy(update={"kind": kind}), generator(0, "flow"))
        for kind in ("flow", "gaussian")
    )
    gaussian.fit(*exact, 0)
    task = DensityTask.on(flow, *exact, config, 0, torch.device("cpu"))
    result = train(task, config.prior.training, tmp_path / "checkpoint.pt", title="flow")
    flow.load_state_dict(result.state)
    score = float(flow.log_prob(held_out).detach().mean())
    assert score > float(gaussian.log_prob(held_out).mean()) + 0.3
    z = flow.sample(2000, generator(0, "draws"))
    assert float(flow.log_prob(z).detach().mean()) == pytest.approx(score, abs=0.3)
    first, second = (build_prior(2, config.prior, generator(seed, "flow")) for seed in (0, 0))
    torch.testing.assert_close(first.log_prob(held_out), second.log_prob(held_out))


def energy_task(**training: object) -> PriorTask:
    """LDEBM on three Gaussians, with validation rows."""
    x, held_out = heaps(600, 2, 1), heaps(300, 2, 2)
    prior = prior_of("diffusion", 2, training={"batch": 64, "optimiser": {"lr": 3e-3}, **training})
    section = prior.config.model_copy(update={"score_matching": 0.5})
    backbone = {"arch": "mlp", "latent": 2, "training": {"updates": 1}}
    config = ExperimentConfig.model_validate(
        {"data": "points", "backbone": backbone, "prior": section.model_dump()}
    )
    logvar = np.full((600, 2), -4.0, dtype=np.float32)
    rows = Posteriors(held_out, torch.full_like(held_out, -4.0))
    prior.config = config.prior
    return PriorTask(prior, x.numpy(), logvar, None, config, 0, torch.device("cpu"), None, rows)


def test_the_held_out_bound_is_that_of_the_density():
    prior, exact = prior_of("diffusion", 2, base_measure="mixture"), prior_of("mixture", 2)
    silence(prior)
    z = heaps(400, 2, 2)
    bound = held_out_bound(prior, z, 0)
    assert bound == pytest.approx(float(exact.log_prob(z).mean()), abs=0.02)
    assert bound == held_out_bound(prior, z, 0)


def test_weights_are_chosen_by_the_held_out_bound_and_training_stops(tmp_path):
    task = energy_task(updates=200, validate_every=1)
    whole = train(task, task.config.training, None, title="prior")
    scores = [row["score"] for row in whole.validation]
    assert len(scores) == 20
    assert min(scores) < scores[0] - 0.1
    short = energy_task(updates=200, validate_every=1, patience=1)
    result = train(short, short.config.training, tmp_path / "c.pt", title="prior")
    first = next(i for i in range(1, 20) if scores[i] >= min(scores[:i]))
    assert result.updates == 10 * (first + 1)
    best = min(range(first + 1), key=scores.__getitem__)
    short.module.load_state_dict(result.state)
    assert -held_out_bound(short.prior, short.held_out_latents(), 0) == pytest.approx(scores[best])
    assert "score" not in energy_task(updates=10, validate_every=None).validate(10)


def test_patience_without_validations_is_refused():
    with pytest.raises(ValueError, match="validate_every"):
        energy_task(updates=10, validate_every=None, patience=2)


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({"kind": "mixture", "flow": {}}, "prior.flow is of no use"),
        ({"kind": "diffusion", "mixture": {}}, "prior.mixture is of no use"),
        ({"kind": "gaussian", "base_measure": "mixture"}, "needs prior.kind"),
        ({"kind": "svebm", "base_measure": "mixture", "base": False}, "prior.base true"),
        ({"kind": "svebm", "base_measure": "mixture", "scheme": "joint"}, "two_stage"),
    ],
)
def test_sections_that_would_do_nothing_are_refused(prior, said):
    backbone = {"arch": "mlp", "latent": 2, "training": {"updates": 1}}
    section = {"training": {"updates": 1}, "standardise": "none", **prior}
    with pytest.raises(ValueError, match=said):
        ExperimentConfig.model_validate({"data": "points", "backbone": backbone, "prior": section})


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({"kind": "diffusion", "scheme": "joint"}, "needs prior.scheme 'two_stage'"),
        (
            {"kind": "diffusion", "energy_scale": "code", "sampler": {"method": "ula"}},
            "needs prior.energy_scale 'paper'",
        ),
        ({"kind": "diffusion", "base": False}, "prior.base true"),
        ({"kind": "gaussian"}, "needs prior.kind 'svebm' or 'diffusion'"),
    ],
)
def test_a_mixture_is_tilted_only_where_its_conditionals_are_those_of_the_model(prior, said):
    content = {
        "data": "points",
        "backbone": {"arch": "mlp", "latent": 2, "training": {"updates": 1}},
        "prior": {"base_measure": "mixture", "standardise": "none", "training": {"updates": 1}}
        | prior,
    }
    with pytest.raises(ValueError, match=said):
        ExperimentConfig.model_validate(content)
