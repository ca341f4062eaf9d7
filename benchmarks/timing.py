"""How the benchmarks time work: by turns in one process, as ratios, beside its products alone.

A ratio is the median over turns of one work's seconds over another's in the same turn, so that what
else the machine does falls on both. On one thread the seconds are those of the processor, on more
those of the clock.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ldebm import kernels
from ldebm.seeding import generator

__all__ = ["PUBLIC", "Record", "Turns", "alternating", "compare", "count_flops", "rates"]

# Medians of the public code on two threads of another machine, in seconds of the same work. A
# ratio to them means little: they stand beside the ratios of one run. Of its 1.79 s for 500 samples
# of a sentence 0.105 s are the prior's bound, which is left out.
PUBLIC = {
    "joint_update": 2.36,
    "prior_samples": 5.19,
    "generation": 1.32,
    "nll500": 1.79 - 0.105,
    "cluster_features": 78.0,
}
IN_PLACE = {torch.ops.aten.addmm_: torch.ops.aten.addmm}  # which PyTorch's table leaves out
Record = dict[str, Any]
Work = Callable[[], Any]


@dataclass(frozen=True)
class Turns:
    """Seconds of a work, a turn each.

    Attributes:
        wall: of the clock.
        cpu: of all threads of this process.
        scale: how many of it are the work that is named: 10 where a tenth was timed.
    """

    wall: list[float]
    cpu: list[float]
    scale: float = 1.0

    def seconds(self, threads: int) -> list[float]:
        """Those that count: of the processor on one thread, of the clock on more."""
        return [self.scale * value for value in (self.cpu if threads == 1 else self.wall)]

    def summary(self) -> dict[str, float]:
        """Median, least and spread (between the quartiles) on the clock; median CPU seconds."""
        low, median, high = statistics.quantiles([self.scale * value for value in self.wall], n=4)
        least = self.scale * min(self.wall)
        cpu = self.scale * statistics.median(self.cpu)
        return {"median": median, "least": least, "quartiles": high - low, "cpu": cpu}


def alternating(
    works: Mapping[str, Work], repeats: int, scale: Mapping[str, float] | None = None
) -> dict[str, Turns]:
    """Works that take turns; the first turn is not counted.

    Args:
        works: by name.
        repeats: turns that count, at least 2.
        scale: of :class:`Turns`, where it is not 1.
    """
    turns = {name: Turns([], [], (scale or {}).get(name, 1.0)) for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                turns[name].wall.append(time.perf_counter() - wall)
                turns[name].cpu.append(time.process_time() - cpu)
    return turns


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of products by the type that they read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        count = flop_registry.get(IN_PLACE.get(packet, packet))
        if count is not None:
            kind = next(x.dtype for x in args if isinstance(x, torch.Tensor))
            flops = count(*args, **(kwargs or {}), out_val=out)
            self.flops[str(kind).removeprefix("torch.")] += flops
        return out


def count_flops(work: Work) -> dict[str, int]:
    """Floating-point operations of a work's products, by type; the works' kernels are not used.

    Example:
        >>> a = torch.ones(2, 3)
        >>> count_flops(lambda: a @ a.t())
        {'float32': 24}
        >>> count_flops(lambda: torch.zeros(2, 2).addmm_(a, a.t()))
        {'float32': 24}
    """
    with kernels.plain(), _Products() as products:
        work()
    return dict(products.flops)


def rates(threads: int, size: int = 2048, repeats: int = 15) -> dict[str, float]:
    """FLOP per second of square products at their best, by type, and seconds as in :class:`Turns`.

    Args:
        threads: that are set.
        size: rows and columns.
        repeats: of which the fastest counts.
    """
    a = torch.randn(size, size, generator=generator(0, "bench-matmul"))
    works: dict[str, Work] = {}
    for kind in (torch.float32, torch.bfloat16):
        x = a.to(kind)
        works[str(kind).removeprefix("torch.")] = partial(torch.mm, x, x)
    turns = alternating(works, repeats)
    return {name: 2 * size**3 / min(mine.seconds(threads)) for name, mine in turns.items()}


def compare(
    name: str, turns: Mapping[str, Turns], flops: Mapping[str, Mapping[str, int]], **more: Any
) -> list[Record]:
    """A line for each work but ``eager``: how many times faster than that, and than its products.

    Args:
        name: of the row; a work's own name is put behind it, but for ``own``.
        turns: of ``eager`` and of the others.
        flops: of each of the others, by type; of the work that was timed.
        more: what the lines say besides.
    """
    threads = torch.get_num_threads()
    rate, lines = rates(threads), []
    eager = turns["eager"].seconds(threads)
    for work, mine in turns.items():
        if work == "eager":
            continue
        seconds = mine.seconds(threads)
        ratios = [theirs / own for theirs, own in zip(eager, seconds, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        products = sum(mine.scale * flops[work][kind] / rate[kind] for kind in flops[work])
        lines.append(
            {
                "name": name if work == "own" else f"{name}_{work}",
                "row": name,
                "threads": threads,
                "clock": "cpu" if threads == 1 else "wall",
                "value": statistics.median(seconds),
                "unit": "s",
                "eager": statistics.median(eager),
                "ratio": ratio,
                "ratio_quartiles": [low, high],
                "roofline": statistics.median(seconds) / products,
                "gflop": {kind: mine.scale * n / 1e9 for kind, n in flops[work].items()},
                "rate_gflops": {kind: value / 1e9 for kind, value in rate.items()},
                "public_elsewhere": PUBLIC.get(name),
                "seconds": mine.summary(),
                **more,
            }
        )
    return lines
