"""A convolution that, while its weights are held, is a function of its input alone.

Score matching differentiates a gradient that went through a frozen decoder. PyTorch's double
gradient of a convolution then also computes that of the weights, as one product over the whole
batch, and drops it. Values and gradients are PyTorch's own to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Convolution"]


class Convolution(nn.Conv2d):
    """``nn.Conv2d`` without dilation, groups or padding by anything but zeros."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.requires_grad or not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        dtype = input.dtype
        if torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
        bias = None if self.bias is None else self.bias.to(dtype)
        numbers = list(self.stride), list(self.padding)
        return _OfInput.apply(input.to(dtype), self.weight.to(dtype), bias, *numbers)  # type: ignore[no-any-return,no-untyped-call]


class _OfInput(torch.autograd.Function):
    """x to the convolution of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.numbers = stride, padding
        return torch.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        return _Back.apply(d_out, *ctx.saved_tensors, *ctx.numbers), None, None, None, None  # type: ignore[no-untyped-call]


class _Back(torch.autograd.Function):
    """The gradient in x; it is linear in the one that comes in."""

    @staticmethod
    def forward(
        ctx: Any, d_out: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.numbers = stride, padding
        fixed = [1, 1], False, [0, 0], 1, [True, False, False]
        d_x: Tensor = torch.ops.aten.convolution_backward(
            d_out, x, weight, None, stride, padding, *fixed
        )[0]
        return d_x

    @staticmethod
    def backward(ctx: Any, d_x: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return torch.conv2d(d_x, weight, None, *ctx.numbers), None, None, None, None
