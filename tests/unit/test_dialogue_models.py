"""A dialogue model through both stages, its evaluation, and `ldebm respond`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.api import load
from ldebm.cli import main
from ldebm.config import EvaluateConfig, ExperimentConfig, parse
from ldebm.data.packed import Packed
from ldebm.errors import UsageError
from ldebm.evaluate.report import context_rows
from ldebm.evaluate.responses import response_scores
from ldebm.files import read_model, read_parquet, write_model
from ldebm.modalities.sentences import TextModel
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.labelling import cluster_stage
from ldebm.training.second_stage import prior_stage
from tests.unit.text_worlds import packed_dialogues

RESPONSE_METRICS = {
    "nll", "recon_nll", "bleu", "mi", "ami_intent", "rppl", "response_bleu", "response_bleu_2",
    "response_bleu_sacrebleu", "response_embedding_average", "response_embedding_extrema",
    "response_embedding_greedy", "response_shuffled_bleu", "response_shuffled_embedding_greedy",
}  # fmt: skip


def experiment(kind: str = "diffusion", **changes: Any) -> ExperimentConfig:
    training = {"updates": 6, "batch": 64, "validate_every": None}
    energy = {"hidden": 16, "blocks": 2, "activation": "silu", "spectral_norm": False}
    content = {
        "data": "dialogues",
        "backbone": {
            "arch": "dialogue", "cell": "lstm", "latent": 4, "hidden": 12, "embed": 8,
            "tied": False, "bidirectional": False, "context": {"utterance": 6, "hidden": 10},
            "training": training,
        },
        "cluster": {"labels": "gc", "dims": 3},
        "prior": {
            "kind": kind, "classes": 5, "levels": 3, "standardise": "diagonal",
            "energy": energy | {"arch": "mlp" if kind == "svebm" else "residual"},
            "sampler": {"steps": 3}, "score_matching": 0.5 if kind == "diffusion" else 0.0,
            "training": training,
        } | changes,
    }  # fmt: skip
    return parse(ExperimentConfig, content, "experiment")


def build(packed: Packed, config: ExperimentConfig, folder: Path) -> Path:
    build_backbone_stage(config, packed, 0, folder / "backbone")
    cluster_stage(config, packed, 0, folder / "backbone", folder / "latents.parquet")
    prior_stage(config, packed, 0, folder, "dialogues")
    return folder / "prior" / "model.safetensors"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Path]:
    folder = tmp_path_factory.mktemp("dialogues")
    packed = packed_dialogues(folder / "packed")
    return packed, build(packed, experiment(), folder)


SETTINGS = EvaluateConfig(
    samples=90, rows=3, importance=8, inner=8, reverse_lm_epochs=1, per_label=5
)


def test_the_second_stage_gets_the_contexts_of_its_rows(built: tuple[Packed, Path]) -> None:
    packed, path = built
    latents = read_parquet(path.parents[1] / "latents.parquet")
    stored = latents["context"][latents["split"] == 2]
    model, split = load(path), packed.split("test")
    direct = context_rows(model.backbone, split, np.arange(split.n), model.device)
    np.testing.assert_allclose(stored, direct.numpy(), atol=1e-5)
    assert stored.shape == (split.n, 10)
    assert float(stored.std(0).max()) > 1e-3


@pytest.mark.parametrize("kind", ["diffusion", "svebm", "gaussian"])
def test_the_report_has_the_scores_of_responses_and_their_control(
    built: tuple[Packed, Path], tmp_path: Path, kind: str
) -> None:
    packed, path = built
    if kind != "diffusion":
        path = build(packed, experiment(kind), tmp_path)
    report = load(path).evaluate(packed, SETTINGS)
    without = {"mi", "ami_intent"} if kind == "gaussian" else set()
    assert RESPONSE_METRICS - without <= set(report.metrics)
    assert all(math.isfinite(report.metrics[name]) for name in RESPONSE_METRICS - without)
    assert report.metrics["nll"] <= report.metrics["nll_upper"]
    assert report.metrics["nll_lower"] == pytest.approx(report.metrics["nll"], abs=0.1)
    if kind == "gaussian":
        exact = report.metrics["nll_gaussian"]
        assert report.metrics["nll"] == pytest.approx(exact, abs=1.0)
    assert "SVD" in report.details["word_vectors"]
    shown = [item for item in report.samples if item["kind"] == "response"]
    test = packed.split("test")
    turns = [len(item["context"]) for item in shown]
    assert turns == [int((test.context(i) == 3).sum()) for i in range(len(shown))]
    again = load(path).evaluate(packed, SETTINGS)
    assert json.dumps(again.metrics) == json.dumps(report.metrics)


def test_responses_depend_on_the_context_and_the_seed_alone(built: tuple[Packed, Path]) -> None:
    model = load(built[1])
    context = ["hello there", "please book a table for friday"]
    first = model.respond(context, 4, seed=1)
    assert first == model.respond(context, 4, seed=1)
    assert len(model.respond(context, 2, label=1, seed=0, mode="sample")) == 2
    begun = model.contexts([[], context])
    assert float((begun[0] - begun[1]).abs().max().detach()) > 1e-4
    long = [f"turn {i}" for i in range(6)]
    torch.testing.assert_close(model.contexts([long]), model.contexts([long[-2:]]))
    together = model.contexts([[], context, ["hello"]])
    torch.testing.assert_close(together[1:2], model.contexts([context]))
    assert isinstance(model.generate(2), list)
    assert model.classify(["hello there"]).shape == (1, 5)
    one = model.score(["hello there"], importance=8, inner=8)
    two = model.score(["hello there", "good bye"], importance=8, inner=8)
    assert one.bound[0] == pytest.approx(two.bound[0], abs=1.0)


def test_an_empty_turn_and_a_model_without_contexts_are_refused(
    built: tuple[Packed, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(built[1])
    with pytest.raises(UsageError, match="context: expected a sentence"):
        model.respond(["hello", " "])
    parts = model.config, model.meta, model.backbone, model.prior, model.tokenizer
    bare = TextModel(*parts, "plain", 0)
    with pytest.raises(UsageError, match="plain: reads no context"):
        bare.respond(["hello"])
    for arguments, code in ((["--context", ""], 2), (["--context", "hello", "-n", "2"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main(["respond", str(built[1]), *arguments])
        captured = capsys.readouterr()
        assert stopped.value.code == code
        assert captured.err.count("\n") == (1 if code else 0)
        assert captured.out.count("\n") == (0 if code else 2)


def test_joint_training_updates_the_context_encoder_too(
    built: tuple[Packed, Path], tmp_path: Path
) -> None:
    packed, path = built
    joint = experiment(scheme="joint", standardise="none", score_matching=0.0)
    tensors = load(build(packed, joint, tmp_path)).backbone.state_dict()
    before = load(path).backbone.state_dict()
    changed = [name for name in tensors if not torch.equal(tensors[name], before[name])]
    assert "turn_encoder.rnn.weight_ih_l0" in changed
    assert "no_turns" in changed


def test_scores_of_perfect_responses() -> None:
    texts = ["a b c d e", "f g h i j"]
    scores = response_scores(texts, texts)
    assert scores["bleu"] == pytest.approx(100)
    assert scores["bleu_sacrebleu"] == pytest.approx(100)
    assert response_scores(texts[::-1], texts)["bleu_2"] == 0


def test_a_model_file_from_before_context_hidden_still_loads(
    built: tuple[Packed, Path], tmp_path: Path
) -> None:
    path = built[1]
    tensors, header = read_model(path)
    context = header["config"]["backbone"]["context"]
    context["size"] = context.pop("hidden")
    write_model(tmp_path / "old.safetensors", tensors, header)
    old, new = load(tmp_path / "old.safetensors"), load(path)
    assert old.config == new.config
