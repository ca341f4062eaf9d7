"""How the benchmarks time work, and what a line of their result holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["REFERENCE", "Record", "record", "timed"]

# Medians of the public code on two threads. Of its 1.79 s for 500 samples of a sentence, 0.105 s
# are the prior's bound; the rest is the decoder part, with the encoding that it repeats 500 times.
REFERENCE = {
    "ptb_iteration": 2.36,
    "ptb_cluster_features": 78.0,
    "prior_samples": 5.16,
    "generation": 76.0,
    "nll500": 1.79 - 0.105,
    "points_iteration": 1.95,
}
Record = dict[str, Any]


def timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and least wall seconds and mean CPU seconds, after one run that is not counted."""
    work()
    walls, before = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - before) / repeats
    return {"median": statistics.median(walls), "least": min(walls), "cpu": cpu}


def record(name: str, value: float, unit: str, base: str | None = None, **more: Any) -> Record:
    """One line of the result; ``base`` names the reference it is compared with."""
    reference = REFERENCE.get(base or name)
    ratio = None
    if reference is not None:
        ratio = value / reference if unit.endswith("/s") else reference / value
    line = {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
    return line | more
