"""How the process keeps memory: a third of the time of a training step hangs on it."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import torch

__all__ = ["give_back_memory", "reuse_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of malloc.h


def reuse_memory() -> None:
    """Keeps freed memory for the next step, and does not fill new tensors with NaN.

    Deterministic mode fills every new tensor (a quarter to a third of a step of the text model),
    and the GNU allocator gives buffers of a few megabytes back after each use, so that every step
    faults them in again (10-15%). Results are the same: the library never reads what it has not
    written. Does nothing where the allocator is another one; calling it again is harmless.
    Batches of many sizes leave gaps, and the process grows: see :func:`give_back_memory`.
    """
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 25)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_memory() -> None:
    """Gives free memory inside the heap back, which takes half a second where there are gigabytes.

    Called now and then: without it the text model of the Penn Treebank grew from 1.2 to 5.6 GB in
    half an hour.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
