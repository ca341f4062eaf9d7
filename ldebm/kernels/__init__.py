"""Compiled kernels of the bfloat16 path: where they are, whether they are used, and what they give.

They fuse the products of recurrent layers and of the output layer with what is done to each block
of their results, clipping with Adam, and SiLU with its derivatives. Plain PyTorch computes the same
where they are not: on a processor without AVX-512 bfloat16 instructions, without a compiler, or
with ``LDEBM_KERNELS=0``. Float32 paths never use them, so that their bytes do not depend on a
compiler.

``python -m ldebm.kernels.build`` (``make setup`` runs it) compiles them into Python's environment.
Nothing is ever compiled anywhere else.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["FLAGS", "SOURCES", "SWITCH", "library", "plain", "state", "usable"]

SWITCH = "LDEBM_KERNELS"
SOURCES = sorted(Path(__file__).parent.glob("*.cpp")) + sorted(Path(__file__).parent.glob("*.h"))
_ISA = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "fma", "f16c")
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-fopenmp", "-w", *(f"-m{name}" for name in _ISA))
_off = 0  # blocks of `plain` that are open


def library() -> Path:
    """Where the compiled library belongs, beside torch: its name holds what it is made from."""
    key = hashlib.sha256(" ".join([*FLAGS, version("torch"), platform.machine()]).encode())
    for source in SOURCES:
        key.update(source.read_bytes())
    return Path(sys.prefix, "lib", "ldebm") / f"kernels-{key.hexdigest()[:16]}.so"


def unsupported() -> str | None:
    """Why this processor cannot run the kernels; None: it can."""
    import torch

    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        return None
    return "this processor has no AVX-512 bfloat16 instructions"


@functools.cache
def _load() -> str | None:
    """Loads the library once; why it is not used, or None."""
    import torch

    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    if (reason := unsupported()) is not None:
        return reason
    try:
        path = library()
        if not path.is_file():
            return "not built here: python -m ldebm.kernels.build"
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the library cannot be loaded: {error}"
    return None


def state() -> str:
    """``compiled`` with the library's key, or ``plain PyTorch`` with the reason: one line."""
    reason = _load()
    if reason is not None:
        return f"plain PyTorch ({reason})"
    return f"compiled ({library().stem.removeprefix('kernels-')})"


def usable(x: Tensor, multiple: int = 64, dtype: torch.dtype | None = None) -> bool:
    """Whether there are kernels for ``x``: float32 on a CPU, and loaded.

    Args:
        x: a layer's state or hidden vectors, (rows, size), or a parameter.
        multiple: the last size must be one of it.
        dtype: another one that the kernel wants.
    """
    import torch

    fits = x.dtype == (dtype or torch.float32) and x.device.type == "cpu"
    return fits and not _off and (not x.dim() or x.shape[-1] % multiple == 0) and _load() is None


@contextmanager
def plain() -> Iterator[None]:
    """A block in which plain PyTorch is used: for what must not depend on a compiler."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1
