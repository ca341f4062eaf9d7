"""What the page of an image model shows: grids, other kinds of images, control, transitions.

Pictures are written into the page itself, so that a site of many runs still has few files.
"""

from __future__ import annotations

import base64
import csv
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.curves import Series
from pipelines.site.charts import line_chart

__all__ = ["image_sections", "level_borders", "table"]

COMPARED = ("data", "reconstruction", "gaussian", "prior")
HIERARCHY = ("hierarchy_top", "hierarchy_bottom")
TRANSITIONS = ("transitions_short", "transitions_long")
PANELS = {  # column -> title and name of the vertical axis
    "energy": ("energy of the chain, within a level", "energy"),
    "confidence": ("confidence of the classifier in the images", "probability"),
    "distance": ("Frechet distance of the images from test images, by the classifier", "distance"),
    "saturated": ("black and white values", "share"),
}


def image_sections(details: Path, extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Everything of an image model's page; None for other models.

    Args:
        details: the folder ``reports/E/S/details``.
        extra: the content of its ``details.json``.
    """
    about = extra.get("grids")
    if not about:
        return None
    grids = {name: _grid(details / f"grid-{name}.png", item) for name, item in about.items()}
    shown = {name: grid for name, grid in grids.items() if grid is not None}
    chains = table(details / "transitions.csv")
    return {
        "prior": shown.get("prior"),
        "compared": [shown[name] for name in COMPARED if name in shown],
        "hierarchy": [shown[name] for name in HIERARCHY if name in shown],
        "control": shown.get("control"),
        "asked": table(details / "control.csv"),
        "transitions": [shown[name] for name in TRANSITIONS if name in shown],
        "charts": _charts(chains),
        "ood": _ood(table(details / "ood.csv")),
        "groups": table(details / "groups.csv"),
        "fitted": str(extra.get("fitted", "")),
    }


def _grid(path: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # the PNG header
    return {
        "uri": "data:image/png;base64," + base64.b64encode(content).decode("ascii"),
        "title": str(about.get("title", "")),
        "rows": [str(row) for row in about.get("rows", [])],
        "width": width,
        "height": height,
    }


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _ood(rows: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """AUROC by scheme and number of groups in the rows, data sets in the columns."""
    if not rows:
        return None
    names = sorted({row["data"] for row in rows})
    keys = sorted({(row["scheme"], int(row["groups"])) for row in rows})
    by_key = {(row["scheme"], int(row["groups"]), row["data"]): row for row in rows}
    lines = []
    for scheme, count in keys:
        cells = [by_key.get((scheme, count, name)) for name in names]
        values = [float(cell["auroc"]) for cell in cells if cell is not None]
        lines.append(
            {
                "scheme": scheme,
                "groups": count,
                "cells": [
                    ""
                    if cell is None
                    else f"{float(cell['auroc']):.3f} ± {float(cell['spread']):.3f}"
                    for cell in cells
                ],
                "mean": f"{sum(values) / len(values):.3f}",
                "chosen": any(cell is not None and cell["chosen"] == "True" for cell in cells),
            }
        )
    return {"names": names, "lines": lines}


def level_borders(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Where the level changes: energies of different levels have no common zero."""
    return [i - 0.5 for i in range(1, len(rows)) if rows[i]["t"] != rows[i - 1]["t"]]


def _charts(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What is followed of the chains, against the moment; lines break where the level changes."""
    charts = []
    runs = {run: [row for row in rows if row["run"] == run] for run in ("short", "long")}
    for key, (title, unit) in PANELS.items():
        lines = [
            Series(
                f"{run} run",
                "moment",
                tuple((float(i), float(row[key])) for i, row in enumerate(mine)),
            )
            for run, mine in runs.items()
            if mine and all(row[key] for row in mine)
        ]
        if not lines:
            continue
        mine = next(mine for mine in runs.values() if mine)
        drawn = line_chart(lines, title, unit, breaks=level_borders(mine))
        charts.append({"title": title, "chart": drawn, "legend": [item.name for item in lines]})
    return charts
