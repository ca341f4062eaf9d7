"""Where a run computes: ``auto``, ``cpu`` or ``cuda``, and never silently something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ldebm.errors import UsageError
from ldebm.notes import note_device

__all__ = ["choose_device", "one_thread"]


def choose_device(wanted: str) -> torch.device:
    """The device that ``wanted`` names; ``auto`` takes CUDA where there is some.

    The lineage record of the running stage takes note of it.

    Raises:
        UsageError: CUDA was asked for and there is none, or the name is not one of the three.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {wanted!r}: expected 'auto', 'cpu' or 'cuda'")
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes with one thread of the CPU in the block (or function), and as before after it.

    The operations of small models are so short that threads mostly wait for each other: on two
    threads of a busy machine, scoring a text took twenty times the processor time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
