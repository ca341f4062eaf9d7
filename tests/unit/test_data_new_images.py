"""`ldebm new` on a user's images: what is found, and sections that build."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldebm.assembly import build_backbone
from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import ExperimentConfig
from ldebm.data.fetch import fetch
from ldebm.data.packed import open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.files import read_json
from ldebm.training.latents import make_batch
from ldebm.yaml_text import format_yaml
from pipelines.library import Library
from pipelines.new.dataset import add_dataset
from pipelines.new.images import ImageFacts, image_experiment
from pipelines.new.summary import expected_minutes

PARAMS = """run: {datasets: [], experiments: [], seeds: [0]}

data:
  a: {kind: points, source: gaussians16}  # a comment

experiments:
  one:
    data: a
    backbone: {arch: mlp, latent: 2, training: {epochs: 1}}
    prior: {training: {epochs: 1}}
"""


ROOT = Path(__file__).parents[2]


def picture(seed: int, *shape: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path / "params.yaml"


def fill(folder: Path, shapes: list[tuple[int, ...]], classes: int = 1) -> Path:
    for i, shape in enumerate(shapes):
        path = folder / f"class{i % classes}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, *shape))
    return folder


def test_a_folder_of_classes_becomes_data_and_a_model_that_reads_them(
    params: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "mine", [(16, 16, 3)] * 30, classes=3)
    assert add_dataset("mine", tmp_path / "mine", root=params.parent) == "mine-hvae"
    loaded = Library(params.parent)
    config, experiment = loaded.dataset("mine"), loaded.experiment("mine-hvae")
    assert (config.path, config.side, config.channels) == ("mine", None, 3)
    assert (config.labels, experiment.cluster.column) == (["class"], "class")
    assert experiment.prior.classes == 3
    there = config.model_copy(update={"path": str(tmp_path / "mine")})
    fetch(None, there, tmp_path / "raw")
    prepare(there, tmp_path / "raw", tmp_path / "prepared")
    packed = pack(there, tmp_path / "prepared", tmp_path / "packed")
    assert packed["labels"] == {"class": ["class0", "class1", "class2"]}
    backbone = build_backbone(experiment.backbone, packed)
    assert isinstance(backbone, HierarchicalBackbone)
    train = open_packed(tmp_path / "packed").split("train")
    mu, _ = backbone.encode(make_batch(train, np.arange(4), torch.device("cpu")))
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
    shapes: list[tuple[int, ...]], size: int | None, channels: int, params: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "mine", shapes)
    add_dataset("mine", tmp_path / "mine", root=params.parent)
    config = Library(params.parent).dataset("mine")
    assert (config.side, config.channels, config.labels) == (size, channels, [])


@pytest.mark.parametrize(
    ("side", "channels"), [(8, 1), (10, 3), (16, 3), (28, 1), (32, 3), (64, 3)]
)
def test_the_proposed_model_builds_for_every_size(side: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "conf/experiment/mine.yaml"
    path.parent.mkdir(parents=True)
    for classes in (0, 5):
        facts = ImageFacts(1000, None, side, channels, ["y"] if classes else [], classes)
        path.write_text(format_yaml(image_experiment("mine", facts)))
        config = Library(tmp_path).experiment("mine")
        meta: dict[str, Any] = {"kind": "images", "size": side, "channels": channels}
        backbone = build_backbone(config.backbone, meta)
        x = torch.zeros(2, channels, side, side)
        mu, _ = backbone.encode(x)
        assert torch.isfinite(backbone.reconstruction_nll(x, mu)).all()


def test_parquet_and_npz_are_told_from_tables_of_text(params: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"image": [picture(i, 8, 8) for i in range(12)], "kind": ["a", "b"] * 6}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    pq.write_table(
        pa.table({"text": [f"some words {i}" for i in range(24)]}), tmp_path / "t.parquet"
    )
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "n.npz", images=images, y=[0, 1] * 6, z=[1, 1] * 6)
    for name, file in (("p", "p.parquet"), ("t", "t.parquet"), ("n", "n.npz")):
        add_dataset(name, tmp_path / file, root=params.parent)
    library = Library(params.parent)
    assert [library.dataset(name).kind for name in "ptn"] == ["images", "sentences", "images"]
    assert (library.dataset("p").labels, library.dataset("n").labels) == (["kind"], ["y"])


def test_images_that_new_cannot_use_are_one_clear_line(params: Path, tmp_path: Path) -> None:
    fill(tmp_path / "mine", [(8, 8)] * 12)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/1.png").write_bytes(b"no image")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("empty", {}, "empty: no image in the folder"),
        ("broken", {}, r"broken: no image in it can be read"),
        (
            "mine",
            {"labels": ["Male"]},
            "mine: no label column 'Male'; label columns there: none",
        ),
        ("mine", {"columns": {"text": "body"}}, "images have no text; leave --text out"),
        ("absent.zip", {}, r"absent.zip: no such file"),
    ]
    for source, options, message in cases:
        with pytest.raises(UsageError, match=message) as error:
            add_dataset("new", tmp_path / source, root=params.parent, **options)
        assert "\n" not in str(error.value)
        assert not (params.parent / "conf").exists()


@pytest.mark.parametrize("name", ["digits-hvae", "cifar10-hvae", "celeba64-hvae"])
def test_the_expected_duration_is_that_of_recorded_runs(name: str) -> None:
    runs = [read_json(path) for path in sorted((ROOT / "results" / name).glob("*.json"))]
    params = runs[0]["params"]
    for stage, updates in runs[0]["updates"].items():
        params[stage]["training"] |= {"updates": updates, "epochs": None}
    expected = expected_minutes(ExperimentConfig.model_validate(params))
    fastest = min(sum(run["stage_seconds"].values()) for run in runs) / 60
    assert expected == pytest.approx(fastest, rel=0.6)
