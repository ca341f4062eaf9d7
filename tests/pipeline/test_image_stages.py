"""Images through the real stages: packed, judged, bound, and refused with one clear line."""

import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from ldebm.data.packed import open_measure
from ldebm.evaluate.image_classifier import ImageClassifier
from ldebm.files import read_json
from tests.forked import forked

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
TRAINING = {"updates": 4, "batch": 16, "device": "cpu"}
PARAMS = {
    "run": {"datasets": ["digits", "mine", "dots"], "experiments": ["small"], "seeds": [0]},
    "data": {
        "digits": {
            "kind": "images", "source": "digits", "valid": 180, "test": 360, "labels": ["digit"],
            "image_classifier": {
                "width": 8, "epochs": 6, "batch": 32, "shift": 1, "threads": 1, "device": "cpu",
            },
        },
        "mine": {"kind": "images", "source": "file", "path": "mine"},
        "dots": {"kind": "points", "source": "gaussians16", "train": 60, "valid": 20, "test": 20},
        "absent": {"kind": "images", "source": "mnist"},
    },
    "experiments": {
        "small": {
            "data": "digits",
            "backbone": {"arch": "mlp", "latent": 2, "training": TRAINING},
            "prior": {"training": TRAINING},
            "evaluate": {"ood": ["mine", "inverted"]},
        },
        "plane": {
            "data": "dots",
            "backbone": {"arch": "mlp", "latent": 2, "training": TRAINING},
            "prior": {"training": TRAINING},
        },
    },
}  # fmt: skip


def picture(seed: int, *shape: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class Project:
    """A project folder in which stages run one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "params.yaml").write_text(json.dumps(PARAMS))
        shutil.copy(ROOT / "dvc.yaml", folder)
        (folder / "mine").mkdir()
        for i in range(24):
            (folder / f"mine/{i:02}.png").write_bytes(picture(i, 8, 8))

    def set(self, **changes: object) -> None:
        """Changes keys of the data set ``mine``."""
        params = json.loads(json.dumps(PARAMS))
        params["data"]["mine"] |= changes
        (self.folder / "params.yaml").write_text(json.dumps(params))

    def stage(self, name: str, *options: str) -> SimpleNamespace:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return forked([f"stages.{name}", *options], self.folder, environment)

    def data(self, name: str, *stages: str) -> None:
        for stage in stages:
            if stage == "validate":  # its report costs more than what these tests ask of it
                report = self.folder / f"reports/validation/{name}/report.json"
                report.parent.mkdir(parents=True)
                report.write_text('{"success": true}\n')
                continue
            done = self.stage(stage, "--data", name)
            assert done.code == 0, done.err

    def refuses(self, expected: str, stage: str, *options: str) -> None:
        before = sorted(self.folder.rglob("*"))
        done = self.stage(stage, *options)
        assert done.code == 2, done.err
        assert done.err.count("\n") == 1, done.err
        assert expected in done.err
        assert sorted(self.folder.rglob("*")) == before, "nothing is written"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_images_are_judged_and_bound_with_what_only_measures(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("digits", "mine", "dots"):
        project.data(name, "fetch", "prepare", "validate", "pack", "judge")
    monkeypatch.chdir(project.folder)
    assert read_json("data/judge/digits/metrics.json")["classifier"]["accuracy"] > 0.7
    assert read_json("data/judge/mine/metrics.json") == {
        "data": "mine",
        "kind": "images",
        "classifier": None,
    }
    assert read_json("data/judge/dots/metrics.json") == {
        "data": "dots",
        "kind": "points",
        "classifier": None,
    }
    for experiment in ("small", "plane"):
        done = project.stage("bind", "--experiment", experiment)
        assert done.code == 0, done.err
    measure = open_measure("data/bound/small.measure.json")
    assert measure.classifier is not None
    assert ImageClassifier.load(measure.classifier).columns == ["digit"]
    assert {name: packed.meta["size"] for name, packed in measure.ood.items()} == {"mine": 8}
    assert set(read_json("data/bound/small.json")) == {"experiment", "data", "path", "files"}
    plane = open_measure("data/bound/plane.measure.json")
    assert (plane.classifier, plane.ood) == (None, {})
    params = yaml.safe_load(Path("params.yaml").read_text())
    before = {p: Path(p).read_bytes() for p in ("data/bound/small.json", "data/bound/plane.json")}
    params["experiments"]["small"]["evaluate"]["ood"] = ["noise"]
    Path("params.yaml").write_text(json.dumps(params))
    assert project.stage("bind", "--experiment", "small").code == 0
    assert open_measure("data/bound/small.measure.json").ood == {}
    assert {p: Path(p).read_bytes() for p in before} == before, "models do not depend on it"
    params["experiments"]["small"]["evaluate"]["ood"] = ["absent"]
    Path("params.yaml").write_text(json.dumps(params))
    project.refuses("add absent to run.datasets", "bind", "--experiment", "small")


@pytest.mark.parametrize(
    ("file", "content", "changes", "expected"),
    [
        ("24.png", picture(0, 9, 9), {}, "24.png: 9 x 9 pixels; other images have 8 x 8: set side"),
        ("24.png", picture(0, 8, 8), {"channels": 3}, "25 greyscale where colour is wanted"),
        ("labels.csv", b"image,y\n00.png,1\n", {}, "labels.csv has no row for 01.png"),
        ("24.png", b"", {"labels": ["Male"]}, "no label column 'Male'; label columns there: none"),
    ],
    ids=["other size", "grey for colour", "no label", "no attribute"],
)
def test_images_that_prepare_cannot_use(
    project: Project, file: str, content: bytes, changes: dict[str, object], expected: str
) -> None:
    (project.folder / "mine" / file).write_bytes(content)
    project.set(**changes)
    project.data("mine", "fetch")
    project.refuses(expected, "prepare", "--data", "mine")


def test_a_folder_without_images_is_not_fetched(project: Project) -> None:
    for path in (project.folder / "mine").iterdir():
        path.unlink()
    project.refuses("mine: no image in the folder", "fetch", "--data", "mine")


def test_corrupt_images_are_left_out_and_many_stop_what_would_train_on_them(
    project: Project,
) -> None:
    for i in range(6):
        (project.folder / f"mine/{i:02}.png").write_bytes(b"no image")
    project.data("mine", "fetch")
    done = project.stage("prepare", "--data", "mine")
    assert "6 left out (corrupt image: 6)" in done.out
    assert project.stage("validate", "--data", "mine").code == 0
    done = project.stage("pack", "--data", "mine")
    assert done.code == 2
    assert "share of rows that are left out" in done.err
    assert done.err.count("\n") == 1
