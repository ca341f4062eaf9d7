"""Do two sets of runs differ by more than their seeds do? Student's t, paired or Welch's.

A seed fixes the initial weights, the order of the data and all noise, so runs of one seed belong
together: where both sides have the same seeds, or three or more in common, the differences by seed
are judged (paired t). Otherwise the two means are (Welch, unequal variances), which is cautious
where single seeds are shared. With fewer than two seeds on a side nothing is judged: one run says
nothing about the spread over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "LEVEL",
    "PairedDifference",
    "difference",
    "half_width",
    "holm",
    "mean_error",
    "welch_error",
]

LEVEL = 0.95
ENOUGH = 3  # seeds in common to leave the others out and pair
_NO_SPREAD = 1e-12  # relative: below it values are equal but for rounding


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first.

    Attributes:
        first: mean of the first.
        second: mean of the second.
        value: difference of the means.
        half: half-width of its 95% interval, ``None`` where there is none.
        p: two-sided p-value of "no difference", likewise.
        freedom: degrees of freedom, likewise.
        method: ``paired``, ``welch``, ``equal`` (no value differs), ``constant`` (every seed
            differs by the same, so that there is no spread to judge it by) or ``one seed``.
        seeds: the seeds of the first and of the second that were used.
    """

    first: float
    second: float
    value: float
    half: float | None
    p: float | None
    freedom: float | None
    method: str
    seeds: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def differs(self) -> bool | None:
        """Whether the 95% interval excludes zero; ``None`` where the seeds cannot say."""
        if self.method == "equal":
            return False
        return None if self.half is None else abs(self.value) > self.half


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> PairedDifference:
    """Judges second minus first.

    Args:
        first: seed -> value of a metric.
        second: likewise; neither is empty.

    Example:
        >>> found = difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 4.0, 2: 6.0})
        >>> found.method, found.value, round(found.half, 3)
        ('paired', 2.0, 2.484)
    """
    common = sorted(first.keys() & second.keys())
    if len(common) >= ENOUGH or (len(common) > 1 and first.keys() == second.keys()):
        return _paired([first[seed] for seed in common], [second[seed] for seed in common], common)
    one, other = list(first.values()), list(second.values())
    seeds = tuple(sorted(first)), tuple(sorted(second))
    means = statistics.fmean(one), statistics.fmean(other)
    value = means[1] - means[0]
    if len(one) < 2 or len(other) < 2:
        method = "equal" if len(one) == len(other) and one == other else "one seed"
        return PairedDifference(*means, value, None, None, None, method, seeds)
    error, freedom = welch_error(one, other)
    if error <= _NO_SPREAD * max(map(abs, means)):
        return PairedDifference(*means, value, None, None, None, _still(value, means), seeds)
    return _judged(means, value, error, freedom, "welch", seeds)


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Standard error of a mean, and its degrees of freedom."""
    return statistics.stdev(values) / math.sqrt(len(values)), float(len(values) - 1)


def welch_error(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Standard error of the difference of two means with unequal variances, and its freedom."""
    parts = [statistics.variance(item) / len(item) for item in (first, second)]
    squares = [p**2 / (len(i) - 1) for p, i in zip(parts, (first, second), strict=True)]
    if not sum(squares):
        return math.sqrt(sum(parts)), math.inf
    return math.sqrt(sum(parts)), sum(parts) ** 2 / sum(squares)


def half_width(error: float, freedom: float) -> float:
    """Half of the 95% interval that a standard error makes (Student's t)."""
    from scipy.special import stdtrit  # comes with scikit-learn; slow to load

    return float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error if error else 0.0


def _paired(
    first: Sequence[float], second: Sequence[float], seeds: Sequence[int]
) -> PairedDifference:
    changes = [b - a for a, b in zip(first, second, strict=True)]
    means = statistics.fmean(first), statistics.fmean(second)
    value = statistics.fmean(changes)
    both = tuple(seeds), tuple(seeds)
    error, freedom = mean_error(changes)
    if error <= _NO_SPREAD * max(map(abs, means)):
        return PairedDifference(*means, value, None, None, None, _still(value, means), both)
    return _judged(means, value, error, freedom, "paired", both)


def _still(value: float, means: tuple[float, float]) -> str:
    """What it is where no seed differs from another."""
    return "equal" if abs(value) <= _NO_SPREAD * max(map(abs, means)) else "constant"


def _judged(
    means: tuple[float, float],
    value: float,
    error: float,
    freedom: float,
    method: str,
    seeds: tuple[tuple[int, ...], tuple[int, ...]],
) -> PairedDifference:
    from scipy.special import stdtr  # comes with scikit-learn; slow to load

    half = half_width(error, freedom)
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    return PairedDifference(*means, value, half, p, freedom, method, seeds)


def holm(p_values: Mapping[str, float]) -> set[str]:
    """The names whose difference holds when all are judged together (Holm 1979, level 5%).

    Example:
        >>> sorted(holm({"a": 0.001, "b": 0.02, "c": 0.04}))
        ['a', 'b', 'c']
        >>> sorted(holm({"a": 0.001, "b": 0.03, "c": 0.04}))
        ['a']
    """
    kept: set[str] = set()
    ranked = sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    for rank, (name, p) in enumerate(ranked):
        if p > (1 - LEVEL) / (len(ranked) - rank):
            break
        kept.add(name)
    return kept
