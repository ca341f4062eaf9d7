"""Loss terms agree with closed forms, with autograd and with each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.config import BackboneConfig, ExperimentConfig, PriorConfig
from ldebm.priors import DiffusionPrior, SymbolPrior
from ldebm.seeding import generator
from ldebm.training.objectives import (
    backbone_terms,
    batch_information,
    gaussian_kl,
    masked_entropy,
)
from ldebm.training.prior_objectives import joint_terms, prior_terms
from ldebm.training.prior_tasks import PriorTask
from ldebm.training.score_matching import score_matching_terms


def make_prior(**changes: Any) -> DiffusionPrior:
    content: dict[str, Any] = {
        "training": {"updates": 1},
        "classes": 3,
        "standardise": "none",
        "energy": {"hidden": 16, "blocks": 2, "activation": "silu", "spectral_norm": False},
    } | changes
    prior = build_prior(2, PriorConfig.model_validate(content), generator(0, "prior"))
    assert isinstance(prior, DiffusionPrior)
    return prior


def test_the_kl_is_that_of_torch_distributions() -> None:
    stream = generator(0, "kl")
    mu, logvar = torch.randn(5, 3, generator=stream), torch.randn(5, 3, generator=stream)
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    p = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    expected = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(gaussian_kl(mu, logvar), expected)


def test_the_entropy_mask_acts_only_below_its_standard_deviation() -> None:
    wide, narrow = torch.tensor([[-2.9]]), torch.tensor([[-3.1]])  # std 0.235 and 0.212
    assert float(masked_entropy(wide, 1.0)) == 0.0
    assert float(masked_entropy(narrow, 1.0)) == pytest.approx(1.05)
    assert float(masked_entropy(wide, None)) == pytest.approx(0.95)


def test_mutual_information_is_log_k_for_certain_and_zero_for_constant_classes() -> None:
    certain = 100 * torch.eye(4).repeat(8, 1)
    assert float(batch_information(certain)) == pytest.approx(math.log(4), abs=1e-4)
    assert float(batch_information(torch.zeros(32, 4))) == pytest.approx(0, abs=1e-5)


def test_the_floor_removes_the_pull_of_the_kl_below_it() -> None:
    config = BackboneConfig.model_validate(
        {"arch": "mlp", "latent": 2, "kl_floor": 5.0, "training": {"updates": 1}}
    )
    mu = torch.full((4, 2), 0.1, requires_grad=True)
    terms = backbone_terms(torch.zeros(4), mu, torch.zeros(4, 2), config, 0)
    assert float(terms.total.detach()) == pytest.approx(5.0)
    (gradient,) = torch.autograd.grad(terms.total, mu)
    assert float(gradient.abs().max()) == 0.0


def test_the_contrastive_term_vanishes_on_average_at_the_true_density() -> None:
    prior = make_prior()
    with torch.no_grad():
        prior.net.output.weight.zero_()
    stream = generator(0, "balance")
    for parameter in prior.net.parameters():
        parameter.grad = None
    terms, _, _ = prior_terms(prior, torch.randn(20_000, 2, generator=stream), None, stream)
    terms.total.backward()
    assert float(prior.net.output.bias.grad.abs().max()) < 0.02
    assert abs(float(terms.parts["contrastive"])) < 1e-5


def test_labels_of_minus_one_do_not_count() -> None:
    prior = make_prior(mi_weight=0.0)
    u = torch.randn(6, 2, generator=generator(0, "u"))
    some = torch.tensor([0, 1, -1, -1, -1, -1])
    masked, _, _ = prior_terms(prior, u, some, generator(1, "a"))
    logits = prior.net(prior.scale_zero() * u[:2], 0)
    expected = torch.nn.functional.cross_entropy(logits, some[:2])
    torch.testing.assert_close(masked.parts["class"], expected.detach())


def test_the_joint_loss_without_energies_is_the_negative_elbo() -> None:
    prior = make_prior(mi_weight=0.0, class_weight=0.0, level_noise=False)
    with torch.no_grad():
        prior.net.output.weight.zero_()
        prior.net.output.bias.zero_()
    stream = generator(0, "joint")
    mu = torch.randn(64, 2, generator=stream, requires_grad=True)
    logvar = torch.full((64, 2), -2.0, requires_grad=True)
    z = mu + (0.5 * logvar).exp() * torch.randn(64, 2, generator=stream)
    nll = z.square().sum(-1)
    terms, _, _ = joint_terms(prior, nll, mu, logvar, z, None, stream, None)
    got = torch.autograd.grad(terms.total, [mu, logvar], retain_graph=True)
    elbo = (nll + gaussian_kl(mu, logvar)).mean()
    wanted = torch.autograd.grad(elbo, [mu, logvar])
    for mine, theirs in zip(got, wanted, strict=True):
        # The log-normaliser's gradient is zero on average here; what is left is its noise.
        assert float((mine - theirs).mean().abs()) < 0.02


@pytest.mark.parametrize("floor", [0.0, 1e3])
def test_below_the_floor_the_prior_leaves_the_encoder_alone(floor: float) -> None:
    prior = make_prior(mi_weight=0.0, class_weight=0.0)
    stream = generator(0, "floor")
    mu = torch.randn(64, 2, generator=stream, requires_grad=True)
    logvar = torch.full((64, 2), -2.0, requires_grad=True)
    z = mu + (0.5 * logvar).exp() * torch.randn(64, 2, generator=stream)
    nll = z.square().sum(-1)
    terms, _, _ = joint_terms(
        prior, nll, mu, logvar, z, None, stream, None, rate_factor=1.0, kl_floor=floor
    )
    inputs = [mu, logvar, *prior.net.parameters()]
    got = torch.autograd.grad(terms.total, inputs, retain_graph=True, allow_unused=True)
    words = torch.autograd.grad(nll.mean(), [mu, logvar])
    apart = max(float((a - b).abs().max()) for a, b in zip(got[:2], words, strict=True))
    assert apart < 1e-7 if floor else apart > 1e-3
    assert any(float(g.abs().max()) > 0 for g in got[2:] if g is not None)  # energies still learn


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_a_cycle_scales_all_terms_of_the_prior_and_starts_as_an_auto_encoder(
    factor: float,
) -> None:
    prior = make_prior(mi_weight=3.0, class_weight=0.0, log_normaliser=False)
    stream = generator(0, "cycle")
    mu = torch.randn(64, 2, generator=stream, requires_grad=True)
    logvar = torch.full((64, 2), -2.0)
    z = mu + (0.5 * logvar).exp() * torch.randn(64, 2, generator=stream)
    nll = z.square().sum(-1)

    def total(scale: float) -> torch.Tensor:
        noise = generator(1, "cycle")
        at = {"rate_factor": scale, "cyclical": True}
        return joint_terms(prior, nll, mu, logvar, z, None, noise, None, **at)[0].total

    inputs = [mu, *prior.net.parameters()]
    got = torch.autograd.grad(total(factor), inputs, retain_graph=True)
    alone = torch.autograd.grad(nll.mean(), mu, retain_graph=True)[0]
    if factor == 0:
        assert float((got[0] - alone).abs().max()) < 1e-7
        assert max(float(g.abs().max()) for g in got[1:]) == 0
        return
    prior.config = prior.config.model_copy(update={"mi_weight": 0.0})
    half = torch.autograd.grad(total(0.5), inputs, retain_graph=True)
    full = torch.autograd.grad(total(1.0), inputs, retain_graph=True)
    torch.testing.assert_close(half[0] - alone, 0.5 * (full[0] - alone), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(half[1:], full[1:], strict=True):
        torch.testing.assert_close(mine, 0.5 * theirs, rtol=1e-3, atol=1e-6)


def test_the_log_normaliser_term_has_the_gradient_of_log_z() -> None:
    """A linear energy F(v) = b.v makes Z known: log Z(u') = b.m(u') + |b|^2 s^2 / 2."""
    prior = make_prior(classes=1, sampler={"steps": 1})
    factor, _ = prior.kernel_tables()
    slope = torch.tensor([0.7, -0.4])
    stream = generator(0, "linear")
    rows, level = 200_000, 2
    u_next = torch.randn(rows, 2, generator=stream)
    mean, s2 = prior.base_kernel(u_next, torch.full((rows,), level))
    # Exact draws of exp(b.v) N(v; m, s^2) are Gaussian with mean m + s^2 b.
    v = mean + s2 * slope + s2.sqrt() * torch.randn(rows, 2, generator=stream)
    surrogate_gradient = (factor[level] * (v - mean) / s2).mean(0)
    torch.testing.assert_close(surrogate_gradient, factor[level] * slope, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("base", [True, False])
def test_score_matching_is_smallest_at_the_true_energy(base: bool) -> None:
    """For z ~ N(0, I) the score of every v_t is known; a network that gives it has least loss."""
    start = "base" if base else "previous"
    prior = make_prior(base=base, mi_weight=0.0, class_weight=0.0, sampler={"start": start})
    mu = torch.randn(40_000, 2, generator=generator(0, "mu")) * 0.9**0.5
    logvar = torch.full_like(mu, math.log(0.1))

    def loss(curvature: float) -> float:
        class Quadratic:
            """F(v) = -curvature |v|^2 / 2 beyond what the base already holds."""

            def value_and_gradient(self, v: Any, t: Any) -> Any:
                c = torch.as_tensor(prior.schedule.scale[1:], dtype=v.dtype)[t].unsqueeze(-1)
                own = 0.0 if base else 1.0
                top = (t == prior.levels - 1).unsqueeze(-1)
                exact = torch.where(top, v / prior.kernel_tables()[1][-1] - v, -v / c**2)
                gradient = own * exact - curvature * v
                return v.sum(-1), gradient

            def logits(self, v: Any, t: Any) -> Any:
                return torch.zeros(len(v), 3)

        prior.net.freeze = Quadratic  # type: ignore[method-assign, assignment]
        stream = generator(1, "score")
        return float(score_matching_terms(prior, mu, logvar, None, stream).parts["contrastive"])

    exact = loss(0.0)
    assert exact < loss(0.3)
    assert exact < loss(-0.3)


def test_persistent_chains_continue_where_they_were() -> None:
    """The negative samples of an update start from those of the one before.

    Pang and Wu (2021), algorithm 1.
    """
    experiment = ExperimentConfig.model_validate(
        {
            "data": "points",
            "backbone": {"arch": "mlp", "latent": 2, "training": {"updates": 1}},
            "prior": {
                "kind": "svebm",
                "classes": 3,
                "energy": {"arch": "mlp", "hidden": 8, "blocks": 2, "spectral_norm": False},
                "sampler": {"steps": 1, "step": 1e-6, "adapt": False, "persistent": True},
                "training": {"updates": 2, "batch": 16},
            },
        }
    )
    stream = generator(0, "latents")
    mu = torch.randn(64, 2, generator=stream).numpy()
    prior = build_prior(2, experiment.prior, generator(0, "prior"))
    assert isinstance(prior, SymbolPrior)
    task = PriorTask(prior, mu, mu * 0 - 2, None, experiment, 0, torch.device("cpu"))
    task.loss(0)
    first = task.state()["persistent"].clone()
    task.loss(1)
    torch.testing.assert_close(task.state()["persistent"], first, rtol=0, atol=0.02)
