"""Two processes on a split batch take the step of one process on the joined batch."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from ldebm.training.parallel import is_main, row_weight, share

SCRIPT = """
import sys
import torch
from pathlib import Path
from ldebm.config import ExperimentConfig
from ldebm.training.parallel import is_main, parallel
from ldebm.training.first_stage import build_backbone_stage
from ldebm.data.packed import open_packed
folder = Path(sys.argv[1])
training = {"updates": 12, "batch": 15, "validate_every": None, "optimiser": {"lr": 1e-2}}
config = ExperimentConfig.model_validate({
    "data": "points",
    "backbone": {"arch": "mlp", "latent": 2, "hidden": 8, "training": training},
    "prior": {"kind": "gaussian", "training": {"updates": 1}},
})
with parallel():
    build_backbone_stage(config, open_packed(folder / "packed"), 0, folder / sys.argv[2])
"""


def packed_points(folder: Path) -> None:
    folder.mkdir()
    stream = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        np.save(folder / f"{split}.x.npy", 5 * stream.normal(size=(101, 2)).astype(np.float32))
        np.save(folder / f"{split}.id.npy", np.arange(101))
    (folder / "meta.json").write_text('{"kind": "points", "labels": {}, "source": "test"}')


def test_two_gloo_processes_equal_one(tmp_path: Path, monkeypatch) -> None:
    packed_points(tmp_path / "packed")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDEBM_NO_REUSE", "1")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), "one"])
    runpy.run_path(str(script))
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29731"]
    subprocess.run(
        [sys.executable, *torchrun, str(script), str(tmp_path), "two"],
        check=True,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
    )
    from ldebm.files import read_model

    one, _ = read_model(tmp_path / "one" / "model.safetensors")
    two, _ = read_model(tmp_path / "two" / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


def test_alone_a_process_has_the_whole_batch() -> None:
    assert is_main()
    assert list(range(7))[share(7)] == list(range(7))
    assert row_weight(7) == 1.0
