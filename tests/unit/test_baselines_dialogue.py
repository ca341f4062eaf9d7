"""Baselines of responses: every part reads the context, and a policy is the prior of the code."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ldebm.api import load
from ldebm.assembly import build_model, build_prior
from ldebm.baselines.codes import code_divergence, code_information, digits, log_one_hot
from ldebm.baselines.likelihood import baseline_likelihood
from ldebm.baselines.model import DialogueBaseline
from ldebm.baselines.policy import PolicyPrior, PolicyTask
from ldebm.cli import main
from ldebm.config import EvaluateConfig, ExperimentConfig, PriorConfig, parse
from ldebm.data.batches import DialogueBatch, collate_ids, with_turns
from ldebm.data.packed import Packed
from ldebm.errors import UsageError
from ldebm.files import read_json
from ldebm.seeding import generator
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.labelling import cluster_stage
from ldebm.training.second_stage import prior_stage
from ldebm.training.trainer import train
from tests.unit.baseline_models import META, responses, section
from tests.unit.text_worlds import packed_dialogues

KINDS = ("rnnlm", "ae", "vae", "divae", "semivae", "dgmvae")
ROWS = [[2, 5, 6, 3], [2, 7, 3], [2, 9, 8, 7, 3]]
TURNS: list[list[list[int]]] = [[[2, 5, 3]], [], [[2, 6, 7, 3], [2, 8, 3]]]


def prior_section(**changes: Any) -> PriorConfig:
    training = {"updates": 1, "validate_every": None}
    content = {"kind": "own", "standardise": "none", "training": training}
    return PriorConfig.model_validate(content | changes)


def batch(turns: list[list[list[int]]] = TURNS) -> DialogueBatch:
    flat = [turn for row in turns for turn in row]
    return with_turns(collate_ids(ROWS), collate_ids(flat), [len(row) for row in turns])


def policy(model: DialogueBaseline, sharpness: float = 3.0) -> PolicyPrior:
    """An untrained prior whose codes differ much from context to context."""
    prior = build_prior(model, prior_section(), generator(0, "prior"))
    assert isinstance(prior, PolicyPrior)
    with torch.no_grad():
        prior.policy[2].weight.mul_(sharpness)  # type: ignore[operator]
    return prior


@pytest.mark.parametrize("kind", KINDS)
def test_latents_have_their_size_and_the_decoder_reads_code_vector_and_context(kind: str):
    model, rows = responses(kind), batch()
    coded, continuous = kind in ("divae", "semivae", "dgmvae"), kind not in ("rnnlm", "divae")
    mu, logvar = model.encode(rows)
    assert mu.shape == logvar.shape == (3, max(1, 6 * coded + 4 * continuous))
    read = model.read(mu)
    nll = model.nll_of_read(rows, read)
    assert nll.shape == (3,)
    assert torch.allclose(model.nll_matrix(rows, mu.expand(2, -1, -1))[1], nll, atol=1e-4)
    other = model.nll_of_read(batch([[[2, 11, 3]], [], [[2, 6, 7, 3]]]), read)
    assert ((other - nll).abs() > 1e-6).tolist() == [True, False, True]
    moved = model.nll_of_read(rows, read + 1)
    assert bool(((moved - nll).abs() > 1e-6).all())
    context = model.context(rows)
    long = {"max_len": 20, "context_BC": context}
    assert len(model.decode(mu, **long)) == 3
    draws = [
        model.decode(mu, "sample", generator(0, "w"), max_len=20, context_BC=context * factor)
        for factor in (1.0, -30.0)
    ]
    assert draws[0] != draws[1]


def test_only_a_code_has_a_policy_and_it_needs_contexts():
    assert not build_prior(responses("vae"), prior_section()).contextual
    prior = policy(responses("divae"))
    assert prior.contextual
    with pytest.raises(ValueError, match=r"use conditioned_on\(context\)"):
        prior.sample(2, generator(0, "s"))
    context = torch.randn(3, 7, generator=generator(0, "c"))
    given = prior.conditioned_on(context)
    assert given.policy is prior.policy
    log_p = given.code_log_prior(5)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(5, 2).double())
    assert torch.equal(log_p[:2], log_p[3:])
    with pytest.raises(UsageError, match="no previous turns"):
        DialogueBaseline(section("divae", arch="dialogue"), META | {"context_turns": 0})


def test_draws_follow_the_policy_of_their_context_and_their_class():
    prior = policy(responses("divae"))
    given = prior.conditioned_on(torch.randn(2, 7, generator=generator(0, "c")))
    with torch.no_grad():
        p = given.code_log_prior(2).exp()
    assert float((p[0] - p[1]).abs().max()) > 0.2
    drawn = given.code_part(given.sample(20000, generator(0, "s"))).argmax(-1)
    for row in (0, 1):
        shares = torch.nn.functional.one_hot(drawn[row::2], 3).double().mean(0)
        assert torch.allclose(shares, p[row], atol=0.02)
    z = given.sample(20000, generator(1, "s"), [2, 7])
    classes = given.class_logits(z).argmax(-1)
    assert set(classes.tolist()) == {2, 7}
    for row in (0, 1):
        first, second = (p[row, 0, a] * p[row, 1, b] for a, b in (digits_of(2), digits_of(7)))
        share = float((classes[row::2] == 7).double().mean())
        assert share == pytest.approx(float(second / (first + second)), abs=0.02)


def digits_of(label: int) -> tuple[int, int]:
    first, second = digits(torch.tensor([label]), 2, 3)[0].tolist()
    return first, second


def test_the_density_of_a_vector_is_the_mixture_weighted_by_the_policy():
    model = responses("gmvae")
    prior = policy(model).conditioned_on(torch.randn(3, 7, generator=generator(0, "c")))
    mean, std = model.mixture_mean_MKD.detach(), (0.5 * model.mixture_logvar_MKD.detach()).exp()
    mixture = MixtureSameFamily(
        Categorical(logits=prior.code_log_prior(3).float()),
        Independent(Normal(mean.expand(3, -1, -1, -1), std.expand(3, -1, -1, -1)), 1),
    )
    z = torch.randn(5, 3, 4, generator=generator(0, "z"))
    expected = mixture.log_prob(z.reshape(5, 3, 2, 2)).sum(-1)
    assert torch.allclose(prior.log_prob(z).float(), expected, atol=1e-4)


def test_the_likelihood_given_contexts_is_the_sum_over_all_codes(monkeypatch: pytest.MonkeyPatch):
    model, rows = responses("divae"), batch()
    prior = policy(model)
    with torch.no_grad():
        log_p = prior.log_policy(model.context(rows)).double()
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    latent = log_one_hot(codes, 3).flatten(1).unsqueeze(1).expand(-1, 3, -1)
    of_code = torch.stack([log_p[:, 0, a] + log_p[:, 1, b] for a, b in codes.tolist()])
    joint = of_code - model.nll_matrix(rows, latent).double()
    expected = -torch.logsumexp(joint, 0).numpy()
    likelihood_of = baseline_likelihood(model, prior, [rows], 10, 0)
    assert likelihood_of is not None
    assert likelihood_of.nll_B == pytest.approx(expected, abs=1e-5)
    assert (likelihood_of.upper_B >= likelihood_of.nll_B - 1e-9).all()
    monkeypatch.setattr(prior, "classes", 1)  # as if there were too many to sum over
    sampled = baseline_likelihood(model, prior, [rows], 10000, 0)
    assert sampled is not None
    assert sampled.nll_B == pytest.approx(expected, abs=0.03)
    assert sampled.upper_B == pytest.approx(likelihood_of.upper_B, abs=0.05)


def test_importance_sampling_of_vectors_agrees_with_plain_sampling_given_contexts():
    model, rows = responses("gmvae"), batch()
    model.mixture_logvar_MKD.data.fill_(-1.0)  # narrower than the untrained posterior
    model.mixture_mean_MKD.data.mul_(0.5)
    prior = policy(model)
    likelihood_of = baseline_likelihood(model, prior, [rows], 2000, 0)
    assert likelihood_of is not None
    with torch.no_grad():
        given = prior.conditioned_on(model.context(rows))
        latent = given.sample(6000, generator(0, "plain")).reshape(2000, 3, -1)
    plain = math.log(2000) - torch.logsumexp(-model.nll_matrix(rows, latent).double(), 0)
    assert likelihood_of.nll_B == pytest.approx(plain.numpy(), abs=0.05)


def test_the_policy_learns_a_map_from_contexts_to_codes_and_beats_the_marginal():
    stream = generator(0, "world")
    kinds = torch.randint(9, (400,), generator=stream)
    context = torch.nn.functional.one_hot(kinds, 9).float()[:, :7]  # two of them look the same
    context = context + 0.05 * torch.randn(400, 7, generator=stream)
    kinds = kinds.clamp(max=7)
    latent = log_one_hot(digits(kinds, 2, 3), 3).flatten(1)
    config = prior_section(
        training={"updates": 200, "batch": 64, "optimiser": {"lr": 0.02}, "validate_every": 2}
    )
    model = responses("divae")
    prior = build_prior(model, config, generator(0, "prior"))
    assert isinstance(prior, PolicyPrior)
    arrays = latent.numpy(), context.numpy()
    train_part = arrays[0][:300], arrays[1][:300]
    valid = arrays[0][300:], arrays[1][300:]
    task = PolicyTask(prior, train_part, valid, config, 0, torch.device("cpu"))
    result = train(task, config.training, None, title="policy")
    prior.load_state_dict(result.state)
    log_q = prior.code_part(latent[300:])
    marginal = float(code_information(log_q))
    with torch.no_grad():
        given = prior.conditioned_on(context[300:])
        kl = float(code_divergence(log_q.double(), given.code_log_prior(100)).mean())
        drawn = given.class_logits(given.sample(100, generator(0, "s"))).argmax(-1)
    assert marginal > 1.5
    assert kl < 0.05
    assert float((drawn == kinds[300:]).double().mean()) > 0.9
    assert result.validation[-1]["policy_kl"] < 0.1 * result.validation[0]["policy_kl"]


def experiment(kind: str, **changes: Any) -> ExperimentConfig:
    training = {"updates": 6, "batch": 64, "validate_every": None}
    backbone = section(kind, arch="dialogue").model_dump(mode="json") | {"training": training}
    backbone["latent"] = backbone["latent"] or None
    prior = {"kind": "own", "standardise": "none", "training": training}
    content = {"data": "d", "backbone": backbone, "prior": prior}
    for path, value in changes.items():
        place, key = path.split("__")
        content[place][key] = value  # type: ignore[index]
    return parse(ExperimentConfig, content, "e")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone__arch": "rnn", "backbone__context": None}, "needs arch 'gru' or 'dialogue'"),
        ({"backbone__latent": 5}, "needs a multiple of its 2 variables"),
        ({"prior__kind": "diffusion"}, "has a prior of its own"),
        ({"prior__scheme": "joint"}, "needs prior.scheme 'two_stage'"),
        ({"prior__standardise": "full"}, "prior.standardise 'none'"),
    ],
)
def test_bad_combinations_are_one_clear_line(changes: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message) as caught:
        experiment("dgmvae", **changes)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Path]:
    folder = tmp_path_factory.mktemp("baseline")
    packed = packed_dialogues(folder / "packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build_backbone_stage(experiment("dgmvae"), packed, 0, folder / "backbone")
        latents = folder / "latents.parquet"
        cluster_stage(experiment("dgmvae"), packed, 0, folder / "backbone", latents)
        prior_stage(experiment("dgmvae"), packed, 0, folder, "e")
        first = (folder / "prior" / "model.safetensors").read_bytes()
        prior_stage(experiment("dgmvae"), packed, 0, folder, "e")
        assert (folder / "prior" / "model.safetensors").read_bytes() == first
    return packed, folder


def test_the_second_stage_trains_the_policy_alone(built: tuple[Packed, Path]):
    model = load(built[1])
    assert isinstance(model.prior, PolicyPrior)
    assert isinstance(model.backbone, DialogueBaseline)
    assert read_json(built[1] / "prior" / "metrics.json")["updates"] == 6
    fresh = build_prior(model.backbone, model.config.prior, generator(0, "prior-init"))
    changed = [
        name
        for name, value in model.prior.state_dict().items()
        if not torch.equal(value, fresh.state_dict()[name])
    ]
    assert changed == ["policy.0.weight", "policy.0.bias", "policy.2.weight", "policy.2.bias"]
    assert torch.equal(model.prior.mean_MKD, model.backbone.mixture_mean_MKD)


def test_it_is_used_like_any_model_of_responses(
    built: tuple[Packed, Path], capsys: pytest.CaptureFixture[str]
):
    model = load(built[1])
    context = ["hello there", "please book a table for friday"]
    said = model.respond(context, 4, seed=1)
    assert said == model.respond(context, 4, seed=1)
    assert len(model.respond(context, 2, label=4, mode="sample")) == 2
    assert len(model.generate(3)) == 3
    assert model.classify(["hello there"]).shape == (1, 9)
    scores = model.score(["hello there"], [context], importance=20)
    alone = model.score(["hello there"], importance=20)
    assert np.isfinite(scores.bound).all()
    assert scores.bound[0] != alone.bound[0]
    path = str(built[1] / "prior" / "model.safetensors")
    for arguments, code in (
        (["respond", path, "--context", "hello", "-n", "2"], 0),
        (["generate", path, "-n", "2"], 0),
        (["complete", path, "hello ___"], 2),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        captured = capsys.readouterr()
        assert stopped.value.code == code, arguments
        assert captured.err.count("\n") == (1 if code else 0), captured.err


def test_a_language_model_of_responses_is_measured_too(built: tuple[Packed, Path]):
    packed, _ = built
    config = experiment("rnnlm")
    backbone = DialogueBaseline(config.backbone, packed.meta, generator(0))
    prior = build_prior(backbone, config.prior)
    model = build_model(config, packed.meta, backbone, prior, packed.tokenizer, "e", 0)
    settings = EvaluateConfig(samples=60, rows=4, importance=4, reverse_lm="none")
    metrics = model.evaluate(packed, settings).metrics
    wanted = {"nll", "ppl", "response_bleu", "response_shuffled_bleu", "response_embedding_greedy"}
    assert wanted <= set(metrics)
    assert "policy_kl" not in metrics
    assert all(math.isfinite(metrics[name]) for name in wanted)
