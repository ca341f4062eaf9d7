"""Small charts as SVG, for the report and the docs: no script, no external file, byte-stable."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mark", "Series", "line_chart", "read_curve", "scatter_chart"]

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 24
POINTS = 300  # more are thinned: a pixel shows no more


@dataclass(frozen=True)
class Series:
    """One column of a curve against its first column."""

    name: str
    x_name: str
    points: tuple[tuple[float, float], ...]


def read_curve(path: str | Path) -> list[Series]:
    """The numeric columns of a CSV file against the first; cells without a number are skipped."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
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


def line_chart(series: Series) -> str:
    """The chart of a series, with the range of both axes written on it.

    Example:
        >>> line_chart(Series("loss", "update", ((0.0, 2.0), (1.0, 1.0)))).startswith("<svg")
        True
    """
    points = _thin(series.points)
    x_low, x_high = _span([x for x, _ in points])
    y_low, y_high = _span([y for _, y in points])
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    place = " ".join(
        f"{LEFT + across * (x - x_low) / (x_high - x_low):.1f},"
        f"{TOP + down * (1 - (y - y_low) / (y_high - y_low)):.1f}"
        for x, y in points
    )
    title = f"{series.name}: from {points[0][1]:.4g} to {points[-1][1]:.4g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_escape(title)}">'
        f'<path class="axis" d="M{LEFT},{TOP}V{TOP + down}H{LEFT + across}"/>'
        f'<polyline class="line" points="{place}"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" class="end">{y_high:.4g}</text>'
        f'<text x="{LEFT - 4}" y="{TOP + down}" class="end">{y_low:.4g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{x_low:.4g}</text>'
        f'<text x="{LEFT + across}" y="{HEIGHT - 8}" class="end">'
        f"{_escape(series.x_name)} {x_high:.4g}</text></svg>"
    )


def _thin(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= POINTS:
        return points
    every = len(points) / POINTS
    return [*(points[int(number * every)] for number in range(POINTS)), points[-1]]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _escape(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


@dataclass(frozen=True)
class Mark:
    """A labelled point of a scatter chart; marks of one group are joined by a line."""

    group: str
    label: str
    x: float
    y: float


def scatter_chart(marks: Sequence[Mark], x_name: str, y_name: str) -> str:
    """A chart of labelled points as a complete SVG file, one shade for every group.

    Example:
        >>> scatter_chart([Mark("a", "one", 1.0, 2.0)], "x", "y").count("<circle")
        1
    """
    shades = ("#0b62c4", "#b3541b", "#3b7d3a", "#7a4fa3")
    groups = list(dict.fromkeys(mark.group for mark in marks))
    x_low, x_high = _span([mark.x for mark in marks])
    y_low, y_high = _span([mark.y for mark in marks])
    x_pad, y_pad = 0.08 * (x_high - x_low), 0.1 * (y_high - y_low)
    left, top, across, down = 60, 30, 560, 300

    def place(mark: Mark) -> tuple[float, float]:
        x = left + across * (mark.x - x_low + x_pad) / (x_high - x_low + 2 * x_pad)
        y = top + down * (1 - (mark.y - y_low + y_pad) / (y_high - y_low + 2 * y_pad))
        return round(x, 1), round(y, 1)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 380" font-family="sans-serif" '
        'font-size="12"><rect width="700" height="380" fill="#fff"/>'
        f'<path d="M{left},{top}V{top + down}H{left + across}" fill="none" stroke="#888"/>'
        f'<text x="{left + across / 2}" y="370" text-anchor="middle">{_escape(x_name)}</text>'
        f'<text x="8" y="18">{_escape(y_name)}</text>'
    ]
    for index, group in enumerate(groups):
        mine = sorted((mark for mark in marks if mark.group == group), key=lambda mark: mark.x)
        shade = shades[index % len(shades)]
        line = " ".join(f"{x},{y}" for x, y in map(place, mine))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{shade}" opacity=".4"/>')
        parts.append(
            f'<text x="{left + 12}" y="{top + 14 + 16 * index}" fill="{shade}">'
            f"{_escape(group)}</text>"
        )
        for mark in mine:
            x, y = place(mark)
            text = _escape(f"{mark.label} ({mark.x:.4g}, {mark.y:.3g})")
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{shade}"/>')
            parts.append(f'<text x="{x + 6}" y="{y - 6}" fill="{shade}">{text}</text>')
    return "".join(parts) + "</svg>\n"
