"""Priors given a context: the same parameters, every row its own context, exact derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldebm.config import PriorConfig
from ldebm.errors import UsageError
from ldebm.priors import DiffusionPrior, EnergyPrior, SymbolPrior, energy
from ldebm.priors.energy_net import EnergyNet
from ldebm.seeding import generator
from ldebm.training.prior_objectives import prior_terms
from ldebm.training.score_matching import score_matching_terms

LATENT, CONTEXT = 3, 5


def make(kind: str = "diffusion", **changes: Any) -> EnergyPrior:
    content: dict[str, Any] = {
        "kind": kind,
        "training": {"updates": 1},
        "classes": 4,
        "levels": 3,
        "energy": {
            "arch": "residual" if kind == "diffusion" else "mlp",
            "hidden": 16, "blocks": 2, "activation": "silu", "spectral_norm": False,
        },
    } | changes  # fmt: skip
    config = PriorConfig.model_validate(content)
    made = DiffusionPrior if kind == "diffusion" else SymbolPrior
    prior = made(LATENT, config, generator(0, "prior"), CONTEXT)
    with torch.no_grad():
        prior.net.output.weight.mul_(2 if kind == "svebm" else 20)
        prior.net.context1.weight.mul_(1 if kind == "svebm" else 5)
    return prior


def contexts(rows: int) -> torch.Tensor:
    return torch.randn(rows, CONTEXT, generator=generator(0, "contexts", rows))


@pytest.mark.parametrize("kind", ["diffusion", "svebm"])
def test_row_i_has_context_i_modulo_b(kind: str) -> None:
    prior, c = make(kind), contexts(4)
    z = torch.randn(10, LATENT, generator=generator(1, "z"))
    together = prior.conditioned_on(c).class_logits(z)
    for i in range(10):
        alone = prior.conditioned_on(c[i % 4 : i % 4 + 1]).class_logits(z[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])
    other = prior.conditioned_on(c[1:2]).class_logits(z[:1])[0]
    assert float((together[0] - other).abs().max().detach()) > 1e-3


@pytest.mark.parametrize("kind", ["diffusion", "svebm"])
def test_the_gradient_of_a_chain_is_that_of_the_energy(kind: str) -> None:
    net = make(kind).net
    assert isinstance(net, EnergyNet)
    z = torch.randn(6, LATENT, generator=generator(1, "z")).requires_grad_()
    t_B = torch.arange(6) % 3
    given = net.conditioned_on(contexts(6))
    (want,) = torch.autograd.grad(torch.logsumexp(given(z, t_B), -1).sum(), z)
    with torch.no_grad():
        value, got = given.freeze().value_and_gradient(z, t_B)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value, torch.logsumexp(given(z, t_B), -1).detach())


def test_training_terms_of_given_contexts_reach_all_parameters() -> None:
    prior = make()
    assert isinstance(prior, DiffusionPrior)
    u = torch.randn(8, LATENT, generator=generator(2, "u"))
    label = torch.arange(8) % 4
    for terms in (
        prior_terms(prior.conditioned_on(contexts(8)), u, label, generator(3))[0],
        score_matching_terms(
            prior.conditioned_on(contexts(8)), u, torch.zeros_like(u), label, generator(3)
        ),
    ):
        prior.zero_grad()
        terms.total.backward()
        for name, parameter in prior.named_parameters():
            assert parameter.grad is not None, name
            if "context" in name:
                assert float(parameter.grad.abs().max()) > 0, name


def test_a_given_prior_shares_parameters_and_steps_with_its_own() -> None:
    prior = make()
    given = prior.conditioned_on(contexts(2))
    assert given.net.net is prior.net
    assert given.step_T is prior.step_T
    assert {id(p) for p in given.parameters()} == {id(p) for p in prior.parameters()}
    assert given.conditioned_on(contexts(3)).net.net is prior.net
    assert not any(name.startswith("net.net") for name in prior.state_dict())


def test_without_a_context_the_network_says_so() -> None:
    with pytest.raises(ValueError, match="conditioned_on"):
        make().sample(3, generator(0))
    plain = EnergyNet(LATENT, 4, 3, make().config.energy, generator(0))
    with pytest.raises(ValueError, match="context of size 0"):
        plain.freeze(contexts(1))


@pytest.mark.parametrize("kind", ["diffusion", "svebm"])
def test_class_samples_given_contexts_follow_bayes_rule(kind: str) -> None:
    """By rejection, p(z|y,c): its mean equals that of draws of p(z|c) weighted by p(y|z,c)."""
    prior, c = make(kind), contexts(2)
    rows = 3000
    drawn = prior.sample(2 * rows, generator(5), 1, context_BC=c)
    for i in range(2):
        given = prior.conditioned_on(c[i : i + 1])
        z = given.sample(20_000, generator(6, i))
        weight = torch.softmax(given.class_logits(z), -1)[:, 1]
        want = (weight[:, None] * z).sum(0) / weight.sum()
        torch.testing.assert_close(drawn[i::2].mean(0), want, rtol=0.1, atol=0.09)


def test_a_class_that_never_follows_a_context_is_a_usage_error(monkeypatch) -> None:
    monkeypatch.setattr(energy, "CLASS_ROUNDS", 3)
    prior = make()
    with torch.no_grad():
        prior.net.output.bias[2] = -80
    with pytest.raises(UsageError, match="context"):
        prior.sample(2, generator(0), 2, context_BC=contexts(2))
