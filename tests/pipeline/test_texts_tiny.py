"""The -tiny experiments of models of text go through all stages, and have their metrics."""

from __future__ import annotations

import json
import math
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from ldebm.config import RunConfig, load_params
from ldebm.files import hash_path, read_json
from pipelines.library import Library
from pipelines.selection import write_params
from tests.unit.text_worlds import documents

ROOT = Path(__file__).parents[2]
DATA_STAGES = ("fetch", "prepare", "validate", "pack", "judge")
STAGES = ("backbone", "cluster", "prior", "evaluate")
METRICS = {
    "chatter-gen-tiny": {
        "nll", "bleu", "mi", "rppl", "ami_intent", "ami_shuffled", "response_bleu",
        "response_bleu_sacrebleu", "response_embedding_average", "response_embedding_extrema",
        "response_embedding_greedy", "response_shuffled_bleu",
    },
    "chatter-lstm-tiny": {
        "nll", "bleu", "mi", "wkl", "ami_intent", "ami_sentiment", "homogeneity_intent",
        "homogeneity_shuffled_intent",
    },
    "chatter-baseline-tiny": {
        "nll", "nll_ess", "bleu", "wkl", "rppl", "mi", "mi_code", "ami_intent", "ami_shuffled",
        "homogeneity_intent", "homogeneity_shuffled_intent", "control_accuracy",
    },
    "chatter-gen-baseline-tiny": {
        "nll", "nll_ess", "bleu", "rppl", "mi", "mi_code", "policy_kl", "ami_intent",
        "control_accuracy", "response_bleu", "response_bleu_2", "response_embedding_average",
        "response_embedding_extrema", "response_embedding_greedy", "response_shuffled_bleu",
        "response_shuffled_embedding_greedy",
    },
    "chatter-completion-tiny": {
        "nll", "bleu", "completion", "completion_low", "completion_high", "completion_ngram",
        "completion_frequent", "completion_places",
    },
    "chatter-sentiment-tiny": {
        "nll", "classifier_accuracy", "classified_accuracy", "classified_low", "classified_high",
        "classified_positive", "classified_negative", "control_self_bleu", "control_self_bleu_real",
        "plain_classified_accuracy",
        "control_distinct_2", "accuracy", "label_information_0",
    },
    "agnews-tiny": {"nll", "ppl", "accuracy", "accuracy_low", "accuracy_high", "ami_topic", "mi"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    (place / "mirror" / "agnews").mkdir(parents=True)
    for seed, (name, rows) in enumerate((("dev", 60), ("test", 30))):
        texts, labels = documents(rows, seed)
        lines = [
            json.dumps({"label": 1 + (label if i % 4 else 3), "text": text, "headline": "none"})
            for i, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        (place / "mirror" / "agnews" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copytree(ROOT / "conf", place / "conf")
    shutil.copytree(ROOT / "tests" / "conf", place / "conf", dirs_exist_ok=True)
    run = RunConfig(datasets=[], experiments=list(METRICS), seeds=[0])
    params = Library(place).params(run)
    files = (place / "mirror" / "agnews").iterdir()
    checksums = {path.name: hash_path(path) for path in files}
    own = params.data["agnews-tiny"].model_copy(update={"checksums": checksums})
    data = {**params.data, "agnews-tiny": own}
    write_params(place / "params.yaml", params.model_copy(update={"data": data}))
    return place


def stage(monkeypatch: pytest.MonkeyPatch, name: str, *options: str) -> None:
    module = import_module(f"stages.{name}")
    monkeypatch.setattr("sys.argv", [name, *options])
    module.main()


@pytest.mark.pipeline
@pytest.mark.parametrize("name", METRICS)
def test_a_tiny_experiment_is_built_and_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LDEBM_DATA_MIRROR", str(folder / "mirror"))
    config = load_params().experiment(name)
    if not Path("data/judge", config.data).exists():
        for item in DATA_STAGES:
            stage(monkeypatch, item, "--data", config.data)
    stage(monkeypatch, "bind", "--experiment", name)
    for item in STAGES:
        stage(monkeypatch, item, "--experiment", name, "--seed", "0")
    metrics = read_json(Path("reports", name, "0", "metrics.json"))
    assert METRICS[name] <= set(metrics)
    shown = read_json(Path("reports", name, "0", "summary.json"))
    assert 2 <= len(shown) <= 7
    assert shown["nll"] == round(metrics["nll"], 3)
    assert all(math.isfinite(metrics[key]) for key in METRICS[name])
