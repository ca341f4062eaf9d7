"""Where a run computes: ``auto``, ``cpu`` or ``cuda``, and never silently something else."""

from __future__ import annotations

import torch

from ldebm.errors import UsageError

__all__ = ["choose_device"]


def choose_device(wanted: str) -> torch.device:
    """The device that ``wanted`` names; ``auto`` takes CUDA where there is some.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError(
            "device 'cuda': no CUDA device is available to torch "
            f"{torch.__version__}; set device to 'auto' or 'cpu', or install a CUDA build"
        )
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
