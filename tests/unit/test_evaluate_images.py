"""The whole evaluation of small image models: what is measured, against what, and its pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Measure, Packed
from ldebm.errors import UsageError
from ldebm.evaluate import on_images
from ldebm.evaluate.figures import draw_figures
from ldebm.evaluate.on_images import evaluate_images, sample_images
from ldebm.grids import cells, tile
from ldebm.model import Model
from ldebm.seeding import numpy_generator
from tests.unit.image_models import Brightness, image_model, pictures
from tests.unit.image_worlds import packed_images

ALWAYS = {
    "fid_classifier", "fid_classifier_gaussian", "fid_classifier_fitted",
    "fid_classifier_mixture", "fid_classifier_reconstruction", "fid_classifier_test",
    "fid_classifier_images", "kid_classifier", "kid_classifier_gaussian", "kid_classifier_mixture",
    "kid_classifier_reconstruction", "kid_classifier_test", "mixture_components",
    "is_classifier", "classifier_confidence", "classifier_confidence_gaussian",
    "classifier_confidence_test", "recon_nll", "bound_bits", "rate", "acceptance", "class_kept_top",
    "class_kept_bottom", "ood_auroc_likelihood", "ood_auroc_likelihood_inverted",
}  # fmt: skip
OF_ENERGIES = {"ood_auroc", "ood_auroc_inverted", "oversaturation", "saturation_long"}


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    images = pictures(90)
    halves = images.reshape(90, 2, 32).mean(2) > 120
    labels = {name: halves[:, index].astype(int) for index, name in enumerate(("bright", "wide"))}
    return packed_images(tmp_path / "packed", images, labels)


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    monkeypatch.setattr(on_images.ImageClassifier, "load", lambda _: Brightness())
    return Measure(Path("classifier"), {})


SETTINGS = EvaluateConfig(
    samples=80, rows=60, ood=["inverted"], ood_rows=30, chains=6, per_label=4, decode="greedy"
)


@pytest.mark.parametrize("kind", ["diffusion", "svebm", "nce", "gaussian"])
def test_an_image_report_has_the_promised_metrics_and_the_same_bytes_twice(
    kind: str, packed: Packed, measure: Measure, tmp_path: Path
):
    model = image_model(kind)
    files = []
    for run in ("a", "b"):
        report = model.evaluate(packed, SETTINGS, measure)
        report.write(tmp_path / run / "metrics.json", tmp_path / run / "details")
        draw_figures(report, tmp_path / run / "details")
        written = sorted(path for path in (tmp_path / run).rglob("*") if path.is_file())
        files.append([(path.name, path.read_bytes()) for path in written])
    assert files[0] == files[1]
    assert len(files[0]) <= 50
    metrics = report.metrics
    assert set(metrics) >= ALWAYS | (set() if kind == "gaussian" else OF_ENERGIES)
    assert all(math.isfinite(value) for value in metrics.values())
    assert not {"fid", "kid", "is"} & set(metrics)  # Inception is not there
    names = {name for name, _ in files[0]}
    assert {
        "grid-data.png",
        "grid-prior.png",
        "grid-gaussian.png",
        "grid-hierarchy_top.png",
    } <= names
    assert {"groups.csv", "ood.csv", "latent_map.csv"} <= names
    assert ("transitions.csv" in names) == (kind != "gaussian")
    with Image.open(tmp_path / "a" / "details" / "grid-data.png") as picture:
        assert picture.size == tile(np.zeros((cells(8), 1, 8, 8), np.uint8)).shape[1::-1]


def test_the_gaussian_prior_of_the_same_noise_is_the_same_images(packed: Packed, measure: Measure):
    report = evaluate_images(image_model("gaussian"), packed, SETTINGS, measure)
    for name in ("fid_classifier", "kid_classifier", "classifier_confidence"):
        assert report.metrics[name] == report.metrics[f"{name}_gaussian"]
    grids = report.panels["grids"]
    assert (grids["prior"].images == grids["gaussian"].images).all()
    assert report.metrics["acceptance"] == 1.0


def test_distances_of_every_set_are_of_the_same_number_of_images():
    stream = numpy_generator(0, "features")
    reference, few = stream.normal(size=(200, 4)), stream.normal(size=(50, 4))
    sure = np.full((50, 2), 0.5)
    seen = {"": (np.tile(few, (3, 1)), np.tile(sure, (3, 1))), "test": (few, sure)}
    metrics = on_images._distances(("fid", "kid", "is"), reference, seen, 0)
    assert metrics["fid"] == pytest.approx(metrics["fid_test"], rel=1e-12)
    assert metrics["is"] == metrics["is_test"]


def test_without_a_classifier_no_distance_is_named(packed: Packed):
    report = evaluate_images(image_model("svebm"), packed, SETTINGS, Measure())
    assert not [name for name in report.metrics if "fid" in name or "classifier" in name]
    assert {"recon_nll", "bound_bits", "ood_auroc", "oversaturation"} <= set(report.metrics)
    assert all(row[4] == "" for row in report.tables["transitions"][1])


def test_a_missing_inception_file_is_said_in_one_line(packed: Packed, measure: Measure):
    config = SETTINGS.model_copy(update={"inception": "weights/none.pth"})
    with pytest.raises(UsageError, match=r"weights/none\.pth: no such file"):
        evaluate_images(image_model("gaussian"), packed, config, measure)


@pytest.mark.parametrize(("published", "name"), [(True, "fid"), (False, "fid_other_weights")])
def test_only_the_public_weights_give_a_number_called_fid(
    published: bool, name: str, packed: Packed, measure: Measure, monkeypatch: pytest.MonkeyPatch
):
    class Weights:
        def __init__(self, path: str, device: object) -> None:
            self.published = published

        def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            means = images.reshape(len(images), 2, -1).mean(2) / 255
            return means, np.stack([means[:, 0], 1 - means[:, 0]], 1)

    monkeypatch.setattr(on_images, "InceptionFeatures", Weights)
    config = SETTINGS.model_copy(update={"inception": "weights.pth"})
    metrics = evaluate_images(image_model("gaussian"), packed, config, measure).metrics
    assert {name, f"{name}_gaussian", f"{name}_reconstruction"} <= set(metrics)
    of_all = name.replace("fid", "fid_all")
    assert {of_all, f"{of_all}_gaussian"} <= set(metrics)
    assert ("fid" in metrics) == published


def test_labels_given_to_the_prior_are_controlled_and_classified(packed: Packed, measure: Measure):
    model = image_model(
        classes=2, hierarchy={"channels": 4, "label_groups": [0], "label_sampling": "langevin"},
        cluster={"labels": "given", "column": "bright"},
    )  # fmt: skip
    report = evaluate_images(model, packed, SETTINGS, measure)
    metrics = report.metrics
    assert 0 <= metrics["control_accuracy_low"] <= metrics["control_accuracy"] <= 1
    assert {"class_accuracy", "ami", "ami_shuffled", "classes_used"} <= set(metrics)
    assert {f"{name}_classifier_mixture_classes" for name in ("fid", "kid")} <= set(metrics)
    assert {"control_accuracy_test", "control_accuracy_reconstruction"} <= set(metrics)
    assert [row[0] for row in report.tables["control"][1]] == ["bright 0", "bright 1"]
    grid = report.panels["grids"]["control"]
    assert (len(grid.images), grid.columns, grid.rows) == (8, 4, ["bright 0", "bright 1"])


def test_samples_do_not_depend_on_how_many_follow():
    model = image_model("diffusion")

    def draw(n: int, stream: torch.Generator) -> torch.Tensor:
        return model.prior.sample(n, stream)

    few = sample_images(model, draw, 500, "greedy")
    more = sample_images(model, draw, 510, "greedy")
    assert (more[:500] == few).all()


def test_an_evaluation_of_images_needs_no_measure_beside_the_model(packed: Packed):
    model: Model = image_model("gaussian")
    report = model.evaluate(packed, SETTINGS.model_copy(update={"ood": []}))
    assert "recon_nll" in report.metrics
