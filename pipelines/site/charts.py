"""Charts of the report: each a Vega-Lite specification, and an SVG for who runs no scripts.

The same inputs give the same bytes, whatever fonts a machine has.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

import vl_convert

from pipelines.curves import Series, thin
from pipelines.site import specs

__all__ = [
    "Chart",
    "Spot",
    "bar_chart",
    "colour",
    "histogram",
    "library",
    "line_chart",
    "path_map",
    "point_map",
    "reach",
]

COLOURS, LINES = 24, 8  # classes and lines that have a colour of their own
LETTERS = 18  # of a word beside a bar
FEW = 12  # a line through so few points shows them
Spot = tuple[float, float, str, str]  # x, y, class, true label
Range = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart as it is drawn, and its Vega-Lite specification."""

    svg: str
    spec: dict[str, Any]


def library() -> str:
    """Vega, Vega-Lite and vega-embed in one script without requests."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def colour(name: str) -> str:
    """The CSS class of a class's colour; classes without a number share the first."""
    return f"k{int(name) % COLOURS}" if name.isdecimal() else "k0"


def line_chart(
    series: Sequence[Series],
    title: str,
    y_name: str,
    *,
    breaks: Sequence[float] = (),
    marks: Mapping[float, str] | None = None,
    zero: bool = False,
) -> Chart:
    """Series against a common axis.

    Args:
        series: at least one; the name of the horizontal axis is the first's.
        title: what the chart shows, in words.
        y_name: what the vertical axis has, with its unit.
        breaks: where the lines are interrupted.
        marks: what happens at places of the horizontal axis.
        zero: the vertical axis begins at zero.

    Example:
        >>> line_chart([Series("loss", "update", ((0.0, 2.0), (1.0, 1.0)))], "loss", "nats").svg[:4]
        '<svg'
    """
    borders = [-math.inf, *sorted(breaks), math.inf]
    parts = [
        _columns(("x", "y"), part, series=item.name, part=number)
        | {"few": len(part) == 1 or len(item.points) <= FEW}
        for item in series
        for number, (low, high) in enumerate(itertools.pairwise(borders))
        if (part := [point for point in thin(item.points) if low <= point[0] < high])
    ]
    marks = marks or {}
    ends = [part["x"][at] for part in parts for at in (0, -1)]
    left = all(at < (min(ends) + max(ends)) / 2 for at in marks)
    few = any(part["few"] for part in parts)
    spec = specs.filled(
        specs.lines(zero=zero, few=few, marks=bool(marks)),
        x=series[0].x_name,
        y=y_name,
        **_lines([item.name for item in series]),
        points=parts,
        marks=[{"at": at, "what": what} for at, what in marks.items()],
        align="'left'" if left else "'right'",
        dx="4" if left else "-4",
        log="log" if min(min(part["y"]) for part in parts) > 0 else "symlog",
    )
    said = "; ".join(
        f"{item.name} from {item.points[0][1]:.4g} to {item.points[-1][1]:.4g}" for item in series
    )
    return _chart(spec, f"{title}, {y_name}: {said}, against {series[0].x_name}")


def bar_chart(counts: Mapping[str, Mapping[str, float]], label: str, x_name: str) -> Chart:
    """Bars by word, one of every series beside each other.

    Args:
        counts: series -> word -> value; the words of the first come first.
        label: what the chart shows, in words.
        x_name: what the values are.
    """
    words = list(dict.fromkeys(word for mine in counts.values() for word in mine))
    short = {word: word if len(word) <= LETTERS else word[: LETTERS - 1] + "…" for word in words}
    points = [
        {"series": name, "x": [float(mine.get(w, 0)) for w in words], "y": list(short.values())}
        for name, mine in counts.items()
    ]
    spec = specs.filled(specs.bars(), x=x_name, points=points, log=None, **_lines(list(counts)))
    spec["height"] = max(60, 9 * len(words) * len(counts))
    return _chart(spec, label)


def histogram(rows: Sequence[Mapping[str, float]], label: str, x_name: str) -> Chart:
    """Data (filled) against samples (a line) in common bins, as shares.

    Args:
        rows: low and high (edges), data and samples (counts) of every bin.
        label: what the chart shows, in words.
        x_name: what the bins are of.
    """
    totals = {kind: max(1.0, sum(row[kind] for row in rows)) for kind in specs.KINDS}
    steps = [(row["low"], *(row[kind] / total for kind, total in totals.items())) for row in rows]
    steps.append((rows[-1]["high"], *steps[-1][1:]))
    points = [_columns(("x", *specs.KINDS), steps)]
    spec = specs.filled(specs.histogram(), x=x_name, points=points, log=None)
    return _chart(spec, f"{label}, from {rows[0]['low']:.4g} to {rows[-1]['high']:.4g}")


def reach(spots: Sequence[Spot]) -> Range:
    """Axes on which all spots lie, with a margin."""
    sides = []
    for axis in (0, 1):
        values = [float(spot[axis]) for spot in spots]
        pad = 0.04 * (max(values) - min(values)) or 0.5
        sides.append((min(values) - pad, max(values) + pad))
    return sides[0], sides[1]


def point_map(spots: Sequence[Spot], axes: Range, label: str, names: Sequence[str]) -> Chart:
    """Points coloured by class, the number of each class at its middle.

    Args:
        spots: what to draw.
        axes: range of x and of y, common to maps that are to be compared.
        label: what the map shows, in words.
        names: of the axes.
    """
    groups: dict[str, list[Spot]] = {}
    for spot in spots:
        groups.setdefault(spot[2], []).append(spot)
    ordered = sorted(groups.items(), key=lambda item: (len(item[0]), item[0]))
    tags = [
        {"x": median(s[0] for s in mine), "y": median(s[1] for s in mine), "class": name}
        for name, mine in ordered
        if name and len(mine) > 3
    ]
    spec = specs.filled(
        specs.points(),
        points=[_columns(("x", "y", "class", "label"), mine) for _, mine in ordered],
        tags=tags,
        names=[name for name, _ in ordered],
        colours=[f"var(--{colour(name)})" for name, _ in ordered],
        **_axes(axes, names),
    )
    return _chart(spec, label)


def path_map(
    chains: Sequence[Sequence[Spot]], behind: Sequence[Spot], label: str, names: Sequence[str]
) -> Chart:
    """Chains in the plane: a line each from its open start to its filled end.

    Args:
        chains: their ways, of at least two points.
        behind: points that are drawn faintly below.
        label: what the map shows, in words.
        names: of the axes.
    """
    ways = {f"chain {number}": chain for number, chain in enumerate(chains, 1)}
    spec = specs.filled(
        specs.paths(),
        points=[_columns(("x", "y"), [spot[:2] for spot in behind])],
        paths=[
            _columns(("x", "y"), [spot[:2] for spot in way], series=name)
            | {"end": ["start", *[""] * (len(way) - 2), "end"]}
            for name, way in ways.items()
        ],
        **_lines(list(ways)),
        **_axes(reach([*behind, *itertools.chain.from_iterable(chains)]), names),
    )
    return _chart(spec, label)


def _lines(names: Sequence[str]) -> dict[str, Any]:
    return {"names": names, "colours": [f"var(--s{i % LINES})" for i in range(len(names))]}


def _axes(axes: Range, names: Sequence[str]) -> dict[str, Any]:
    return {"x": names[0], "y": names[1], "across": axes[0], "up": axes[1], "log": None}


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]], **common: Any) -> dict[str, Any]:
    """Rows as one row of columns, numbers with six digits."""
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    short = [[float(f"{v:.6g}") if isinstance(v, float) else v for v in item] for item in columns]
    return common | dict(zip(names, short, strict=True))


def _chart(spec: dict[str, Any], label: str) -> Chart:
    """The specification with its drawing, which ``label`` describes in words."""
    layers = [layer for layer in spec["layer"] if layer["name"] != "near"]
    params = [item for item in spec.get("params", []) if "select" not in item]
    svg = str(vl_convert.vegalite_to_svg({**spec, "layer": layers, "params": params}))
    # Everything lies inside: ids of clip paths would be counted through the whole process.
    svg = re.sub(r'<defs>.*</defs>| clip-path="[^"]*"', "", svg)
    svg = re.sub(r' (?:d|transform)="[^"]*"', _rounded, svg)
    start = f'<svg role="img" aria-label="{escape(label)}" viewBox='
    return Chart(start + svg[svg.index("viewBox=") + 8 :], spec)


def _rounded(attribute: re.Match[str]) -> str:
    """The same place to a tenth of a pixel: a third of the bytes."""
    return re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", attribute[0])
