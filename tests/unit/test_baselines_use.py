"""Baselines with their own priors: likelihood, samples, the whole evaluation, both stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ldebm.api import load
from ldebm.assembly import build_model, build_prior
from ldebm.baselines.codes import log_one_hot
from ldebm.baselines.likelihood import baseline_likelihood
from ldebm.baselines.model import TextBaseline
from ldebm.baselines.prior import BaselinePrior
from ldebm.baselines.training import BaselineTask
from ldebm.config import EvaluateConfig, ExperimentConfig, PriorConfig
from ldebm.data.batches import TextBatch, collate_ids
from ldebm.errors import UsageError
from ldebm.files import read_json
from ldebm.seeding import generator
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.labelling import cluster_stage
from ldebm.training.second_stage import prior_stage
from ldebm.training.trainer import train
from tests.unit.baseline_models import KINDS, baseline, section
from tests.unit.test_evaluate_run import packed_text

OWN = PriorConfig.model_validate({"kind": "own", "standardise": "none", "training": {"updates": 1}})
ROWS = [[2, 5, 6, 3], [2, 7, 3], [2, 9, 8, 7, 3]]


def own(model: TextBaseline) -> BaselinePrior:
    prior = build_prior(model, OWN)
    assert isinstance(prior, BaselinePrior)
    return prior


def all_codes() -> torch.Tensor:
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    return log_one_hot(codes, 3).flatten(1)


def exact(model: TextBaseline, batch: TextBatch) -> torch.Tensor:
    """NLL of a discrete model by the sum over its nine codes."""
    latent = all_codes().unsqueeze(1).expand(-1, len(batch), -1)
    return math.log(9) - torch.logsumexp(-model.nll_matrix(batch, latent).double(), 0)


@pytest.mark.parametrize("kind", ["dvae", "divae"])
def test_a_code_is_summed_out_and_sampling_it_agrees(kind: str, monkeypatch: pytest.MonkeyPatch):
    model, batch = baseline(kind), collate_ids(ROWS)
    prior = own(model)
    likelihood_of = baseline_likelihood(model, prior, [batch], 10, 0)
    assert likelihood_of is not None
    assert likelihood_of.nll_B == pytest.approx(exact(model, batch).numpy(), abs=1e-5)
    assert (likelihood_of.upper_B >= likelihood_of.nll_B - 1e-9).all()
    prior.classes = 1  # as if there were too many to sum over
    sampled = baseline_likelihood(model, prior, [batch], 4000, 0)
    assert sampled is not None
    assert sampled.nll_B == pytest.approx(likelihood_of.nll_B, abs=0.02)
    assert sampled.upper_B == pytest.approx(likelihood_of.upper_B, abs=0.02)


def test_importance_sampling_of_vectors_agrees_with_plain_sampling_of_the_prior():
    for kind in ("vae", "semivae", "gmvae"):
        model, batch = baseline(kind), collate_ids(ROWS)
        if kind == "gmvae":  # narrower than the untrained posterior, so that weights are bounded
            model.mixture_logvar_MKD.data.fill_(-1.0)
            model.mixture_mean_MKD.data.mul_(0.5)
        prior = own(model)
        likelihood_of = baseline_likelihood(model, prior, [batch], 3000, 0)
        assert likelihood_of is not None
        latent = prior.sample(3000, generator(0, "prior")).unsqueeze(1).expand(-1, 3, -1)
        plain = math.log(3000) - torch.logsumexp(-model.nll_matrix(batch, latent).double(), 0)
        assert likelihood_of.nll_B == pytest.approx(plain.numpy(), abs=0.05), kind
        assert (likelihood_of.ess_B > 100).all()


def test_a_language_model_is_exact_and_auto_encoders_have_no_likelihood():
    model, batch = baseline("rnnlm"), collate_ids(ROWS)
    likelihood_of = baseline_likelihood(model, own(model), [batch], 10, 0)
    assert likelihood_of is not None
    assert likelihood_of.nll_B == pytest.approx(
        model.reconstruction_nll(batch, torch.zeros(3, 1)).detach().numpy(), abs=1e-5
    )
    for kind in ("ae", "dae"):
        model = baseline(kind)
        assert baseline_likelihood(model, own(model), [batch], 10, 0) is None


def test_the_mixture_prior_has_the_density_of_what_it_draws():
    model = baseline("gmvae")
    prior = own(model)
    mean, std = model.mixture_mean_MKD.detach(), (0.5 * model.mixture_logvar_MKD.detach()).exp()
    mixture = MixtureSameFamily(
        Categorical(logits=torch.zeros(2, 3)), Independent(Normal(mean, std), 1)
    )
    z = torch.randn(5, 4, generator=generator(0, "z"))
    expected = mixture.log_prob(z.reshape(5, 2, 2)).sum(-1)
    assert torch.allclose(prior.log_prob(z).float(), expected, atol=1e-4)
    drawn = prior.sample(20000, generator(0, "draw"))[:, 6:].reshape(-1, 2, 2)
    assert torch.allclose(drawn.mean(0), mixture.mean, atol=0.05)
    assert torch.allclose(drawn.var(0), mixture.variance, rtol=0.1)


def test_samples_of_a_class_have_its_code_and_codes_too_many_have_no_classes():
    for kind in ("dvae", "semivae", "gmvae"):
        prior = own(baseline(kind))
        assert (prior.classes, prior.has_classes) == (9, True)
        z = prior.sample(20, generator(0, "s"), [7])
        assert prior.class_logits(z).argmax(-1).tolist() == [7] * 20
        with pytest.raises(UsageError, match="expected a class from 0 to 8"):
            prior.sample(1, generator(0, "s"), 9)
    shares = torch.bincount(own(baseline("dvae")).sample(9000, generator(0, "s"))[:, :3].argmax(-1))
    assert float((shares / 9000 - 1 / 3).abs().max()) < 0.03
    wide = section("dvae").model_copy(
        update={"baseline": section("dvae").baseline.model_copy(update={"variables": 20})}  # type: ignore[union-attr]
    )
    from tests.unit.baseline_models import META

    assert not own(TextBaseline(wide, META, generator(0))).has_classes
    assert not own(baseline("ae")).has_classes
    with pytest.raises(UsageError, match="no baseline"):
        build_prior(4, OWN)


ALWAYS = {"wkl", "rppl", "distinct_2", "self_bleu", "acceptance"}
CODED = {"mi", "mi_code", "ami_intent", "ami_shuffled", "control_accuracy", "classes_used"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_of_every_baseline_has_the_promised_metrics(tmp_path: Path, kind: str):
    packed = packed_text(tmp_path)
    config = section(kind)
    experiment = ExperimentConfig(data="d", backbone=config, prior=OWN)
    backbone = TextBaseline(config, packed.meta, generator(0))
    model = build_model(experiment, packed.meta, backbone, own(backbone), packed.tokenizer, "e", 0)
    settings = EvaluateConfig(samples=60, rows=8, importance=20, reverse_lm_epochs=1, per_label=5)
    report = model.evaluate(packed, settings)
    if "nll" in report.metrics:
        scores = model.score(["hello there", "hello"], importance=20)
        assert np.isfinite(scores.bound).all()
        assert (scores.tokens.tolist(), scores.energy) == ([3, 2], None)
    else:
        with pytest.raises(UsageError, match="an auto-encoder has no likelihood"):
            model.score(["hello"])
    wanted = ALWAYS | (CODED if backbone.baseline.coded else set())
    wanted |= set() if kind in ("ae", "dae") else {"nll", "nll_upper", "ppl", "rate"}
    wanted |= set() if kind == "rnnlm" else {"bleu", "recon_nll"}
    assert wanted <= set(report.metrics)
    assert ("nll" in report.metrics) == (kind not in ("ae", "dae"))
    assert ("bleu" in report.metrics) == (kind != "rnnlm")
    odd = {name for name, value in report.metrics.items() if not math.isfinite(value)}
    assert odd <= {"homogeneity_legacy_intent", "completeness_intent"}, "128 rows; one cluster"
    assert report.samples[0]["kind"] == "sample"


def test_codes_too_many_for_classes_are_compared_with_the_labels_as_they_stand(tmp_path: Path):
    packed = packed_text(tmp_path)
    content = section("dvae").model_dump(mode="json")
    content["baseline"] |= {"variables": 20, "values": 5}
    config = type(section("dvae")).model_validate(content)
    backbone = TextBaseline(config, packed.meta, generator(0))
    experiment = ExperimentConfig(data="d", backbone=config, prior=OWN)
    model = build_model(experiment, packed.meta, backbone, own(backbone), packed.tokenizer, "e", 0)
    settings = EvaluateConfig(samples=20, rows=4, importance=4, reverse_lm="none")
    metrics = model.evaluate(packed, settings).metrics
    assert {"mi_code", "ami_intent", "shuffled_intent", "classes_used"} <= set(metrics)
    assert "mi" not in metrics
    with pytest.raises(UsageError, match="no code, or too many"):
        model.label_index(0)


@pytest.mark.parametrize("kind", ["rnnlm", "divae", "dgmvae"])
def test_both_stages_give_the_same_bytes_twice_and_a_model_that_is_used_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    (tmp_path / "data").mkdir()
    packed = packed_text(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDEBM_NO_REUSE", "1")
    content = section(kind, kl_warmup=10).model_dump(mode="json")
    content["training"] = {"updates": 12, "batch": 32, "validate_every": 1}
    content["latent"] = content["latent"] or None
    config = ExperimentConfig.model_validate({"data": "d", "backbone": content, "prior": OWN})
    models = []
    for run in ("a", "b"):
        folder = tmp_path / run
        build_backbone_stage(config, packed, 0, folder / "backbone")
        cluster_stage(config, packed, 0, folder / "backbone", folder / "latents.parquet")
        prior_stage(config, packed, 0, folder, "e")
        models.append((folder / "prior" / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    metrics = read_json(tmp_path / "a" / "backbone" / "metrics.json")
    assert metrics["updates"] == 12
    model = load(tmp_path / "a")
    assert len(model.generate(3)) == 3
    if kind != "rnnlm":
        assert model.classify(["hello there"]).shape == (1, 9)
        assert len(model.generate(2, label=4)) == 2
        assert np.isfinite(model.encode(["hello there"])).all()


def small_task(
    folder: Path, kind: str, updates: int, lr: float, **more: object
) -> Callable[[], BaselineTask]:
    """Makes the first stage of a small baseline, the same every time."""
    packed = packed_text(folder)
    content = section(kind).model_dump(mode="json") | more
    content["training"] = {
        "updates": updates, "batch": 64, "validate_every": None, "optimiser": {"lr": lr},
    }  # fmt: skip
    content["latent"] = content["latent"] or None
    config = ExperimentConfig.model_validate({"data": "d", "backbone": content, "prior": OWN})

    def task() -> BaselineTask:
        model = TextBaseline(config.backbone, packed.meta, generator(0))
        splits = packed.split("train"), packed.split("valid")
        return BaselineTask(model, *splits, config, 0, torch.device("cpu"))

    return task


def test_training_lowers_the_loss_and_resumes_to_the_same_weights(tmp_path: Path):
    task = small_task(tmp_path, "semivae", 60, 0.01, kl_warmup=20)
    training = task().config.training
    whole = train(task(), training, None, title="t")
    assert whole.curve[-1]["loss"] < 0.8 * whole.curve[0]["loss"]
    checkpoint = tmp_path / "c.pt"
    with pytest.raises(SystemExit):
        train(task(), training, checkpoint, title="t", stop_after=23)
    again = train(task(), training, checkpoint, title="t")
    assert all(torch.equal(value, again.state[name]) for name, value in whole.state.items())


@pytest.mark.parametrize("kind", ["dae", "dvae"])
def test_a_code_tells_sentences_apart_and_does_not_become_the_same_for_all(
    tmp_path: Path, kind: str
):
    task = small_task(tmp_path, kind, 100, 0.02, kl_warmup=200, word_dropout=0.5)()
    last = train(task, task.config.training, None, title="t").curve[-1]
    assert last["information"] > 0.5
    assert last["average_kl"] < 0.5, "it would be 2 log 3 for one code"
