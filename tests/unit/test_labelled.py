"""Few labels: pools, the labelled batch of the energies, classifiers and self-training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.api import load
from ldebm.config import EvaluateConfig, ExperimentConfig, parse
from ldebm.data.packed import Packed
from ldebm.errors import UsageError
from ldebm.files import read_parquet
from ldebm.model import Model
from ldebm.priors.classifier import ClassifierPrior
from ldebm.training.classifier import pool_rows
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.labelling import cluster_stage
from ldebm.training.second_stage import prior_stage
from tests.unit.text_worlds import packed_documents


def experiment(prior: dict[str, Any], updates: int = 60, **cluster: Any) -> ExperimentConfig:
    training = {"batch": 64, "validate_every": None}
    content = {
        "data": "documents",
        "backbone": {
            "arch": "bow", "latent": 4, "hidden": 24, "layers": 1, "dropout": 0.2,
            "kl_weight": 0.2,
            "training": {**training, "updates": updates, "optimiser": {"lr": 1e-2}},
        },
        "cluster": {"labels": "given", "column": "topic", "per_class": 4} | cluster,
        "prior": {
            "classes": 3, "levels": 3, "labelled_batch": 24, "class_weight": 1.0,
            "energy": {"hidden": 24, "blocks": 1, "activation": "silu", "spectral_norm": False},
            "sampler": {"steps": 4}, "score_matching": 0.5, "standardise": "diagonal",
            "training": {**training, "updates": 60, "optimiser": {"lr": 5e-3, "clip": 1.0}},
        } | prior,
    }  # fmt: skip
    return parse(ExperimentConfig, content, "experiment")


def build(packed: Packed, config: ExperimentConfig, folder: Path, seed: int = 0) -> Model:
    build_backbone_stage(config, packed, seed, folder / "backbone")
    latents = folder / "latents.parquet"
    cluster_stage(config, packed, seed, folder / "backbone", latents)
    prior_stage(config, packed, seed, folder, "documents")
    return load(folder / "prior" / "model.safetensors")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def labels_of(folder: Path) -> np.ndarray:
    table = read_parquet(folder / "latents.parquet")
    return np.asarray(table["label"][table["split"] == 0])


SETTINGS = EvaluateConfig(samples=60, rows=6, importance=8, inner=8)


def test_energies_with_few_labels_classify_documents_and_report_it(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    model = build(packed, experiment({}), tmp_path)
    shown = labels_of(tmp_path)
    assert [int((shown == k).sum()) for k in range(3)] == [4, 4, 4]
    report = model.evaluate(packed, SETTINGS)
    metrics = report.metrics
    assert metrics["accuracy"] > 0.8 > metrics["accuracy_majority"] + 0.2
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert {"nll", "ppl", "ami_topic", "mi", "ami_shuffled"} <= set(metrics)
    assert metrics["ami_topic"] > metrics["ami_shuffled"]
    words = {word for item in report.samples for word in item["text"].split()}
    assert "goal" in words
    labels = model.class_labels()
    guess = model.classify(["the striker and the keeper", "snow and frost"]).argmax(-1)
    assert [labels[k] for k in guess] == ["sports", "weather"]
    scores = model.score(["striker coach goal", "coach"], importance=8, inner=8)
    assert scores.tokens.tolist() == [3, 1]


def test_a_document_without_a_known_word_is_one_line(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    model = build(packed, experiment({}, updates=1), tmp_path)
    with pytest.raises(UsageError, match="no word that the model knows"):
        model.classify(["zzz qqq"])


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_classifier_learns_from_the_labelled_rows_alone(tmp_path: Path, rounds: int) -> None:
    packed = packed_documents(tmp_path / "packed")
    prior = {
        "kind": "classifier", "standardise": "none", "labelled_batch": 0, "score_matching": 0.0,
        "classifier": {"hidden": 16, "rounds": rounds, "threshold": 0.6},
    }  # fmt: skip
    model = build(packed, experiment(prior, updates=0), tmp_path)
    assert isinstance(model.prior, ClassifierPrior)
    report = model.evaluate(packed, SETTINGS)
    assert report.metrics["accuracy"] > 0.6
    assert report.metrics["nll"] > 0
    again = build(packed, experiment(prior, updates=0), tmp_path / "again")
    for left, right in zip(
        model.prior.state_dict().values(), again.prior.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right)


def test_joint_training_takes_labelled_rows_apart(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    prior = {"scheme": "joint", "standardise": "none", "score_matching": 0.0, "mi_weight": 0.05}
    model = build(packed, experiment(prior, updates=30), tmp_path)
    assert model.evaluate(packed, SETTINGS).metrics["accuracy"] > 0.6


def test_pools_of_labels_follow_the_seed_or_the_order_of_the_file(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    given = packed.split("train").labels("topic")
    pools = {}
    for name, cluster, seed in (
        ("run 0", {}, 0), ("run 1", {}, 1), ("fixed", {"pool_seed": 0}, 1),
        ("first", {"pool_seed": "first"}, 1),
    ):  # fmt: skip
        folder = tmp_path / name
        config = experiment({}, updates=0, **cluster)
        build_backbone_stage(config, packed, seed, folder / "backbone")
        cluster_stage(config, packed, seed, folder / "backbone", folder / "latents.parquet")
        shown = labels_of(folder)
        assert (shown[shown >= 0] == given[shown >= 0]).all()
        pools[name] = np.flatnonzero(shown >= 0).tolist()
    assert pools["run 0"] == pools["fixed"] != pools["run 1"]
    first = [np.flatnonzero(given == k)[:4] for k in range(3)]
    assert pools["first"] == sorted(np.concatenate(first).tolist())


def test_a_pool_larger_than_a_class_is_one_line(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    config = experiment({}, updates=0, per_class=200)
    build_backbone_stage(config, packed, 0, tmp_path / "backbone")
    with pytest.raises(UsageError, match="per_class 200: class 0"):
        cluster_stage(config, packed, 0, tmp_path / "backbone", tmp_path / "latents.parquet")


def test_labelled_rows_are_a_function_of_seed_and_step() -> None:
    label = np.array([-1, 0, -1, 1, 2])
    rows = pool_rows(label, 50, 0, 3)
    assert set(rows.tolist()) == {1, 3, 4}
    assert (rows == pool_rows(label, 50, 0, 3)).all()
    assert (rows != pool_rows(label, 50, 0, 4)).any()
    with pytest.raises(UsageError, match="no training row"):
        pool_rows(np.array([-1, -1]), 2, 0, 0)


@pytest.mark.parametrize(
    ("cluster", "prior", "message"),
    [
        ({"labels": "gc", "column": None, "per_class": 4}, {"labelled_batch": 0}, "per_class"),
        ({"share": 0.5}, {}, "per_class"),
        ({"labels": "gc", "column": None, "per_class": None}, {}, "labelled_batch"),
        ({}, {"classifier": {"rounds": 1}}, "needs prior.kind 'classifier'"),
        ({}, {"kind": "classifier"}, "standardise 'none'"),
    ],
)
def test_sections_that_do_not_fit_are_refused(
    cluster: dict[str, Any], prior: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        experiment(prior, **cluster)


def test_what_is_new_is_left_out_of_the_parameters_of_older_experiments() -> None:
    config = experiment({"labelled_batch": 0}, per_class=None)
    text = json.dumps(config.model_dump(mode="json"))
    for key in ("labelled_batch", "per_class", "pool_seed", "classifier", "cell", "context"):
        assert f'"{key}"' not in text
