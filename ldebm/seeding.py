"""Random streams as pure functions of integers, and the numeric settings of a run.

Every draw of the project comes from a generator made here from ``(seed, *path)``. Nothing depends
on how many numbers were drawn before, so that a resumed run continues with the same noise.
torch is imported where it is used: the data stages need numpy alone and start in half the time.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = [
    "configure",
    "derive_seed",
    "generator",
    "numerics",
    "numpy_generator",
    "start_vector_functions",
]

VECTOR_FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp"),
    *("log", "log10", "log2", "sin", "sqrt", "tan", "tanh", "trunc"),
)
"""Of torch, those that the vector library of the processor's maker computes."""


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for the stream that ``path`` names.

    Example:
        >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 3)
        True
        >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 4)
        False
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *path: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for the stream ``(seed, *path)`` on ``device``."""
    import torch

    stream = torch.Generator(device=device)
    stream.manual_seed(derive_seed(seed, *path))
    return stream


def numpy_generator(seed: int, *path: int | str) -> np.random.Generator:
    """A numpy generator for the stream ``(seed, *path)``."""
    return np.random.default_rng(derive_seed(seed, *path))


def configure(threads: int) -> None:
    """Sets thread count, deterministic algorithms and memory reuse for this process.

    Float32 products go to oneDNN where it still computes them in float32 (tested against float64),
    because the default library is about half as fast on some processors.

    Args:
        threads: intra-op threads; part of the parameters, since it can change the last bits.
    """
    import torch

    from ldebm.training.memory import reuse_memory

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms loads a compiler
    torch.backends.cudnn.benchmark = False
    start_vector_functions()
    torch.set_float32_matmul_precision("medium")
    if _matmul_error() > 2e-6:  # AMX and TF32 really round: stay with the exact kernels there
        torch.set_float32_matmul_precision("highest")
    reuse_memory()


def start_vector_functions() -> None:
    """Calls every elementary function once, from this thread alone.

    The library behind them finds its kernel at the first call in a process. Where two threads make
    that call together, one of them now and then computes its half with a coarser kernel (measured:
    5e-5 off in 3 of 66 processes for tanh), and the run is not repeatable.
    """
    import torch

    for kind in (torch.float32, torch.float64):
        x = torch.full((16,), 0.5, dtype=kind)
        for name in VECTOR_FUNCTIONS:
            getattr(torch, name)(x)


def _matmul_error() -> float:
    """Relative error of a float32 product on this machine against float64."""
    import torch

    stream = generator(0, "matmul-check")
    a = torch.randn(256, 256, generator=stream)
    b = torch.randn(256, 256, generator=stream)
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())


def numerics(device: torch.device) -> dict[str, Any]:
    """What can change the last bits of a result: recorded with every run."""
    import torch

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    kernels = sys.modules.get("ldebm.kernels")  # by an import they would be code of every stage
    if kernels is not None:
        facts["kernels"] = kernels.state()
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return facts
