"""`ldebm new` on a user's images: what is found, and sections that build."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ldebm.assembly import build_backbone
from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import ExperimentConfig
from ldebm.data.batches import make_batch
from ldebm.files import read_json
from ldebm.yaml_text import format_yaml
from pipelines.library import Library
from pipelines.new.dataset import add_dataset
from pipelines.new.images import ImageFacts, image_experiment
from pipelines.new.summary import expected_minutes
from tests.unit.data_worlds import World, encoded, noise

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def fill(folder: Path, shapes: list[tuple[int, ...]], classes: int = 1) -> Path:
    for i, shape in enumerate(shapes):
        path = folder / f"class{i % classes}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(i, *shape)))
    return folder


def test_a_folder_of_classes_becomes_data_and_a_model_that_reads_them(world: World) -> None:
    config = world.add(fill(world.folder / "mine", [(16, 16, 3)] * 30, classes=3))
    experiment = world.experiment("mine-hvae")
    assert Library(world.folder).dataset("mine").path == "mine"
    assert (config.side, config.channels) == (None, 3)
    assert (config.labels, experiment.cluster.column) == (["class"], "class")
    assert experiment.prior.classes == 3
    packed = world.built(config)
    assert packed.meta["labels"] == {"class": ["class0", "class1", "class2"]}
    backbone = build_backbone(experiment.backbone, packed.meta)
    assert isinstance(backbone, HierarchicalBackbone)
    mu, _ = backbone.encode(make_batch(packed.split("train"), np.arange(4), torch.device("cpu")))
    assert mu.shape == (4, backbone.latent)


@pytest.mark.parametrize(
    ("shapes", "size", "channels"),
    [
        ([(32, 32)] * 12, None, 1),
        ([(100, 80, 3)] * 12, 64, 3),
        ([(40, 40, 3)] * 6 + [(50, 70, 3)] * 6, 32, 3),
        ([(9, 9, 3)] * 12, 8, 3),
        ([(16, 16, 3)] * 10 + [(16, 16)] * 2, None, 1),
        ([(16, 16, 3)] * 23 + [(16, 16)], None, 3),
    ],
    ids=["grey", "large", "unequal", "odd", "many grey", "one grey"],
)
def test_size_and_channels_suit_the_images(
    shapes: list[tuple[int, ...]], size: int | None, channels: int, world: World
) -> None:
    config = world.add(fill(world.folder / "mine", shapes))
    assert (config.side, config.channels, config.labels) == (size, channels, [])


@pytest.mark.parametrize(
    ("side", "channels"), [(8, 1), (10, 3), (16, 3), (28, 1), (32, 3), (64, 3)]
)
def test_the_proposed_model_builds_for_every_size(side: int, channels: int, world: World) -> None:
    path = world.folder / "conf/experiment/mine.yaml"
    path.parent.mkdir(parents=True)
    for classes in (0, 5):
        facts = ImageFacts(1000, None, side, channels, ["y"] if classes else [], classes)
        path.write_text(format_yaml(image_experiment("mine", facts)))
        config = world.experiment("mine")
        meta: dict[str, Any] = {"kind": "images", "size": side, "channels": channels}
        backbone = build_backbone(config.backbone, meta)
        x = torch.zeros(2, channels, side, side)
        mu, _ = backbone.encode(x)
        assert torch.isfinite(backbone.reconstruction_nll(x, mu)).all()


def test_parquet_and_npz_are_told_from_tables_of_text(world: World) -> None:
    table = {"image": [encoded(noise(i, 8, 8)) for i in range(12)], "kind": ["a", "b"] * 6}
    pq.write_table(pa.table(table), world.folder / "p.parquet")
    texts = [f"some words {i}" for i in range(24)]
    pq.write_table(pa.table({"text": texts}), world.folder / "t.parquet")
    np.savez(world.folder / "n.npz", images=noise(0, 12, 8, 8), y=[0, 1] * 6, z=[1, 1] * 6)
    for name, file in (("p", "p.parquet"), ("t", "t.parquet"), ("n", "n.npz")):
        add_dataset(name, world.folder / file, root=world.folder)
    library = Library(world.folder)
    assert [library.dataset(name).kind for name in "ptn"] == ["images", "sentences", "images"]
    assert (library.dataset("p").labels, library.dataset("n").labels) == (["kind"], ["y"])


@pytest.mark.parametrize(
    ("source", "labels", "columns", "message"),
    [
        ("empty", [], {}, "empty: no image in the folder"),
        ("broken", [], {}, r"broken: no image in it can be read"),
        ("mine", ["Male"], {}, "mine: no label column 'Male'; label columns there: none"),
        ("mine", [], {"text": "body"}, "images have no text; leave --text out"),
        ("absent.zip", [], {}, r"absent.zip: no such file"),
    ],
)
def test_images_that_new_cannot_use_are_one_clear_line(
    source: str, labels: list[str], columns: dict[str, str], message: str, world: World
) -> None:
    fill(world.folder / "mine", [(8, 8)] * 12)
    (world.folder / "empty").mkdir()
    world.write("broken/1.png", b"no image")
    world.new_refuses(message, world.folder / source, *labels, columns=columns)


@pytest.mark.parametrize("name", ["digits-hvae", "cifar10-hvae", "celeba64-hvae"])
def test_the_expected_duration_is_that_of_recorded_runs(name: str) -> None:
    runs = [read_json(path) for path in sorted((ROOT / "results" / name).glob("*.json"))]
    params = runs[0]["params"]
    for stage, updates in runs[0]["updates"].items():
        params[stage]["training"] |= {"updates": updates, "epochs": None}
    expected = expected_minutes(ExperimentConfig.model_validate(params))
    fastest = min(sum(run["stage_seconds"].values()) for run in runs) / 60
    assert expected == pytest.approx(fastest, rel=0.6)
