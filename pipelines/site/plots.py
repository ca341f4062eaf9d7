"""What ``dvc plots`` draws: one file a plot with the curves of all runs, and pictures of the runs.

dvc.yaml names these files once, whatever params.yaml selects: a plot of DVC can read several files,
but not those of every item of a matrix.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ldebm.files import write_csv

__all__ = ["PLOTS", "write_plots"]

PLOTS = {  # file -> stage, column of its curves, share of the updates at the beginning left out
    "reconstruction": ("backbone", "reconstruction", 0.1),  # which would set the scale
    "kl": ("backbone", "kl", 0.0),
    "prior-loss": ("prior", "loss", 0.0),
    "acceptance": ("prior", "acceptance", 0.0),
}
PICTURES = {"kde.png": "densities", "grid-prior.png": "samples"}

Row = list[str | int | float]


def write_plots(runs: Sequence[tuple[str, str]], root: Path, out: Path) -> None:
    """Writes ``reconstruction.csv``, ``kl.csv``, ``prior-loss.csv``, ``acceptance.csv``, pictures.

    Args:
        runs: experiment and seed of each.
        root: the project's folder.
        out: the folder; is made.
    """
    for name, (stage, column, left_out) in PLOTS.items():
        rows = [
            row
            for experiment, seed in runs
            for row in _curves(root / "models" / experiment / seed / stage, column, left_out)
        ]
        write_csv(out / f"{name}.csv", ["experiment", "seed", "rows", "update", column], rows)
    for experiment, seed in runs:
        for file, what in PICTURES.items():
            path = root / "reports" / experiment / seed / "details" / file
            if path.is_file():
                shutil.copyfile(path, out / f"{what}-{experiment}-{seed}.png")


def _curves(folder: Path, column: str, left_out: float) -> Iterator[Row]:
    """One column of a stage's training curve and of its validation curve."""
    experiment, seed = folder.parts[-3], folder.parts[-2]
    for file, rows in (("curve.csv", "training"), ("validation.csv", "validation")):
        points = list(_points(folder / file, column))
        for update, value in points:
            if update >= left_out * points[-1][0]:
                yield [experiment, seed, rows, update, value]


def _points(path: Path, column: str) -> Iterator[tuple[int, float]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            if (value := _value(line, column)) is not None:
                yield int(line["update"]), value


def _value(line: Mapping[str, str], column: str) -> float | None:
    """A column's value, or the mean over its levels (``acceptance_0`` and so on)."""
    named = [line.get(column, "")]
    levels = [text for name, text in line.items() if name.startswith(f"{column}_")]
    numbers = [float(text) for text in (named if named[0] else levels) if text]
    return fmean(numbers) if numbers else None
