"""Two settings of the process that a third of the time of a training step hangs on."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

__all__ = ["reuse_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of malloc.h


def reuse_memory() -> None:
    """Keeps freed memory for the next step, and does not fill new tensors with NaN.

    Deterministic mode fills every new tensor (a quarter to a third of a step of the text model),
    and the GNU allocator gives buffers of a few megabytes back after each use, so that every step
    faults them in again (10-15%). Results are the same: the library never reads what it has not
    written. Does nothing where the allocator is another one; calling it again is harmless.
    """
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 25)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
