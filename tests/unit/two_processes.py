"""The same first stage by one process and by two, for tests of what several processes compute."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ldebm.config import ExperimentConfig

__all__ = ["train_by_one_and_by_two"]

SCRIPT = """
import sys
from pathlib import Path
from ldebm.config import ExperimentConfig
from ldebm.data.packed import open_packed
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.parallel import parallel
folder = Path(sys.argv[1])
config = ExperimentConfig.model_validate_json((folder / "config.json").read_text())
with parallel():
    build_backbone_stage(config, open_packed(folder / "packed"), 0, folder / sys.argv[2])
"""


def train_by_one_and_by_two(
    folder: Path, config: ExperimentConfig, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trains on ``folder/packed``: here into ``folder/one``, by two processes into ``folder/two``.

    Args:
        folder: of the test.
        config: what to train.
        port: where the two meet; another one for every test.
        monkeypatch: of the test.
    """
    (folder / "config.json").write_text(config.model_dump_json())
    script = folder / "run.py"
    script.write_text(SCRIPT)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LDEBM_NO_REUSE", "1")
    monkeypatch.setattr(sys, "argv", [str(script), str(folder), "one"])
    runpy.run_path(str(script))
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    subprocess.run(
        [sys.executable, "-m", *torchrun, str(script), str(folder), "two"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
    )
