"""Curves of training: the columns of a CSV file against its first."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Series", "parse_curve", "read_curve", "thin"]

POINTS = 300  # more are thinned: a pixel shows no more


@dataclass(frozen=True)
class Series:
    """One column of a curve against its first column."""

    name: str
    x_name: str
    points: tuple[tuple[float, float], ...]


def read_curve(path: str | Path) -> list[Series]:
    """The numeric columns of a CSV file against the first; cells without a number are skipped."""
    return parse_curve(Path(path).read_text(encoding="utf-8"))


def parse_curve(text: str) -> list[Series]:
    """The same of the file's text."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows:
        return []
    names = list(rows[0])
    series = []
    for name in names[1:]:
        pairs = [(_number(row[names[0]]), _number(row[name])) for row in rows]
        kept = tuple((x, y) for x, y in pairs if x is not None and y is not None)
        if kept and name != "epoch":
            series.append(Series(name, names[0], kept))
    return series


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def thin(
    points: Sequence[tuple[float, float]], most: int = POINTS
) -> Sequence[tuple[float, float]]:
    """At most ``most`` of the points (and the last), evenly spread."""
    if len(points) <= most:
        return points
    every = len(points) / most
    return [*(points[int(number * every)] for number in range(most)), points[-1]]
