"""Random draws for a batch of rows: from one stream, or for several runs from a stream of each.

Several runs that are trained together have their rows stacked, those of one run behind those of
another. Each run draws from its own stream what it would draw alone.

Shapes: N rows, M runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Stream", "Streams", "integers", "normal", "uniform"]


@dataclass(frozen=True)
class Streams:
    """The streams of M runs whose rows are stacked; each draws N / M rows."""

    parts: tuple[torch.Generator, ...]

    def shared(self, rows: int) -> int:
        """Rows of every run.

        Raises:
            ValueError: the rows are not those of M runs.
        """
        if rows % len(self.parts):
            raise ValueError(f"{rows} rows are not those of {len(self.parts)} runs")
        return rows // len(self.parts)


Stream = torch.Generator | Streams


def normal(
    shape: tuple[int, ...],
    stream: Stream | None,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal draws; ``None``: from the default stream.

    Args:
        shape: the first number is that of the rows.
        stream: of one run, or of several.
        device: of the result.
        dtype: of the result.
    """
    if isinstance(stream, Streams):
        own = (stream.shared(shape[0]), *shape[1:])
        return torch.cat([normal(own, part, device, dtype) for part in stream.parts])
    return torch.randn(shape, generator=stream, device=device, dtype=dtype)


def uniform(
    rows: int, stream: Stream | None, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Uniform draws from [0, 1), shape (N,); arguments as :func:`normal`."""
    if isinstance(stream, Streams):
        own = stream.shared(rows)
        return torch.cat([uniform(own, part, device, dtype) for part in stream.parts])
    return torch.rand(rows, generator=stream, device=device, dtype=dtype)


def integers(below: int, rows: int, stream: Stream, device: torch.device) -> Tensor:
    """Integers from 0 to ``below`` - 1, shape (N,); arguments as :func:`normal`."""
    if isinstance(stream, Streams):
        own = stream.shared(rows)
        return torch.cat([integers(below, own, part, device) for part in stream.parts])
    return torch.randint(0, below, (rows,), generator=stream, device=device)
