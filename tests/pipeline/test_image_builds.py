"""Image experiments through every stage: the same bytes in another folder, labels that lack."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldebm.files import hash_path, read_json
from tests.forked import forked

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
TRAINING = {"updates": 4, "batch": 24, "threads": 1, "device": "cpu", "validate_every": 0.5}
ENERGY = {"hidden": 8, "blocks": 1, "activation": "silu", "spectral_norm": False}
EVALUATE = {
    "samples": 32, "device": "cpu", "decode": "greedy", "per_label": 2, "ood_rows": 20,
    "rows": 60, "ood": ["noise"], "chains": 2,
}  # fmt: skip
PRIOR = {
    "levels": 2, "classes": 10, "standardise": "diagonal", "energy": ENERGY, "mi_weight": 0.0,
    "sampler": {"method": "pcnl", "steps": 1}, "score_matching": 0.5, "training": TRAINING,
}  # fmt: skip
LABELLED = {"inputs": "context", "channels": 4, "flat": 16, "label_levels": "all"}
HVAE = {
    "likelihood": "bernoulli", "widths": [4, 6], "hidden": 8,
    "layers": [{"dense": 3}, {"conv": [2, 4]}],
}  # fmt: skip
NVAE = {
    "likelihood": "bernoulli", "channels": 4, "latents": 2, "scales": 2, "groups": [1, 1],
    "cells": 1, "cells_per_group": 1, "bn_readjust": "data", "bn_passes": 2,
}  # fmt: skip
BACKBONES = {"hvae": HVAE, "nvae": NVAE}
PARAMS = {
    "run": {"datasets": ["digits"], "experiments": ["hvae", "nvae"], "seeds": [0]},
    "data": {
        "digits": {
            "kind": "images", "source": "digits", "valid": 60, "test": 1437, "labels": ["digit"],
            "image_classifier": {
                "width": 8, "epochs": 1, "batch": 32, "threads": 1, "device": "cpu",
            },
        },
    },
    "experiments": {
        arch: {
            "data": "digits",
            "backbone": {"arch": arch, arch: section, "kl_warmup": 3, "training": TRAINING},
            "cluster": {"labels": "given", "column": "digit"},
            "prior": PRIOR | {"hierarchy": LABELLED | {"label_groups": [0, 1]}},
            "evaluate": EVALUATE,
        }
        for arch, section in BACKBONES.items()
    },
}  # fmt: skip


class Build:
    """A project folder in which every stage of every experiment runs, but for the validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.params = json.loads(json.dumps(PARAMS))
        self.write()
        for stage in ("fetch", "prepare", "validate", "pack", "judge"):
            if stage == "validate":
                report = folder / "reports/validation/digits/report.json"
                report.parent.mkdir(parents=True)
                report.write_text('{"success": true}\n')
            else:
                self.runs(stage, "--data", "digits")

    def write(self) -> None:
        (self.folder / "params.yaml").write_text(json.dumps(self.params))

    def stage(self, name: str, *options: str) -> SimpleNamespace:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return forked([f"stages.{name}", *options], self.folder, environment, timeout=600)

    def runs(self, name: str, *options: str) -> None:
        done = self.stage(name, *options)
        assert done.code == 0, done.err

    def experiment(self, name: str, *stages: str) -> None:
        self.runs("bind", "--experiment", name)
        for stage in stages:
            self.runs(stage, "--experiment", name, "--seed", "0")

    def hashes(self) -> dict[str, str]:
        """Of every file that stages wrote."""
        files = [path for part in ("data", "models", "reports") for path in self.files(part)]
        return {str(path.relative_to(self.folder)): hash_path(path) for path in files}

    def files(self, part: str) -> list[Path]:
        return [path for path in sorted((self.folder / part).rglob("*")) if path.is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = Build(tmp_path_factory.mktemp("images") / "first")
    for name in BACKBONES:
        build.experiment(name, "backbone", "cluster", "prior", "evaluate")
    return build


def test_image_experiments_built_in_two_folders_have_the_same_bytes(
    built: Build, tmp_path: Path
) -> None:
    second = Build(tmp_path / "second")
    for name in reversed(BACKBONES):
        second.experiment(name, "backbone", "cluster", "prior", "evaluate")
    actual, expected = second.hashes(), built.hashes()
    for name in BACKBONES:
        assert f"models/{name}/0/prior/model.safetensors" in expected
        metrics = read_json(built.folder / f"reports/{name}/0/metrics.json")
        assert {"fid_classifier", "fid_classifier_gaussian", "ood_auroc"} <= metrics.keys()
        shown = read_json(built.folder / f"reports/{name}/0/summary.json")
        assert shown["fid_classifier"] == round(metrics["fid_classifier"], 3)
    assert actual.keys() == expected.keys()
    assert [path for path in actual if actual[path] != expected[path]] == []


@pytest.mark.parametrize(
    ("stage", "changes", "expected"),
    [
        ("cluster", {"column": "Male"}, "'Male' is not a label of data set 'digits'; known: digit"),
        (
            "cluster",
            {"attributes": {"Smiling": [0]}},
            "'Smiling' is not a label of data set 'digits'; known: digit",
        ),
        ("prior", {"label_groups": [0, 7]}, "a label is put on group 7; the backbone has groups 0"),
    ],
    ids=["label column", "attribute", "group"],
)
def test_labels_that_the_data_or_the_model_lack_are_one_line_and_write_nothing(
    built: Build, stage: str, changes: dict[str, object], expected: str
) -> None:
    experiment = built.params["experiments"]["hvae"]
    before = built.hashes()
    try:
        if "column" in changes:
            experiment["cluster"] = {"labels": "given", **changes}
        elif "attributes" in changes:
            experiment["prior"] = PRIOR | {"classes": 2, "hierarchy": LABELLED | changes}
        else:
            experiment["prior"] = PRIOR | {"hierarchy": LABELLED | changes}
        built.write()
        done = built.stage(stage, "--experiment", "hvae", "--seed", "0")
        assert done.code == 2, done.err
        assert done.err.count("\n") == 1
        assert expected in done.err
        assert built.hashes() == before
    finally:
        built.params = json.loads(json.dumps(PARAMS))
        built.write()
