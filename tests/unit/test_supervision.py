"""A first stage whose latent has to tell the labels (``backbone.supervision``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ldebm.assembly import build_backbone
from ldebm.config import BackboneConfig, ExperimentConfig, parse
from ldebm.errors import UsageError
from ldebm.files import hash_path
from ldebm.seeding import generator
from ldebm.training.backbone_task import BackboneTask
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.trainer import train
from tests.unit.text_worlds import packed_documents


def experiment(column: str | None, weight: float = 20.0) -> ExperimentConfig:
    training = {"batch": 64, "updates": 60, "validate_every": None, "optimiser": {"lr": 1e-2}}
    backbone: dict[str, Any] = {
        "arch": "bow", "latent": 4, "hidden": 24, "layers": 1, "dropout": 0.2, "kl_weight": 1.0,
        "training": training,
    }  # fmt: skip
    if column is not None:
        backbone["supervision"] = {"column": column, "weight": weight}
    prior = {"classes": 3, "kind": "gaussian", "training": training}
    content = {"data": "documents", "backbone": backbone, "prior": prior}
    return parse(ExperimentConfig, content, "experiment")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_latent_tells_the_label_and_the_model_has_no_more_parameters(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    build_backbone_stage(experiment("topic"), packed, 0, tmp_path / "with")
    build_backbone_stage(experiment(None), packed, 0, tmp_path / "without")
    metrics = json.loads((tmp_path / "with" / "metrics.json").read_text())
    assert metrics["class_accuracy"] > 0.9
    assert "class_accuracy" not in json.loads((tmp_path / "without" / "metrics.json").read_text())
    assert hash_path(tmp_path / "with" / "model.safetensors") != hash_path(
        tmp_path / "without" / "model.safetensors"
    )


def test_an_interrupted_training_goes_on_with_its_classifier(tmp_path: Path) -> None:
    packed, config = packed_documents(tmp_path / "packed"), experiment("topic")
    states = []
    for stop in (None, 20):
        made = build_backbone(config.backbone, packed.meta, generator(0, "backbone-init"))
        made.prepare(packed)
        splits = packed.split("train"), packed.split("valid")
        checkpoint = tmp_path / f"{stop}.pt"
        for left in (stop, None) if stop else (None,):
            task = BackboneTask(made, *splits, config, 0, torch.device("cpu"))
            try:
                result = train(
                    task, config.backbone.training, checkpoint, title="x", stop_after=left
                )
            except SystemExit:
                continue
        states.append([result.state, task.state()["head"]])
    for left, right in zip(*states, strict=True):
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=0)


def test_a_column_that_is_not_there_and_models_without_it_are_refused(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    with pytest.raises(UsageError, match="no label column 'mood'"):
        build_backbone_stage(experiment("mood"), packed, 0, tmp_path / "out")
    content = {
        "arch": "gru", "latent": None, "baseline": {"kind": "divae"}, "training": {"epochs": 1},
        "supervision": {"column": "topic", "weight": 1.0},
    }  # fmt: skip
    with pytest.raises(UsageError, match="'supervision' is not for images and baselines"):
        parse(BackboneConfig, content, "backbone")


def test_it_is_left_out_of_the_parameters_of_other_experiments() -> None:
    assert "supervision" not in experiment(None).backbone.model_dump(mode="json")
