"""Where a run computes: ``auto``, ``cpu`` or ``cuda``, and never silently something else."""

from __future__ import annotations

import torch

from ldebm.errors import UsageError
from ldebm.lineage.records import note_device

__all__ = ["choose_device"]


def choose_device(wanted: str) -> torch.device:
    """The device that ``wanted`` names; ``auto`` takes CUDA where there is some.

    The lineage record of the running stage takes note of it.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError(
            "device 'cuda': no CUDA device is available to torch "
            f"{torch.__version__}; set device to 'auto' or 'cpu', or install a CUDA build"
        )
    cpu = wanted == "cpu" or not available
    device = torch.device("cpu") if cpu else torch.device("cuda", torch.cuda.current_device())
    note_device(device)
    return device
