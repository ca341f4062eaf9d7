"""The autoregressive flows of NVAE's posterior (Vahdat and Kautz 2020, section 3.4).

A cell moves every variable by a function of those before it, z' = z - m(z_before), so that its
Jacobian is triangular with ones on the diagonal: volumes stay. A pair reads the map once from the
first pixel and once from the last.

Shapes: B batch, Z channels of a group, H and W sides.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.nvae_cells import NormConv

__all__ = ["FlowPair", "autoregressive_mask"]

EXPANSION = 6
LAST_SCALE = 0.1  # the flow begins near the identity


def autoregressive_mask(
    inputs: int, outputs: int, kernel: int, *, groups: int, own: bool, mirror: bool
) -> Tensor:
    """Which weights look at pixels (and channels of the same pixel) that come before.

    Args:
        inputs: channels read; ``outputs`` is a multiple of it, or the other way round.
        outputs: channels written.
        kernel: odd side.
        groups: 1, or ``inputs`` for a depthwise convolution.
        own: a channel may see itself.
        mirror: pixels run from the last to the first.

    Returns:
        Zeros and ones of the weights' shape (outputs, inputs / groups, kernel, kernel).
    """
    middle = kernel // 2
    mask = torch.zeros(outputs, inputs // groups, kernel, kernel)
    mask[:, :, :middle] = 1
    mask[:, :, middle, :middle] = 1
    small = min(inputs, outputs)
    to = torch.arange(outputs) // (outputs // small)
    if groups == 1:
        source = torch.arange(inputs) // (inputs // small)
        seen = source[None] <= to[:, None] if own else source[None] < to[:, None]
        mask[:, :, middle, middle] = seen.float()
    else:
        mask[:, :, middle, middle] = float(own)
    return mask.flip(2, 3) if mirror else mask


class _MaskedConv(NormConv):
    """A weight-normalised convolution of what comes before."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        groups: int = 1,
        own: bool,
        mirror: bool,
        bias: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, groups=groups, bias=bias)
        mask = autoregressive_mask(inputs, outputs, kernel, groups=groups, own=own, mirror=mirror)
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def direction(self) -> Tensor:
        return self.weight * self.mask


class _FlowCell(nn.Module):
    """z' = z - m(z_before)."""

    def __init__(self, channels: int, *, mirror: bool) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.read = _MaskedConv(channels, hidden, 3, own=False, mirror=mirror)
        self.spread = _MaskedConv(hidden, hidden, 5, groups=hidden, own=True, mirror=mirror)
        self.move = _MaskedConv(hidden, channels, 1, own=True, mirror=mirror, bias=True)

    def forward(self, z: Tensor) -> Tensor:
        hidden = F.elu(self.spread(F.elu(self.read(z))))
        moved: Tensor = z - self.move(F.elu(hidden))
        return moved

    def reset_norm(self) -> None:
        """Begins near the identity."""
        with torch.no_grad():
            self.move.log_norm.add_(math.log(LAST_SCALE))


class FlowPair(nn.Module):
    """Two cells that read the map in opposite directions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.forwards = _FlowCell(channels, mirror=False)
        self.backwards = _FlowCell(channels, mirror=True)

    def forward(self, z: Tensor) -> Tensor:
        moved: Tensor = self.backwards(self.forwards(z))
        return moved

    def reset_norm(self) -> None:
        """Begins near the identity."""
        self.forwards.reset_norm()
        self.backwards.reset_norm()
