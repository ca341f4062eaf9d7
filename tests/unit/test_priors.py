"""With a constant network every prior is a Gaussian that is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.config import PriorConfig
from ldebm.errors import UsageError
from ldebm.priors import DiffusionPrior, EnergyPrior, GaussianPrior, SymbolPrior
from ldebm.seeding import generator


def make(latent: int = 2, constant: bool = True, **changes: Any) -> Any:
    content: dict[str, Any] = {
        "training": {"updates": 1},
        "classes": 4,
        "energy": {"hidden": 16, "blocks": 2, "activation": "silu", "spectral_norm": False},
    } | changes
    prior = build_prior(latent, PriorConfig.model_validate(content), generator(0, "prior"))
    if constant and isinstance(prior, EnergyPrior):
        with torch.no_grad():
            prior.net.output.weight.zero_()
            prior.net.output.bias.zero_()
    return prior


def test_a_constant_network_with_base_samples_the_standard_normal() -> None:
    prior = make()
    z = prior.sample(20_000, generator(1, "sample"))
    assert float(z.mean().abs()) < 0.02
    torch.testing.assert_close(torch.cov(z.t()), torch.eye(2), rtol=0.03, atol=0.03)


def test_the_base_kernels_compose_to_the_standard_normal_at_every_level() -> None:
    prior: DiffusionPrior = make()
    factor, variance = prior.kernel_tables()
    level_variance = 1.0
    for t in reversed(range(prior.levels)):
        scaled = float(factor[t]) ** 2 * level_variance + float(variance[t])
        level_variance = scaled / float(prior.schedule.scale[t + 1]) ** 2
        assert level_variance == pytest.approx(1, abs=1e-6)


def test_without_base_the_kernel_is_the_papers_recovery_kernel() -> None:
    prior: DiffusionPrior = make(base=False)
    factor, variance = prior.kernel_tables()
    sigma = torch.as_tensor(prior.schedule.sigma[1:], dtype=torch.float32)
    torch.testing.assert_close(factor, torch.tensor([1.0, 1, 1, 1, 1, 0]))
    torch.testing.assert_close(variance, sigma.square())


def test_published_sampling_has_the_variance_of_its_recursion() -> None:
    sampler = {"method": "ula", "steps": 50, "rule": "published", "start": "previous"}
    prior: DiffusionPrior = make(base=False, energy_scale="code", sampler=sampler)
    u = prior.sample_standard(20_000, generator(2, "published"))
    schedule, variance = prior.schedule, 1.0
    for t in reversed(range(6)):
        step2 = schedule.published_step(2e-3)[t]
        kernel = float(prior.kernel_tables()[1][t])
        keep = (1 - 0.5 * step2 / kernel) ** 50
        noise = step2 * (1 - keep**2) / (1 - (1 - 0.5 * step2 / kernel) ** 2)
        start = variance if t < 5 else variance * keep**2
        variance = (start + noise) / schedule.scale[t + 1] ** 2
    assert float(u.var()) == pytest.approx(variance, rel=0.05)
    assert float(u.std()) == pytest.approx(5.0, rel=0.1)  # measured: rms 5.06 at the start


def test_forward_pairs_of_gaussian_data_are_what_the_chain_returns() -> None:
    prior: DiffusionPrior = make()
    stream = generator(3, "pairs")
    pairs = prior.pairs(torch.randn(60_000, 2, generator=stream), stream)
    chain = prior.chain(pairs.u_next_BD, pairs.t_B, stream)
    for t in range(prior.levels):
        rows = pairs.t_B == t
        positive, negative = pairs.v_BD[rows], chain.x_BD[rows]
        assert float(negative.std()) == pytest.approx(float(positive.std()), rel=0.03)
        joint = (positive * pairs.u_next_BD[rows]).mean(), (negative * pairs.u_next_BD[rows]).mean()
        assert float(joint[0]) == pytest.approx(float(joint[1]), abs=0.03)


def test_published_pairs_hold_a_random_level_and_the_top_for_every_row() -> None:
    prior: DiffusionPrior = make(t_sampling="published", t_weight="published")
    stream = generator(0, "published-pairs")
    pairs = prior.pairs(torch.randn(500, 2, generator=stream), stream)
    assert bool((pairs.t_B[:500] < 5).all())
    assert bool((pairs.t_B[500:] == 5).all())
    assert float(pairs.weight_B[-1]) == pytest.approx(0.324, abs=1e-3)


def test_standardisation_whitens_the_aggregate_posterior() -> None:
    prior = make(latent=3)
    stream = generator(0, "latents")
    mixing = torch.tensor([[2.0, 0, 0], [1.0, 0.5, 0], [0.3, -1.0, 1.5]])
    mu = torch.randn(5000, 3, generator=stream) @ mixing.t() + 4
    logvar = torch.full((5000, 3), -1.0)
    prior.fit_standardisation(mu, logvar)
    z = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=stream)
    u = prior.to_standard(z)
    torch.testing.assert_close(torch.cov(u.t()), torch.eye(3), rtol=0.05, atol=0.05)
    torch.testing.assert_close(prior.from_standard(u), z, rtol=1e-4, atol=1e-4)
    expected = torch.linalg.slogdet(prior.scale_DD)[1]
    torch.testing.assert_close(prior.log_det(), expected)


def test_the_fitted_gaussian_has_the_density_of_torch_distributions() -> None:
    prior: GaussianPrior = make(kind="gaussian", standardise="full")
    stream = generator(0, "gaussian")
    mu = torch.randn(2000, 2, generator=stream) @ torch.tensor([[1.0, 0.4], [0.0, 2.0]]) - 1
    prior.fit_standardisation(mu, torch.full_like(mu, -2.0))
    reference = torch.distributions.MultivariateNormal(prior.shift_D, scale_tril=prior.scale_DD)
    torch.testing.assert_close(prior.log_prob(mu), reference.log_prob(mu), rtol=1e-4, atol=1e-4)


def test_class_samples_follow_the_class_posterior() -> None:
    prior: SymbolPrior = make(kind="svebm", constant=False, classes=2)
    with torch.no_grad():
        for parameter in prior.net.parameters():
            parameter.mul_(4)
    z = prior.sample(20_000, generator(5, "all"))
    weight = torch.softmax(prior.class_logits(z), -1)[:, 1].detach()
    expected = (weight.unsqueeze(1) * z).sum(0) / weight.sum()
    drawn = prior.sample(20_000, generator(6, "class"), label=1).mean(0)
    torch.testing.assert_close(drawn, expected, rtol=0.05, atol=0.05)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(UsageError, match="label 9: expected a class from 0 to 3"):
        make().sample(3, generator(0, "x"), label=9)


def test_step_sizes_are_steered_to_the_target_acceptance() -> None:
    prior: DiffusionPrior = make(constant=False)
    stream = generator(0, "adapt")
    for update in range(60):
        pairs = prior.pairs(torch.randn(256, 2, generator=stream), stream)
        chain = prior.chain(pairs.u_next_BD, pairs.t_B, stream)
        prior.observe_acceptance(chain, pairs.t_B, update)
    assert float(prior.acceptance_T.max() - prior.config.sampler.target) < 0.1
