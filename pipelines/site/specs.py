"""The kinds of charts as Vega-Lite specifications, made with altair once each.

A specification is JSON in which "@name" stands for what :func:`filled` puts there. Its colours are
variables of site.css, so that a chart follows the theme. Layer ``near`` and the selections are for
browsers with scripts: the point nearest to the pointer with its values, and zoom.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import altair as alt

__all__ = ["KINDS", "bars", "filled", "histogram", "lines", "paths", "points"]

WIDTH, HEIGHT, SIDE = 264, 134, 264  # of a plot without its axes; of a map
KINDS = ("data", "samples")
AXIS: dict[str, Any] = {
    "domainColor": "var(--dim)",
    "gridColor": "var(--edge)",
    "labelColor": "var(--dim)",
    "labelExpr": "format(datum.value, abs(datum.value) < 10000 ? '~g' : '~s')",
    "labelFontSize": 11,
    "labelLimit": 0,  # a limit would measure every label several times
    "tickCount": 4,
    "ticks": False,
    "titleAnchor": "end",
    "titleColor": "var(--dim)",
    "titleFontSize": 11,
    "titleFontWeight": "normal",
    "titleLimit": 0,
}


@functools.cache
def lines(*, zero: bool = False, few: bool = False, marks: bool = False) -> str:
    """Lines against a common axis: ``points`` with ``x, y, series, part, few``, and ``marks``.

    Args:
        zero: the vertical axis begins at zero.
        few: some lines go through few points, which are shown.
        marks: there are marks.
    """
    base = _data("points", "x", "y").encode(_x(), _y("y", zero=zero), _painted("series"))
    layers = [base.mark_line(clip=True).encode(detail="part:N")]
    if few:
        dots = base.mark_point(clip=True, filled=True, size=25)
        layers.append(dots.transform_filter("datum.few"))
    if marks:
        at = alt.Chart(alt.NamedData(name="marks")).encode(x="at:Q")
        place: dict[str, Any] = {"align": {"expr": "@align"}, "dx": {"expr": "@dx"}}
        words = at.mark_text(baseline="top", color="var(--dim)", **place)
        layers += [
            at.mark_rule(color="var(--dim)", strokeDash=[3, 3], clip=True),
            words.encode(y=alt.value(0), text="what:N"),
        ]
    near = _near(base, _told("series:N", "line"), _told("x:Q", "@x"), _told("y:Q", "@y"))
    return _template(*layers, near, data=("points", "marks") if marks else ("points",))


@functools.cache
def histogram() -> str:
    """Shares of bins: ``points`` with ``x`` (edges) and both of :data:`KINDS`."""
    base = _data("points", "x", *KINDS).encode(_x())
    data, samples = (base.encode(_y(kind, zero=True, title="share")) for kind in KINDS)
    step: dict[str, Any] = {"interpolate": "step-after", "clip": True}
    return _template(
        data.mark_area(color="var(--area)", **step),
        samples.mark_line(color="var(--s1)", **step),
        _near(data, _told("x:Q", "@x"), *(_told(f"{kind}:Q", kind) for kind in KINDS), at=["x"]),
    )


@functools.cache
def points() -> str:
    """A map by class: ``points`` with ``x, y, class, label``, and ``tags`` with ``x, y, class``.

    The parameter ``chosen`` is the class that stands out.
    """
    base = _plane("points", "class", "label").encode(_painted("class"))
    chosen = alt.param(name="chosen", value="")
    seen = "chosen == '' || datum.class == chosen"
    # A dot is a line of no length with a round end: a third of the bytes of a circle.
    dot: dict[str, Any] = {"shape": "M0,0h0", "strokeCap": "round", "strokeWidth": 3}
    tags = alt.Chart(alt.NamedData(name="tags")).encode(x="x:Q", y="y:Q", text="class:N")
    tags = tags.encode(opacity=alt.condition(seen, alt.value(1), alt.value(0)))
    return _template(
        base.mark_point(clip=True, **dot).encode(
            opacity=alt.condition(seen, alt.value(0.75), alt.value(0.06))
        ),
        tags.mark_text(fontSize=12, fontWeight="bold", color="var(--ink)").properties(name="tags"),
        _near(base, _told("class:N", "class"), _told("label:N", "label")),
        data=("points", "tags"),
        params=[chosen],
        square=True,
    )


@functools.cache
def paths() -> str:
    """Ways among points: ``paths`` with ``x, y, series, end``, and ``points`` with ``x, y``."""
    ways = _plane("paths", "end").encode(_painted("series"))
    dots: dict[str, Any] = {"clip": True, "size": 60}
    return _template(
        _plane("points").mark_point(
            clip=True, shape="M0,0h0", strokeCap="round", strokeWidth=2, color="var(--dim)"
        ),
        ways.mark_line(clip=True, order=False),
        ways.mark_point(fill="var(--soft)", **dots).transform_filter("datum.end == 'start'"),
        ways.mark_point(filled=True, **dots).transform_filter("datum.end == 'end'"),
        _near(ways, _told("series:N", "line"), _told("x:Q", "@x"), _told("y:Q", "@y")),
        data=("points", "paths"),
        square=True,
    )


@functools.cache
def bars() -> str:
    """Bars by value and series: ``points`` with ``x, y, series``, of which ``y`` are words."""
    place = alt.Y("y:N", sort=None, title=None, axis=alt.Axis(labelExpr="datum.label"))
    base = _data("points", "x", "y").encode(
        alt.X("x:Q", title="@x", scale=alt.Scale(zero=True)),
        place,
        alt.YOffset("series:N", sort=None),
        _painted("series"),
        tooltip=[_told("y:N", "value"), _told("series:N", "rows"), _told("x:Q", "@x")],
    )
    return _template(base.mark_bar(), zoom=False, left=120)


def filled(template: str, **values: Any) -> dict[str, Any]:
    """A specification with its values; "@name" alone in a list stands for the whole list."""

    def value(found: re.Match[str]) -> str:
        return json.dumps(values[found[1] or found[2]])

    spec: dict[str, Any] = json.loads(re.sub(r'\["@(\w+)"\]|"@(\w+)"', value, template))
    return spec


def _data(name: str, *columns: str) -> alt.Chart:
    """A data set, of which a row holds columns: as rows they would be twice as long."""
    chart: alt.Chart = alt.Chart(alt.NamedData(name=name)).transform_flatten(list(columns))
    return chart


def _x() -> alt.X:
    return alt.X("x:Q", title="@x", scale=alt.Scale(nice=False, zero=False))


def _y(column: str, *, zero: bool, title: str = "@y") -> alt.Y:
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=zero))


def _plane(data: str, *columns: str) -> alt.Chart:
    x = alt.X("x:Q", title="@x", scale=alt.Scale(domain=["@across"], nice=False))
    y = alt.Y("y:Q", title="@y", scale=alt.Scale(domain=["@up"], nice=False))
    return _data(data, "x", "y", *columns).encode(x, y)


def _painted(column: str) -> alt.Color:
    scale = alt.Scale(domain=["@names"], range=["@colours"])
    return alt.Color(f"{column}:N", legend=None, scale=scale)


def _told(field: str, title: str) -> alt.Tooltip:
    # Without a format, Vega-Lite looks for words elsewhere than in the nearest point.
    return alt.Tooltip(field, title=title, format=".5~g" if field.endswith("Q") else "")


def _near(base: alt.Chart, *told: alt.Tooltip, at: Sequence[str] = ("x", "y")) -> alt.Chart:
    """The point nearest to the pointer, with what is told of it; ``at`` tells the points apart."""
    near = alt.selection_point(
        name="near",
        on="pointermove",
        clear="pointerout",
        nearest=True,
        empty=False,
        fields=list(at),
    )
    shown = alt.condition(near, alt.value(1), alt.value(0))
    dots = base.mark_point(clip=True, filled=True, size=55).properties(name="near")
    chart: alt.Chart = dots.encode(opacity=shown, tooltip=told).add_params(near)
    return chart


def _template(
    *layers: alt.Chart,
    data: Sequence[str] = ("points",),
    params: Sequence[alt.Parameter] = (),
    square: bool = False,
    zoom: bool = True,
    left: int = 44,
) -> str:
    """The layers as JSON; the plot has a fixed place, so that no font of a machine moves it."""
    zooms = alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.ctrlKey]")
    named = [
        layer if isinstance(layer.name, str) else layer.properties(name=f"layer{number}")
        for number, layer in enumerate(layers)
    ]
    named[0] = named[0].add_params(*([zooms] if zoom else []), *params)
    chart = alt.layer(*named, datasets={name: f"@{name}" for name in data}).properties(
        width=SIDE if square else WIDTH,
        height=SIDE if square else HEIGHT,
        padding={"left": left, "top": 22, "right": 12, "bottom": 34},
        usermeta={"log": "@log"},
    )
    chart = chart.configure(
        aria=False,
        autosize="none",
        background="transparent",
        font="system-ui, sans-serif",
        axis=alt.AxisConfig(**AXIS),
        axisY=alt.AxisConfig(titleAlign="left", titleAngle=0, titleX=-40, titleY=-8),
        view=alt.ViewConfig(stroke=None),
    )
    return json.dumps(chart.to_dict())
