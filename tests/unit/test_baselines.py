"""The mathematics of the baselines against enumeration, and what each of them minimises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from ldebm.baselines.codes import (
    FLOOR,
    average_divergence,
    averaged_gaussian,
    code_divergence,
    code_information,
    digits,
    gumbel_softmax,
    joint_log_probability,
    kl_gaussians,
    log_one_hot,
    of_variables,
)
from ldebm.baselines.model import CodePosterior, TextBaseline
from ldebm.baselines.objectives import annealed_weight, baseline_terms, elbo_rate
from ldebm.config import BackboneConfig, ExperimentConfig, parse
from ldebm.data.batches import collate_ids
from ldebm.errors import UsageError
from ldebm.seeding import generator
from ldebm.training.objectives import gaussian_kl
from tests.unit.baseline_models import KINDS, META, baseline, section

VARIABLES, VALUES = 3, 4


def log_q(rows: int = 6) -> torch.Tensor:
    logits = torch.randn(rows, VARIABLES, VALUES, generator=generator(0, "q"), dtype=torch.float64)
    return torch.log_softmax(2 * logits, -1)


def test_divergences_of_codes_equal_those_over_all_joint_codes():
    q = log_q()
    joint = joint_log_probability(q)
    uniform = -VARIABLES * math.log(VALUES)
    assert torch.allclose(joint.exp().sum(-1), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(code_divergence(q), (joint.exp() * (joint - uniform)).sum(-1))
    by_variable = Categorical(logits=q)
    mean = Categorical(probs=q.exp().mean(0))
    assert torch.allclose(
        code_information(q), (mean.entropy() - by_variable.entropy().mean(0)).sum()
    )
    flat = Categorical(probs=torch.full((VALUES,), 1 / VALUES, dtype=torch.float64))
    assert torch.allclose(average_divergence(q), kl_divergence(mean, flat).sum())


def test_joint_codes_are_numbered_as_their_digits():
    codes = torch.tensor(list(itertools.product(range(VALUES), repeat=VARIABLES)))
    assert torch.equal(digits(torch.arange(VALUES**VARIABLES), VARIABLES, VALUES), codes)
    for label in (0, 17, 63):
        known = log_one_hot(codes[label : label + 1], VALUES)
        assert int(joint_log_probability(known).argmax()) == label
        assert float(joint_log_probability(known).max()) == 0
        assert float(known.min()) == FLOOR


def test_relaxed_draws_are_probabilities_and_their_largest_values_follow_q():
    q = log_q(1).expand(20000, -1, -1)
    uniform = torch.rand(q.shape, generator=generator(0, "u"), dtype=torch.float64)
    soft = gumbel_softmax(q, uniform, 1.0)
    assert torch.allclose(soft.sum(-1), torch.ones((), dtype=torch.float64))
    shares = torch.nn.functional.one_hot(soft.argmax(-1), VALUES).double().mean(0)
    assert float((shares - q[0].exp()).abs().max()) < 0.015


def test_average_of_natural_parameters_and_dispersion_give_the_expected_divergence():
    stream = generator(0, "mixture")
    mean, logvar = torch.randn(2, VARIABLES, VALUES, 2, generator=stream, dtype=torch.float64)
    mu, log_s = torch.randn(2, 6, VARIABLES, 1, 2, generator=stream, dtype=torch.float64)
    q = log_q()
    of_each = kl_divergence(
        Normal(mu, (0.5 * log_s).exp()), Normal(mean, (0.5 * logvar).exp())
    ).sum(-1)
    expected = (q.exp() * of_each).sum((-1, -2))
    bar, bar_logvar, dispersion = averaged_gaussian(q, mean, logvar)
    kl = kl_gaussians(mu.squeeze(2), log_s.squeeze(2), bar, bar_logvar).sum((-1, -2))
    assert torch.allclose(kl + dispersion, expected)
    assert float(dispersion.min()) > 0


def test_dispersion_vanishes_for_known_codes_and_for_equal_components():
    mean, logvar = torch.randn(2, VARIABLES, VALUES, 2, generator=generator(0, "m"))
    known = log_one_hot(torch.tensor([[0, 1, 3]]), VALUES)
    bar, bar_logvar, dispersion = averaged_gaussian(known, mean, logvar)
    assert float(dispersion.abs()) < 1e-5
    assert torch.allclose(bar[0, 2], mean[2, 3], atol=1e-5)
    assert torch.allclose(bar_logvar[0, 1], logvar[1, 1], atol=1e-5)
    same = mean[:, :1].expand(-1, VALUES, -1), logvar[:, :1].expand(-1, VALUES, -1)
    assert float(averaged_gaussian(log_q().float(), *same)[2].abs().max()) < 1e-4


def terms(kind: str, update: int = 10**6, **more: object):
    model = baseline(kind, **more)
    config = section(kind, kl_warmup=5000, **more)
    batch = collate_ids([[2, 5, 6, 3], [2, 7, 3], [2, 9, 8, 7, 3]])
    with torch.no_grad():  # posteriors that differ by more than float32 rounds away
        for weight in model.parameters():
            weight.mul_(2)
    posterior = model.posterior(batch)
    nll = torch.tensor([1.0, 2.0, 6.0])
    return baseline_terms(nll, posterior, model, config, update), posterior, model


@pytest.mark.parametrize("kind", ["vae", "dvae", "semivae", "gmvae"])
def test_with_all_terms_the_loss_is_the_negative_elbo(kind: str):
    loss, posterior, model = terms(kind)
    rate = elbo_rate(posterior, model)
    assert rate is not None
    assert loss.total.item() == pytest.approx(3 + rate.mean().item(), abs=1e-4)


def test_what_is_left_out_is_left_out():
    assert float(terms("rnnlm")[0].total) == 3
    assert float(terms("ae")[0].total) == 3
    assert float(terms("dae")[0].total) == 3
    loss, posterior, _ = terms("divae", update=0)
    assert loss.total.item() == pytest.approx(3 + average_divergence(posterior.log_q_BMK).item())
    for kind in ("semivae", "gmvae", "dgmvae"):
        whole, without = terms(kind)[0], terms(kind, information=True)[0]
        gap = (whole.total - without.total).item()
        assert gap == pytest.approx(float(whole.parts["information"]), abs=1e-5)
        assert gap > 0
    gm, dgm = terms("gmvae")[0], terms("dgmvae")[0]
    gap = (gm.total - dgm.total).item()
    assert gap == pytest.approx(0.8 * float(gm.parts["dispersion"]), rel=1e-4)
    assert terms("ae")[2].posterior(collate_ids([[2, 5, 3]])).logvar_BD.max() == -12


def test_the_weight_rises_as_published_except_that_of_the_average_code():
    assert annealed_weight(2500, 5000) == 0.5
    assert annealed_weight(1000, 5000) == pytest.approx(1 / (1 + math.exp(-0.0025 * (1000 - 2500))))
    w = annealed_weight(1000, 5000)
    early, posterior, _ = terms("vae", update=1000)
    kl = gaussian_kl(posterior.mu_BD, posterior.logvar_BD).mean().item()
    assert early.total.item() == pytest.approx(3 + w * kl, rel=1e-5)
    for kind, average, information in (("dae", 1 - w, 0), ("dvae", 1, w), ("divae", 1, 0)):
        early, posterior, _ = terms(kind, update=1000)
        expected = 3 + average * average_divergence(posterior.log_q_BMK)
        expected = expected + information * code_information(posterior.log_q_BMK)
        assert early.total.item() == pytest.approx(expected.item(), rel=1e-5), kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_latent_carries_the_code_and_the_decoder_reads_its_most_probable_values(kind: str):
    model = baseline(kind)
    batch = collate_ids([[2, 5, 6, 3], [2, 7, 3]])
    latent, logvar = model.encode(batch)
    assert latent.shape == logvar.shape == (2, model.latent)
    read = model.read(latent)
    assert read.shape[1] == model.initial.in_features
    if model.baseline.coded:
        q = of_variables(latent[:, : model.code_size], 2, 3)
        assert torch.allclose(q.exp().sum(-1), torch.ones(()))
        if not model.baseline.mixture:
            one_hot = read[:, : model.code_size].reshape(q.shape)
            assert torch.equal(one_hot.argmax(-1), q.argmax(-1))
            assert torch.equal(one_hot.sum(-1), torch.ones(q.shape[:2]))
    if model.baseline.continuous:
        assert torch.equal(read[:, -model.vector_size :], latent[:, -model.vector_size :])
    nll = model.reconstruction_nll(batch, latent)
    assert torch.allclose(nll, model.nll_matrix(batch, latent.unsqueeze(0))[0], atol=1e-4)
    assert len(model.decode(latent)) == 2


def test_the_same_generator_gives_the_same_weights_and_the_mixture_is_standard_normal():
    one, two = baseline("gmvae"), baseline("gmvae")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert 0.7 < float(one.mixture_mean_MKD.detach().std()) < 1.3
    assert isinstance(
        TextBaseline(section("gmvae", init="uniform"), META).mixture_mean_MKD, torch.Tensor
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": {"kind": "dvae"}}, "has no z; set it to null"),
        ({"baseline": {"kind": "gmvae", "variables": 3}}, "a multiple of its 3 variables"),
        ({"baseline": {"kind": "vae", "information": True}}, "expected semivae, gmvae or dgmvae"),
        ({"baseline": {"kind": "gmvae", "dispersion": 0.3}}, "expected kind 'dgmvae'"),
        ({"baseline": {"kind": "gmvae", "value": 3}}, "did you mean 'values'"),
        ({"baseline": {"kind": "vae"}, "arch": "mlp"}, "needs arch 'gru'"),
        ({"baseline": {"kind": "vae"}, "kl_floor": 2.0}, "needs kl_floor 0"),
    ],
)
def test_a_section_that_makes_no_sense_is_one_line(changes: dict[str, object], message: str):
    content = {"arch": "gru", "latent": 8, "training": {"updates": 1}, **changes}
    with pytest.raises(UsageError, match=message):
        parse(BackboneConfig, content, "backbone")


def test_priors_and_baselines_have_to_belong_together():
    training = {"updates": 1}
    own = {"kind": "own", "standardise": "none", "training": training}
    plain = {"arch": "gru", "latent": 8, "training": training}
    for backbone, prior, message in (
        (plain, own, "needs a section backbone.baseline"),
        ({**plain, "baseline": {"kind": "semivae"}}, {"training": training}, "prior of its own"),
        ({**plain, "baseline": {"kind": "vae"}}, {**own, "standardise": "full"}, "standardise"),
    ):
        with pytest.raises(UsageError, match=message):
            parse(ExperimentConfig, {"data": "d", "backbone": backbone, "prior": prior}, "e")
    config = ExperimentConfig.model_validate(
        {
            "data": "d",
            "backbone": {**plain, "baseline": {"kind": "ae"}},
            "prior": {"training": training},
        }
    )
    assert config.prior.kind == "diffusion", "a plain vector can have any prior"


def test_sections_without_a_baseline_are_written_as_before():
    plain = BackboneConfig.model_validate({"arch": "gru", "latent": 8, "training": {"updates": 1}})
    assert "baseline" not in plain.model_dump(mode="json")
    assert isinstance(CodePosterior(None, None, None), CodePosterior)
