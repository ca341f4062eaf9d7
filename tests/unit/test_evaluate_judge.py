"""The judge: learns labels, any number of columns, the same bytes after an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.config import DataConfig, JudgeConfig, Params
from ldebm.data.packed import JUDGE, Packed, open_measure, open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.evaluate import judge_training
from ldebm.evaluate.judge import Judge, judge_images, load_judge
from ldebm.evaluate.judge_training import JudgeTask, build_judge, moved
from ldebm.files import read_json, write_json
from ldebm.training.trainer import train

CONFIG = JudgeConfig(width=8, epochs=12, batch=20, shift=1, threads=1, device="cpu")


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
    metrics = build_judge(CONFIG, packed, Path("judge"))
    assert read_json("judge/metrics.json") == metrics
    columns = metrics["judge"]["columns"]
    assert set(columns) == {"side", "bright"}
    for found in columns.values():
        assert found["accuracy"] > 0.95 > found["majority"]
        assert found["balanced_accuracy"] > 0.95
    judge = load_judge("judge")
    test = packed.split("test")
    judged = judge_images(judge, test.x, batch=7)
    assert judged.features.shape == (40, 16)
    right = judged.probabilities["side"].argmax(1) == test.labels("side")
    assert right.mean() == columns["side"]["accuracy"]
    x = torch.from_numpy(test.x[:5].copy()).float() / 127.5 - 1
    logits = judge.logits(x, "side")
    assert np.allclose(
        logits.softmax(1).detach().numpy(), judged.probabilities["side"][:5], atol=1e-6
    )
    assert np.allclose(judge.features(x).detach().numpy(), judged.features[:5], atol=1e-5)


def test_the_same_bytes_every_time_and_after_an_interruption(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = CONFIG.model_copy(update={"epochs": 2})
    build_judge(short, packed, Path("one"))
    build_judge(short, packed, Path("two"))
    monkeypatch.setattr(
        judge_training, "train", lambda *args, **kwargs: train(*args, **kwargs, stop_after=5)
    )
    with pytest.raises(SystemExit, match="75"):
        build_judge(short, packed, Path("three"))
    assert not Path("three").exists()
    monkeypatch.undo()
    monkeypatch.chdir(Path(packed.path).parent)
    build_judge(short, packed, Path("three"))
    for name in ("two", "three"):
        assert Path(name, JUDGE).read_bytes() == Path("one", JUDGE).read_bytes()
        assert Path(name, "metrics.json").read_bytes() == Path("one", "metrics.json").read_bytes()
    assert not list(Path(".ckpt").glob("*.pt"))


def test_rows_without_a_label_do_not_count(packed: Packed) -> None:
    judge = Judge(CONFIG, packed.meta)
    device = torch.device("cpu")
    task = JudgeTask(judge, packed.split("train"), packed.split("valid"), CONFIG, device)
    task.labels["bright"][:] = -1
    task.module.train()
    alone = task.loss(0).total
    task.labels["bright"] = task.labels["side"] * 0 - 1
    assert torch.isfinite(alone)
    alone.backward()
    first = list(judge.classes).index("bright") * 2
    assert judge.head.weight.grad is not None
    assert (judge.head.weight.grad[first : first + 2] == 0).all()
    assert (judge.head.weight.grad[2:] != 0).any()


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
        judge = Judge(CONFIG, meta).eval()
        x = torch.zeros(2, channels, size, size)
        assert judge.body(x).shape[-1] in (4,)
        assert judge.logits(x, "y").shape == (2, 3)


def test_what_a_judge_cannot_do_is_one_clear_line(packed: Packed) -> None:
    judge = Judge(CONFIG, packed.meta).eval()
    with pytest.raises(UsageError, match="no column 'Male'; it knows bright, side"):
        judge.logits(torch.zeros(1, 1, 8, 8), "Male")
    with pytest.raises(UsageError, match="images of 3 channels; it was trained on 1"):
        judge.features(torch.zeros(1, 3, 8, 8))
    write_json("none/metrics.json", {"kind": "points", "judge": None})
    with pytest.raises(UsageError, match="no judge: the data set is not of images"):
        load_judge("none")
    with pytest.raises(UsageError, match="no such model"):
        load_judge("absent")


def test_a_measure_file_names_the_judge_and_other_data(packed: Packed) -> None:
    content: dict[str, Any] = {
        "judge": {"path": "data/judge/mine", "files": {}},
        "ood": {"other": {"path": packed.path.as_posix(), "files": {}}},
    }
    write_json("measure.json", content)
    measure = open_measure("measure.json")
    assert measure.judge == Path("data/judge/mine")
    assert measure.ood["other"].meta == packed.meta
    write_json("measure.json", {"judge": None, "ood": {}})
    assert open_measure("measure.json").judge is None
    write_json("measure.json", {"ood": {}})
    with pytest.raises(UsageError, match="does not name a judge"):
        open_measure("measure.json")


def test_every_data_set_has_its_own_judge_or_the_defaults() -> None:
    content = {
        "run": {"datasets": [], "experiments": [], "seeds": [0]},
        "data": {
            "a": {"kind": "images", "source": "digits", "judge": {"epochs": 9}},
            "b": {"kind": "images", "source": "mnist"},
        },
        "experiments": {},
    }
    params = Params.model_validate(content)
    assert params.judge_of("a") == JudgeConfig(epochs=9)
    assert params.judge_of("b") == JudgeConfig()
