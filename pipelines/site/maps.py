"""Maps of points coloured by class, histograms and followed chains, as SVG that follows the theme.

Colours are CSS classes k0 ... k23 (site.css), so that a map is right on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

from pipelines.charts import Frame, short, span

__all__ = ["COLOURS", "Spot", "histogram", "path_map", "point_map", "reach"]

COLOURS = 24
SIZE, EDGE = 300, 6
Spot = tuple[float, float, str]  # x, y, class
Range = tuple[tuple[float, float], tuple[float, float]]


def reach(spots: Sequence[Spot]) -> Range:
    """Axes on which all spots lie, with a margin."""
    sides = []
    for axis in (0, 1):
        low, high = span([float(spot[axis]) for spot in spots])
        pad = 0.04 * (high - low)
        sides.append((low - pad, high + pad))
    return sides[0], sides[1]


def colour(name: str) -> str:
    """The CSS class of a class's colour; classes without a number share the first."""
    return f"k{int(name) % COLOURS}" if name.isdecimal() else "k0"


def _place(x: float, y: float, axes: Range) -> tuple[float, float]:
    inner = SIZE - 2 * EDGE
    (left, right), (low, high) = axes
    return EDGE + inner * (x - left) / (right - left), EDGE + inner * (1 - (y - low) / (high - low))


def point_map(spots: Sequence[Spot], axes: Range, label: str) -> str:
    """Points coloured by class, the number of each class at its middle.

    Args:
        spots: what to draw.
        axes: range of x and of y, common to maps that are to be compared.
        label: what the map shows, in words.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for x, y, name in spots:
        groups.setdefault(name, []).append(_place(x, y, axes))
    parts, names = [], []
    for name, places in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        # A dot is a line of no length with a round end: a tenth of the bytes of a circle.
        dots = "".join(f"M{x:.1f},{y:.1f}h0" for x, y in places)
        parts.append(f'<path class="dots {colour(name)}" data-class="{escape(name)}" d="{dots}"/>')
        if name and len(places) > 3:
            x, y = (median(place[axis] for place in places) for axis in (0, 1))
            names.append(
                f'<text class="tag" data-class="{escape(name)}" x="{x:.0f}" y="{y:.0f}">'
                f"{escape(name)}</text>"
            )
    return _frame("".join(parts) + "".join(names), label, "map")


def path_map(chains: Sequence[Sequence[Spot]], behind: Sequence[Spot], label: str) -> str:
    """Chains in the plane: a line each from its open start to its filled end.

    Args:
        chains: their ways.
        behind: points that are drawn faintly below.
        label: what the map shows, in words.
    """
    axes = reach([*behind, *(spot for chain in chains for spot in chain)])
    dots = "".join("M{:.1f},{:.1f}h0".format(*_place(x, y, axes)) for x, y, _ in behind)
    parts = [f'<path class="behind" d="{dots}"/>']
    for number, chain in enumerate(chains):
        places = [_place(x, y, axes) for x, y, _ in chain]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        (x0, y0), (x1, y1) = places[0], places[-1]
        parts.append(
            f'<polyline class="line s{number}" points="{line}"/>'
            f'<circle class="start s{number}" cx="{x0:.1f}" cy="{y0:.1f}" r="4"/>'
            f'<circle class="dot s{number}" cx="{x1:.1f}" cy="{y1:.1f}" r="4"/>'
        )
    return _frame("".join(parts), label, "map")


def _frame(drawing: str, label: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {SIZE} {SIZE}" role="img" '
        f'aria-label="{escape(label)}">{drawing}</svg>'
    )


def histogram(rows: Sequence[Mapping[str, float]], label: str, x_name: str) -> str:
    """Data (filled) against samples (a line) in common bins.

    Args:
        rows: low and high (edges), data and samples (counts) of every bin.
        label: what the chart shows, in words.
        x_name: what the bins are of.
    """
    totals = [max(1.0, sum(row[kind] for row in rows)) for kind in ("data", "samples")]
    shares = [
        [row[kind] / total for row in rows]
        for kind, total in zip(("data", "samples"), totals, strict=True)
    ]
    frame = Frame(
        span([rows[0]["low"], rows[-1]["high"]]), (0.0, max(*shares[0], *shares[1], 1e-9))
    )
    outlines = []
    for share in shares:
        path = "M{:.1f},{:.1f}".format(*frame.place(rows[0]["low"], 0.0))
        for row, value in zip(rows, share, strict=True):
            x, y = frame.place(row["low"], value)
            path += f"L{x:.1f},{y:.1f}H{frame.place(row['high'], value)[0]:.1f}"
        outlines.append(path + "V{:.1f}".format(frame.place(rows[-1]["high"], 0.0)[1]))
    drawing = f'<path class="area" d="{outlines[0]}"/><path class="line s1" d="{outlines[1]}"/>'
    edges = f"from {short(rows[0]['low'])} to {short(rows[-1]['high'])}"
    return frame.svg(drawing, f"{label}, {edges}", x_name)
