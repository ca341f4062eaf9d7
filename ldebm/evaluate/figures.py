"""The figures of Yu et al. (2022): densities of points and latents (2, 3, A2), p(y|z_t) (A1).

matplotlib is loaded when a figure is drawn. The files hold no time and no version, so that equal
panels give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.evaluate.report import Report
from ldebm.files import atomic_path
from ldebm.grids import tile, write_png

__all__ = ["draw_densities", "draw_figures"]

DPI = 100
SCATTER_ROWS = 3000


def draw_figures(report: Report, out: Path) -> list[Path]:
    """Draws what ``report`` has panels and tables for.

    Returns:
        The files written, of kde.png, evolution.png, scatter.png, label_information.png, and
        grid-<name>.png of images.
    """
    files = []
    for name, grid in (report.panels.get("grids") or {}).items():
        files.append(out / f"grid-{name}.png")
        write_png(files[-1], tile(grid.images, grid.columns))
    if "final" in report.panels:
        files.append(draw_densities({"": report.panels["final"]}, out / "kde.png"))
    evolution = report.panels.get("evolution") or {}
    if evolution:
        rows = {f"update {update}": panels for update, panels in evolution.items()}
        files.append(draw_densities(rows, out / "evolution.png"))
    if "scatter" in report.panels:
        files.append(_scatter(report.panels["scatter"], out / "scatter.png"))
    levels = report.tables.get("label_information")
    if levels is not None and len(levels[1]) > 1:
        files.append(_levels(levels[1], out / "label_information.png"))
    return files


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    """Writes a figure with a palette of 256 colours: a third of the bytes, no visible loss."""
    from PIL import Image

    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    palette = drawn.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        palette.save(temporary, format="png", optimize=True)
    return path


def draw_densities(rows: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> Path:
    """Densities in rows, which their names title where there are several, and columns."""
    columns = len(next(iter(rows.values())))
    figure = _figure(2.2 * columns, 2.3 * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, panels) in zip(axes, rows.items(), strict=True):
        for axis, (name, density) in zip(line, panels.items(), strict=True):
            axis.imshow(density, origin="lower", cmap="magma", vmin=0)
            axis.set_title(name if not title else f"{name}, {title}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    return _save(figure, path)


def _scatter(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> Path:
    """Points coloured by their most likely class."""
    figure = _figure(2.6 * len(panels), 2.7)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, (points, classes)) in zip(axes, panels.items(), strict=True):
        points, classes = points[:SCATTER_ROWS], classes[:SCATTER_ROWS]
        axis.scatter(points[:, 0], points[:, 1], c=classes, cmap="tab20", s=2, linewidths=0)
        axis.set_title(name, fontsize=8)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    return _save(figure, path)


def _levels(rows: Sequence[Sequence[float]], path: Path) -> Path:
    """Information about y that is left at every level."""
    figure = _figure(3.6, 2.6)
    axis = figure.subplots()
    axis.plot([row[0] for row in rows], [row[2] for row in rows], marker="o")
    axis.set_xlabel("level t")
    axis.set_ylabel("I(z_t; y), nats")
    axis.set_ylim(bottom=0)
    return _save(figure, path)
