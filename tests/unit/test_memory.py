"""How the process keeps memory."""

from pathlib import Path

import pytest
import torch

from ldebm.training.memory import give_back_memory, reuse_memory


def resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("needs /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_gaps_between_what_is_kept_are_given_back():
    reuse_memory()
    blocks = [torch.ones(1 << 18) for _ in range(128)]  # 1 MB each
    del blocks[:-1]
    kept = resident()
    give_back_memory()
    assert resident() < kept - 64 * 2**20
    assert bool((blocks[0] == 1).all())
