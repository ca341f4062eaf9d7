"""The -tiny experiments of baselines and of completion go through all stages; metrics are there."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import pytest

from ldebm.config import load_params
from ldebm.files import read_json

ROOT = Path(__file__).parents[2]
DATA_STAGES = ("fetch", "prepare", "validate", "pack", "judge")
STAGES = ("backbone", "cluster", "prior", "evaluate")
METRICS = {
    "chatter-baseline-tiny": {
        "nll", "nll_ess", "bleu", "wkl", "rppl", "mi", "mi_code", "ami_intent", "ami_shuffled",
        "homogeneity_intent", "homogeneity_shuffled_intent", "control_accuracy",
    },
    "chatter-completion-tiny": {
        "nll", "bleu", "completion", "completion_low", "completion_high", "completion_ngram",
        "completion_frequent", "completion_places",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    text = (ROOT / "params.yaml").read_text()
    assert text.count("datasets: [") == 1
    text = text.replace("datasets: [", "datasets: [chatter-tiny, ")
    (place / "params.yaml").write_text(text)
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
    config = load_params().experiment(name)
    if not Path("data/packed", config.data).exists():
        for item in DATA_STAGES:
            stage(monkeypatch, item, "--data", config.data)
    stage(monkeypatch, "bind", "--experiment", name)
    for item in STAGES:
        stage(monkeypatch, item, "--experiment", name, "--seed", "0")
    metrics = read_json(Path("reports", name, "0", "metrics.json"))
    assert METRICS[name] <= set(metrics)
    assert all(math.isfinite(metrics[key]) for key in METRICS[name])
    kept = Path("reports", name, "0", "details", "completion.safetensors")
    assert kept.is_file() == (config.evaluate.completion is not None)
