"""Two processes on a split batch take the step of one process on the joined batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ldebm.config import ExperimentConfig
from ldebm.files import read_model
from ldebm.training.parallel import is_main, row_weight, share
from tests.unit.two_processes import train_by_one_and_by_two


def packed_points(folder: Path) -> None:
    folder.mkdir()
    stream = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        np.save(folder / f"{split}.x.npy", 5 * stream.normal(size=(101, 2)).astype(np.float32))
        np.save(folder / f"{split}.id.npy", np.arange(101))
    (folder / "meta.json").write_text('{"kind": "points", "labels": {}, "source": "test"}')


def test_two_gloo_processes_equal_one(tmp_path: Path, monkeypatch) -> None:
    packed_points(tmp_path / "packed")
    training = {"updates": 12, "batch": 15, "validate_every": None, "optimiser": {"lr": 1e-2}}
    config = ExperimentConfig.model_validate(
        {
            "data": "points",
            "backbone": {"arch": "mlp", "latent": 2, "hidden": 8, "training": training},
            "prior": {"kind": "gaussian", "training": {"updates": 1}},
        }
    )
    train_by_one_and_by_two(tmp_path, config, 29731, monkeypatch)
    one, _ = read_model(tmp_path / "one" / "model.safetensors")
    two, _ = read_model(tmp_path / "two" / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


def test_alone_a_process_has_the_whole_batch() -> None:
    assert is_main()
    assert list(range(7))[share(7)] == list(range(7))
    assert row_weight(7) == 1.0
