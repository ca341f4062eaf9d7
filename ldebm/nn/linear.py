"""Initial weights of plain linear layers."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["draw_linear"]


@torch.no_grad()
def draw_linear(module: nn.Module, generator: torch.Generator | None) -> None:
    """Weight and bias of U(-1/sqrt(I), 1/sqrt(I)) with I inputs, as torch does by default.

    Args:
        module: nothing is done to one that is no linear layer.
        generator: source of the draws.
    """
    if not isinstance(module, nn.Linear):
        return
    bound = 1 / math.sqrt(module.in_features)
    for parameter in module.parameters():
        parameter.uniform_(-bound, bound, generator=generator)
