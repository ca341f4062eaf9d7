"""The evaluation classifier of images: it learns labels, and the same bytes every time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.config import (
    ContextConfig,
    DataConfig,
    EvaluateConfig,
    ImageClassifierConfig,
    Params,
    parse,
)
from ldebm.data.packed import JUDGE, Packed, open_measure, open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.evaluate import classifier_training
from ldebm.evaluate.classifier_training import LabelTask, build_classifier
from ldebm.evaluate.image_classifier import ImageClassifier, moved
from ldebm.files import read_json, write_json
from ldebm.training.trainer import train

CONFIG = ImageClassifierConfig(width=8, epochs=12, batch=20, shift=1, threads=1, device="cpu")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """Noise with a bright left or right half, and bright or dark as a whole."""
    monkeypatch.chdir(tmp_path)
    stream = np.random.default_rng(0)
    side, bright = stream.integers(0, 2, (2, 200))
    images = stream.integers(0, 60, (200, 8, 8, 1), dtype=np.uint8)
    images[side == 0, :, :4] += 80
    images[side == 1, :, 4:] += 80
    images[bright == 1] += 100
    names = np.array(["left", "right"])[side]
    split = np.array(["train"] * 120 + ["valid"] * 40 + ["test"] * 40)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw/mine.npz", images=images, side=names, bright=bright, split=split)
    config = DataConfig(kind="images", source="file", labels=["bright", "side"])
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    pack(config, tmp_path / "prepared", tmp_path / "packed")
    return open_packed(tmp_path / "packed")


def test_every_label_column_is_learnt_by_one_network(packed: Packed) -> None:
    metrics = build_classifier(ImageClassifier, CONFIG, packed, Path("out"))
    assert read_json("out/metrics.json") == metrics
    columns = metrics["classifier"]["columns"]
    assert set(columns) == {"side", "bright"}
    for scores in columns.values():
        assert scores["accuracy"] > 0.95 > scores["majority"]
        assert scores["balanced_accuracy"] > 0.95
    classifier = ImageClassifier.load("out")
    test = packed.split("test")
    classified = classifier.classify(test.x, batch=7)
    assert classified.features.shape == (40, 16)
    right = classified.probabilities["side"].argmax(1) == test.labels("side")
    assert right.mean() == columns["side"]["accuracy"]
    x = torch.from_numpy(test.x[:5].copy()).float() / 127.5 - 1
    logits = classifier.logits(x, "side")
    assert np.allclose(
        logits.softmax(1).detach().numpy(), classified.probabilities["side"][:5], atol=1e-6
    )
    assert np.allclose(classifier.features(x).detach().numpy(), classified.features[:5], atol=1e-5)


def test_the_same_bytes_every_time_and_after_an_interruption(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = CONFIG.model_copy(update={"epochs": 2})
    build_classifier(ImageClassifier, short, packed, Path("one"))
    build_classifier(ImageClassifier, short, packed, Path("two"))
    monkeypatch.setattr(
        classifier_training, "train", lambda *args, **kwargs: train(*args, **kwargs, stop_after=5)
    )
    with pytest.raises(SystemExit, match="75"):
        build_classifier(ImageClassifier, short, packed, Path("three"))
    assert not Path("three").exists()
    monkeypatch.undo()
    monkeypatch.chdir(Path(packed.path).parent)
    build_classifier(ImageClassifier, short, packed, Path("three"))
    for name in ("two", "three"):
        assert Path(name, JUDGE).read_bytes() == Path("one", JUDGE).read_bytes()
        assert Path(name, "metrics.json").read_bytes() == Path("one", "metrics.json").read_bytes()
    assert not list(Path(".ckpt").glob("*.pt"))


def test_rows_without_a_label_do_not_count(packed: Packed) -> None:
    classifier = ImageClassifier(CONFIG, packed.meta)
    task = LabelTask(classifier, packed.split("train"), packed.split("valid"))
    task.labels["bright"][:] = -1
    task.module.train()
    alone = task.loss(0).total
    task.labels["bright"] = task.labels["side"] * 0 - 1
    assert torch.isfinite(alone)
    alone.backward()
    first = list(classifier.classes).index("bright") * 2
    assert classifier.head.weight.grad is not None
    assert (classifier.head.weight.grad[first : first + 2] == 0).all()
    assert (classifier.head.weight.grad[2:] != 0).any()


def test_moving_keeps_every_pixel_in_some_place_and_the_stream_decides() -> None:
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6)

    def move(shift: int, flip: bool, seed: int = 0) -> torch.Tensor:
        return moved(x, shift, flip, torch.Generator().manual_seed(seed))

    assert torch.equal(move(0, False), x)
    assert torch.equal(move(2, True, 1), move(2, True, 1))
    shifted = move(2, False, 3)
    assert shifted.shape == x.shape
    for image, source in zip(shifted, x, strict=True):
        assert any(
            torch.equal(image[:, 2:4, 2:4], source[:, 2 + dy : 4 + dy, 2 + dx : 4 + dx])
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        )
    mirrored = {torch.equal(move(0, True, seed)[0], x[0].flip(2)) for seed in range(12)}
    assert mirrored == {True, False}


def test_large_images_are_halved_by_the_stem_and_all_sizes_end_at_four_pixels() -> None:
    for size, channels in ((8, 1), (28, 1), (32, 3), (64, 3)):
        meta = {"channels": channels, "size": size, "labels": {"y": ["a", "b", "c"]}}
        classifier = ImageClassifier(CONFIG, meta).eval()
        x = torch.zeros(2, channels, size, size)
        assert classifier.body(x).shape[-1] in (4,)
        assert classifier.logits(x, "y").shape == (2, 3)


def test_what_a_classifier_cannot_do_is_one_clear_line(packed: Packed) -> None:
    classifier = ImageClassifier(CONFIG, packed.meta).eval()
    with pytest.raises(UsageError, match="no label column 'Male'; it knows bright, side"):
        classifier.logits(torch.zeros(1, 1, 8, 8), "Male")
    with pytest.raises(UsageError, match="images of 3 channels; it was trained on 1"):
        classifier.features(torch.zeros(1, 3, 8, 8))
    write_json("none/metrics.json", {"kind": "points", "classifier": None})
    with pytest.raises(UsageError, match="no classifier of images: it was not built, or"):
        ImageClassifier.load("none")
    with pytest.raises(UsageError, match="no classifier of images"):
        ImageClassifier.load("absent")


def test_a_measure_file_names_the_classifier_and_other_data(packed: Packed) -> None:
    content: dict[str, Any] = {
        "judge": {"path": "data/judge/mine", "files": {}},
        "ood": {"other": {"path": packed.path.as_posix(), "files": {}}},
    }
    write_json("measure.json", content)
    measure = open_measure("measure.json")
    assert measure.classifier == Path("data/judge/mine")
    assert measure.ood["other"].meta == packed.meta
    write_json("measure.json", {"judge": None, "ood": {}})
    assert open_measure("measure.json").classifier is None
    write_json("measure.json", {"ood": {}})
    with pytest.raises(UsageError, match="does not name a classifier"):
        open_measure("measure.json")


def test_earlier_names_of_keys_are_read_as_the_present_ones() -> None:
    content = {
        "run": {"datasets": [], "experiments": [], "seeds": [0]},
        "data": {
            "a": {"kind": "images", "source": "digits", "judge": {"epochs": 9}, "classifier": None},
            "b": {
                "kind": "sentences",
                "source": "sst2",
                "judge": None,
                "classifier": {"epochs": 2},
            },
        },
        "experiments": {},
    }
    params = parse(Params, content)
    assert params.classifier("a").epochs == 9
    text = params.data["b"].text_classifier
    assert (text and text.epochs) == 2
    assert parse(EvaluateConfig, {"judge": "b"}).classifier == "b"
    assert parse(ContextConfig, {"size": 64}).hidden == 64
    with pytest.raises(UsageError, match="unknown key 'judge'"):
        parse(EvaluateConfig, {"judge": "b", "classifier": "b"})


def test_every_data_set_has_its_own_image_classifier_or_the_defaults() -> None:
    content = {
        "run": {"datasets": [], "experiments": [], "seeds": [0]},
        "data": {
            "a": {"kind": "images", "source": "digits", "image_classifier": {"epochs": 9}},
            "b": {"kind": "images", "source": "mnist"},
        },
        "experiments": {},
    }
    params = Params.model_validate(content)
    assert params.classifier("a") == ImageClassifierConfig(epochs=9)
    assert params.classifier("b") == ImageClassifierConfig()
