"""The layers of NVAE (Vahdat and Kautz 2020, sections 3.1 and 3.2, figure 3).

Convolutions have their weights normalised, with the logarithm of the norm as a parameter. A cell
adds a tenth of its branch to its input: two convolutions with batch norm and swish in the encoder,
an inverted residual with a depthwise convolution in the decoder, then squeeze and excitation.

Shapes: B batch, C channels, H and W sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["BatchNorm", "Cell", "NormConv", "run_cell"]

BRANCH_SCALE = 0.1
NORM_OFFSET = 1e-5
MOMENTUM = 0.05
EPSILON = 1e-5

Direction = Literal["same", "down", "up"]
_RECOMPUTING: ContextVar[bool] = ContextVar("recomputing", default=False)


class NormConv(nn.Conv2d):
    """A convolution with weights w = exp(log_norm) v / |v| per output channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        padding = kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
        self.log_norm = nn.Parameter(torch.zeros(outputs, 1, 1, 1))

    def direction(self) -> Tensor:
        """The weights before they are normalised."""
        return self.weight

    def normalised(self) -> Tensor:
        """w."""
        v = self.direction()
        norm = torch.linalg.vector_norm(v.flatten(1), dim=1).view(-1, 1, 1, 1)
        weight: Tensor = self.log_norm.exp() * v / (norm + NORM_OFFSET)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x, self.normalised(), self.bias, self.stride, self.padding, groups=self.groups
        )

    def reset_norm(self) -> None:
        """Sets the norm to that of the initial weights."""
        with torch.no_grad():
            norm = torch.linalg.vector_norm(self.direction().flatten(1), dim=1)
            self.log_norm.copy_((norm + 1e-2).log().view(-1, 1, 1, 1))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with NVAE's momentum, over all processes, counting every batch once.

    A cell that is computed again in the backward pass must not move the running statistics again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            return self._over_processes(x)
        if not _RECOMPUTING.get():
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, mean, variance, self.weight, self.bias, True, MOMENTUM, self.eps)

    def _over_processes(self, x: Tensor) -> Tensor:
        """Statistics of the joined batch, with their gradient."""
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device, dtype=x.dtype)
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])
        from torch.distributed.nn.functional import all_reduce

        total: Tensor = all_reduce(sums)  # type: ignore[no-untyped-call]
        n = total[-1].detach()
        mean, square = (total[:-1] / n).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        if not _RECOMPUTING.get():
            with torch.no_grad():
                assert self.running_mean is not None
                assert self.running_var is not None
                assert self.num_batches_tracked is not None
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(variance * n / (n - 1), MOMENTUM)
                self.num_batches_tracked += 1
        shape = (1, -1, 1, 1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


class SqueezeExcitation(nn.Module):
    """Scales every channel by what the means of all channels say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class _SwishConvs(nn.Module):
    """Twice: batch norm, swish, 3x3 convolution; the first one changes size and channels."""

    def __init__(self, inputs: int, outputs: int, direction: Direction) -> None:
        super().__init__()
        self.upsample = direction == "up"
        self.norms = nn.ModuleList([BatchNorm(inputs), BatchNorm(outputs)])
        stride = 2 if direction == "down" else 1
        self.convs = nn.ModuleList(
            [NormConv(inputs, outputs, 3, stride), NormConv(outputs, outputs, 3)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for k, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            x = F.silu(norm(x))
            if k == 0 and self.upsample:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = conv(x)
        return x


class _InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 5x5, 1x1 back; batch norm around each."""

    def __init__(self, inputs: int, outputs: int, direction: Direction, expansion: int) -> None:
        super().__init__()
        self.upsample = direction == "up"
        hidden = inputs * expansion
        stride = 2 if direction == "down" else 1
        self.before = BatchNorm(inputs)
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.expanded = BatchNorm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 5, stride, 2, groups=hidden, bias=False)
        self.filtered = BatchNorm(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.after = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.silu(self.expanded(self.expand(self.before(x))))
        x = F.silu(self.filtered(self.depthwise(x)))
        projected: Tensor = self.after(self.project(x))
        return projected


class _ShrinkingSkip(nn.Module):
    """Half the size: swish, then four 1x1 convolutions of stride 2, each from another corner.

    The places are taken out beforehand: the gradient of a 1x1 convolution with a stride writes
    beyond its memory on CPU (oneDNN as torch 2.13 has it; 6 or 12 channels of 64x64 maps).
    """

    corners = ((0, 0), (1, 1), (0, 1), (1, 0))

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        quarter = outputs // 4
        sizes = [quarter, quarter, quarter, outputs - 3 * quarter]
        self.convs = nn.ModuleList(NormConv(inputs, size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(x)
        parts = [
            conv(x[:, :, top::2, left::2])
            for (top, left), conv in zip(self.corners, self.convs, strict=True)
        ]
        return torch.cat(parts, dim=1)


class _GrowingSkip(nn.Module):
    """Twice the size, bilinear, then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = NormConv(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        convolved: Tensor = self.conv(large)
        return convolved


class Cell(nn.Module):
    """A residual cell.

    Args:
        channels: of its input; doubled on the way down, halved on the way up.
        direction: whether it keeps, halves or doubles the size of the maps.
        expansion: of an inverted residual (the decoder's 6, the last blocks' 3); ``None``: two
            convolutions (the encoder's).
        squeeze: with squeeze and excitation.
    """

    def __init__(
        self, channels: int, direction: Direction, expansion: int | None, *, squeeze: bool
    ) -> None:
        super().__init__()
        outputs = {"same": channels, "down": 2 * channels, "up": channels // 2}[direction]
        self.skip: nn.Module = nn.Identity()
        if direction == "down":
            self.skip = _ShrinkingSkip(channels, outputs)
        if direction == "up":
            self.skip = _GrowingSkip(channels, outputs)
        self.branch: nn.Module
        if expansion is None:
            self.branch = _SwishConvs(channels, outputs, direction)
        else:
            self.branch = _InvertedResidual(channels, outputs, direction, expansion)
        self.squeeze = SqueezeExcitation(outputs) if squeeze else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.skip(x) + BRANCH_SCALE * self.squeeze(self.branch(x))
        return added


def run_cell(cell: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """``cell(x)``, keeping only x for the backward pass where ``recompute`` asks for it."""
    if not (recompute and torch.is_grad_enabled()):
        computed: Tensor = cell(x)
        return computed
    recomputed: Tensor = checkpoint(
        cell, x, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts
    )
    return recomputed


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _recomputation()


@contextmanager
def _recomputation() -> Iterator[None]:
    token = _RECOMPUTING.set(True)
    try:
        yield
    finally:
        _RECOMPUTING.reset(token)
