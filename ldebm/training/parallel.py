"""Data-parallel training under ``torchrun``: which process this is, and means over all of them.

Every process draws the noise of the whole batch and keeps its rows, so that the averaged gradient
is that of one process on the joined batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

__all__ = [
    "average",
    "average_gradients",
    "is_main",
    "parallel",
    "rank",
    "row_weight",
    "share",
    "world",
]


def rank() -> int:
    """Number of this process, 0 alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Number of processes, 1 alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the results."""
    return rank() == 0


def share(rows: int) -> slice:
    """This process's rows of a batch of ``rows``."""
    return slice(rank(), rows, world())


def row_weight(rows: int) -> float:
    """Factor that makes the mean over processes of local means the mean over all rows.

    Example:
        >>> row_weight(128)
        1.0
    """
    local = len(range(*share(rows).indices(rows)))
    return local * world() / rows


@contextmanager
def parallel() -> Iterator[None]:
    """Joins the process group that torchrun's environment describes; alone it does nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def average(value: Tensor) -> Tensor:
    """The mean of a detached tensor over the processes."""
    if not distributed.is_initialized():
        return value.detach()
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total.div_(world())


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the processes."""
    if not distributed.is_initialized():
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad.div_(world())
