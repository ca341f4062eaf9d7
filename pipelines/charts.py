"""Small charts of the report as SVG: no script, no external file, byte-stable."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = [
    "Frame",
    "Series",
    "line_chart",
    "parse_curve",
    "read_curve",
    "short",
    "span",
    "thin",
    "ticks",
]

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 34
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


def line_chart(
    series: Series, *others: Series, breaks: Sequence[float] = (), low: float | None = None
) -> str:
    """The chart of one or more series against a common axis, with ticks on both axes.

    Args:
        series: what the chart is of; the names of the axes are its.
        others: drawn over it.
        breaks: where the lines are interrupted.
        low: where the vertical axis starts; by default at the smallest value.

    Example:
        >>> line_chart(Series("loss", "update", ((0.0, 2.0), (1.0, 1.0)))).startswith("<svg")
        True
    """
    everything = [thin(item.points) for item in (series, *others)]
    x_low, x_high = span([x for points in everything for x, _ in points])
    y_low, y_high = span([y for points in everything for _, y in points])
    y_low = y_low if low is None else min(low, y_low)
    frame = Frame((x_low, x_high), (y_low, y_high))
    lines = []
    for index, points in enumerate(everything):
        for part in _split(points, breaks):
            place = " ".join("{:.1f},{:.1f}".format(*frame.place(x, y)) for x, y in part)
            if len(part) == 1:
                x, y = frame.place(*part[0])
                lines.append(f'<circle class="dot s{index}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
            lines.append(f'<polyline class="line s{index}" points="{place}"/>')
    said = "; ".join(
        f"{item.name} from {item.points[0][1]:.4g} to {item.points[-1][1]:.4g}"
        for item in (series, *others)
    )
    return frame.svg("".join(lines), f"{said}, against {series.x_name}", series.x_name)


def _split(
    points: Sequence[tuple[float, float]], breaks: Sequence[float]
) -> list[Sequence[tuple[float, float]]]:
    parts: list[Sequence[tuple[float, float]]] = []
    rest = points
    for border in sorted(breaks):
        parts.append([point for point in rest if point[0] < border])
        rest = [point for point in rest if point[0] >= border]
    return [part for part in (*parts, rest) if part]


@dataclass(frozen=True)
class Frame:
    """The axes of a chart: where a value lies, and everything around the data.

    Attributes:
        x: range of the horizontal axis.
        y: range of the vertical axis.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the drawing."""
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return (
            LEFT + across * (x - self.x[0]) / (self.x[1] - self.x[0]),
            TOP + down * (1 - (y - self.y[0]) / (self.y[1] - self.y[0])),
        )

    def svg(self, drawing: str, label: str, x_name: str) -> str:
        """The chart around ``drawing``; ``label`` says in words what it shows."""
        marks = []
        for value in ticks(*self.y):
            _, y = self.place(self.x[0], value)
            marks.append(
                f'<path class="grid" d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text class="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{short(value)}</text>'
            )
        for value in ticks(*self.x):
            x, _ = self.place(value, self.y[0])
            anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
            marks.append(
                f'<text class="{anchor}" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}">'
                f"{short(value)}</text>"
            )
        base = HEIGHT - BOTTOM
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}">'
            f"{''.join(marks)}"
            f'<path class="axis" d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}"/>{drawing}'
            f'<text class="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{escape(x_name)}</text></svg>'
        )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers between two ends.

    Example:
        >>> ticks(0.0, 10.0)
        [0.0, 2.5, 5.0, 7.5, 10.0]
        >>> ticks(12.1, 12.9)
        [12.2, 12.4, 12.6, 12.8]
    """
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def short(value: float) -> str:
    """A tick as it is written: 20000 as 20k, 0.00012 as 1.2e-4."""
    if abs(value) >= 10000:
        return f"{value / 1000:.6g}k"
    if value and abs(value) < 0.001:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"


def thin(
    points: Sequence[tuple[float, float]], most: int = POINTS
) -> Sequence[tuple[float, float]]:
    """At most ``most`` of the points (and the last), evenly spread."""
    if len(points) <= most:
        return points
    every = len(points) / most
    return [*(points[int(number * every)] for number in range(most)), points[-1]]


def span(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest, or a range around them where they are the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
