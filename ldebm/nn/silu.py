"""SiLU, x sigmoid(x), by a kernel where activations are rounded to bfloat16.

PyTorch computes a gradient of its gradient as some ten operations; the kernel takes one pass. Both
sum and round the same up to the last place of bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm import kernels

__all__ = ["silu"]


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), of any shape, twice differentiable; float32 is PyTorch's own to the bit."""
    if x.dtype == torch.bfloat16 and kernels.usable(x, 1, torch.bfloat16):
        return torch.ops.ldebm.silu(x)  # type: ignore[no-any-return]
    return F.silu(x)
