"""Optimisers: parameter groups, learning rates over a run, and Adam without a compiler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldebm import kernels
from ldebm.config import OptimiserConfig
from ldebm.kernels import functions

__all__ = [
    "ParameterGroup",
    "apply_gradients",
    "learning_rate_factor",
    "make_optimiser",
    "untraced",
]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share an optimiser configuration and are clipped together."""

    name: str
    parameters: list[nn.Parameter]
    config: OptimiserConfig


def learning_rate_factor(
    config: OptimiserConfig, step: int, total: int, per_epoch: int = 1
) -> float:
    """The learning rate of update ``step`` of ``total`` over the largest.

    Args:
        config: whose schedule it is.
        step: updates done.
        total: updates of the whole training.
        per_epoch: updates of an epoch; ``exponential`` falls after each, not in between.

    Example:
        >>> learning_rate_factor(OptimiserConfig(schedule="linear", final=0.0), 75, 100)
        0.5
        >>> learning_rate_factor(OptimiserConfig(schedule="exponential", decay=0.9), 25, 100, 10)
        0.81
    """
    if config.schedule == "one_cycle":
        rise = max(1, int(0.3 * total))
        if step < rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / rise))
        share = (step - rise) / max(1, total - rise)
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * share))
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "linear":
        start = config.hold * total
        share = max(0.0, (step - start) / max(1.0, total - start))
        return warm * (1 - (1 - config.final) * share)
    if config.schedule == "cosine":
        share = step / max(1, total)
        return warm * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * share)))
    if config.schedule == "exponential":
        return warm * config.decay ** (step // per_epoch)
    return warm


def apply_gradients(
    group: ParameterGroup, optimiser: torch.optim.Optimizer, *, compiled: bool = False
) -> None:
    """Clips the gradients of a group together, and makes the optimiser's step.

    Args:
        group: whose parameters have gradients.
        optimiser: of these parameters.
        compiled: by a kernel, where there is one for them: the result is the same up to rounding.
    """
    if compiled and isinstance(optimiser, torch.optim.Adam):
        fits = all(_whole(p) and kernels.usable(p, 1) for p in group.parameters)
        if fits and functions.clip_adam(optimiser, group.config.clip):
            return
    if group.config.clip is not None:
        nn.utils.clip_grad_norm_(group.parameters, group.config.clip)
    optimiser.step()


def _whole(x: Tensor) -> bool:
    """Whether x has no gaps, in the usual order or with channels last."""
    maps = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x.is_contiguous() or maps


def make_optimiser(group: ParameterGroup) -> torch.optim.Optimizer:
    """The optimiser of a group's configuration."""
    config = group.config
    shared: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.name == "adamax":
        return untraced(torch.optim.Adamax)(group.parameters, **shared)
    return untraced(torch.optim.Adam)(group.parameters, **shared, fused=True)


def untraced(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser without what is there for ``torch.compile``, which nothing here uses.

    Those wrappers import a compiler when they are first called, which takes over a second.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)
