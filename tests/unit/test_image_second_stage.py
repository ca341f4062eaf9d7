"""Labels, second stage and generation of image models, on a first stage written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.api import load
from ldebm.assembly import build_backbone
from ldebm.config import ExperimentConfig
from ldebm.data.packed import Packed
from ldebm.errors import UsageError
from ldebm.files import read_parquet, write_model
from ldebm.seeding import generator
from ldebm.training.labelling import cluster_stage
from ldebm.training.second_stage import prior_stage
from tests.unit.image_worlds import HVAE, packed_images

LAYERS = [{"dense": 3}, {"conv": [2, 4]}]


def experiment(**changes: Any) -> ExperimentConfig:
    prior: dict[str, Any] = {
        "levels": 3,
        "classes": 4,
        "energy": {"hidden": 16, "blocks": 1, "activation": "silu", "spectral_norm": False},
        "sampler": {"steps": 3},
        "score_matching": 0.5,
        "standardise": "diagonal",
        "hierarchy": {"channels": 4, "attributes": {"tall": [1], "bright": [0]}},
        "training": {"updates": 6, "batch": 16, "validate_every": None},
    } | changes
    content = {
        "data": "pictures",
        "backbone": {
            "arch": "hvae",
            "hvae": HVAE | {"layers": LAYERS},
            "training": {"updates": 1},
        },
        "cluster": {"labels": "given"},
        "prior": prior,
    }
    return ExperimentConfig.model_validate(content)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """40 pictures with two attributes, and the folder of a run as the working directory."""
    monkeypatch.chdir(tmp_path)
    stream = np.random.default_rng(0)
    images = stream.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    labels = {"bright": np.arange(40) % 2, "tall": np.arange(40) // 20}
    return packed_images(tmp_path / "packed", images, labels)


def first_stage(config: ExperimentConfig, packed: Packed, folder: Path) -> None:
    backbone = build_backbone(config.backbone, packed.meta, generator(0, "backbone"))
    write_model(folder / "backbone" / "model.safetensors", backbone.state_dict(), {})


def second_stage(config: ExperimentConfig, packed: Packed, folder: Path) -> None:
    first_stage(config, packed, folder)
    cluster_stage(config, packed, 0, folder / "backbone", folder / "latents.parquet")
    prior_stage(config, packed, 0, folder, "pictures")


def test_the_classes_of_attributes_are_their_combinations(pictures: Packed, tmp_path: Path) -> None:
    config = experiment()
    first_stage(config, pictures, tmp_path)
    cluster_stage(config, pictures, 0, tmp_path / "backbone", tmp_path / "latents.parquet")
    latents = read_parquet(tmp_path / "latents.parquet")
    rows = latents["split"] == 0
    expected = 2 * (np.arange(40) % 2) + np.arange(40) // 20
    assert (latents["label"][rows] == expected).all()
    assert latents["mu"].shape == (120, 3)  # the top group alone


TILTED = {"base_measure": "mixture", "mixture": {"components": [2, 3]}}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("diffusion", {}),
        ("svebm", {}),
        ("nce", {}),
        ("gaussian", {}),
        ("diffusion", TILTED),
        ("svebm", TILTED),
        ("flow", {"score_matching": 0.0, "flow": {"hidden": 8}}),
    ],
)
def test_every_kind_of_prior_is_trained_written_and_sampled(
    pictures: Packed, tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    config = experiment(kind=kind, **more)
    second_stage(config, pictures, tmp_path)
    model = load(tmp_path / "prior")
    first = model.generate(5, seed=1)
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.uint8
    assert first.shape == (5, 1, 8, 8)
    assert (first == model.generate(5, seed=1)).all()
    assert (first != model.generate(5, seed=2)).any()
    assert np.asarray(model.reconstruct(pictures.split("test").x[:3])).shape == (3, 1, 8, 8)
    if kind != "gaussian":
        drawn = model.generate(4, attributes={"tall": "1"})
        assert np.asarray(drawn).shape == (4, 1, 8, 8)
        assert model.classify(pictures.split("test").x[:3]).shape == (3, 4)


def test_attributes_name_their_classes(pictures: Packed, tmp_path: Path) -> None:
    second_stage(experiment(), pictures, tmp_path)
    model = load(tmp_path / "prior")
    assert model.attribute_classes({"tall": 1}) == [1, 3]
    assert model.attribute_classes({"bright": "0", "tall": "1"}) == [1]
    with pytest.raises(UsageError, match=r"attribute 'wide': expected one of .*\(bright, tall\)"):
        model.attribute_classes({"wide": 1})
    with pytest.raises(UsageError, match="attribute tall=7: expected 0 or 1"):
        model.attribute_classes({"tall": 7})


def test_the_same_stages_write_the_same_bytes(pictures: Packed, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        second_stage(experiment(), pictures, tmp_path / name)
        written.append((tmp_path / name / "prior" / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_the_published_setting_runs(pictures: Packed, tmp_path: Path) -> None:
    config = experiment(
        energy={"spectral_norm": True, "activation": "silu", "hidden": 16, "blocks": 1},
        energy_scale="code",
        t_weight="step",
        standardise="none",
        score_matching=0.0,
        sampler={
            "method": "ula", "rule": "published", "delta": 3e-5, "steps": 5, "start": "previous",
        },
    )  # fmt: skip
    second_stage(config, pictures, tmp_path)
    images = load(tmp_path / "prior").generate(3)
    assert np.asarray(images).shape == (3, 1, 8, 8)


def test_images_of_another_size_are_refused(pictures: Packed, tmp_path: Path) -> None:
    second_stage(experiment(kind="gaussian"), pictures, tmp_path)
    model = load(tmp_path / "prior")
    with pytest.raises(UsageError, match=r"images: expected uint8 of shape \(n, 1, 8, 8\), got"):
        model.encode(np.zeros((2, 1, 9, 9), dtype=np.uint8))
    assert torch.is_tensor(model.sample_latents(2))
