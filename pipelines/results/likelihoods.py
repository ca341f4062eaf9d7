"""Comparisons of priors on one backbone, by the protocol: docs/protocol.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config.evaluate import TOLERANCE
from ldebm.errors import UsageError
from ldebm.files import read_json
from pipelines.library import Library

__all__ = [
    "FEWEST_DRAWS",
    "FEWEST_SEEDS",
    "breaches",
    "interval",
    "likelihood_tables",
    "sides_of",
]

FEWEST_SEEDS, FEWEST_DRAWS = 3, 500
REPEATS = 4000
STANDARD = "standard_normal"


def likelihood_tables(root: Path = Path()) -> str:
    """What ``python -m benchmarks.likelihoods`` measured, a table a group; empty without any.

    Raises:
        UsageError: a file holds something else.
    """
    paths = sorted(root.glob("results/likelihoods-*.json"))
    library = Library(root) if paths else None
    tables = []
    for path in paths:
        try:
            tables.append(_table(read_json(path), library))
        except (AttributeError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not what `python -m benchmarks.likelihoods` writes "
                f"({type(error).__name__}: {error}); measure again, or restore the file"
            ) from error
    return "\n".join(tables)


def breaches(name: str, seeds: Mapping[str, Mapping[str, Any]], settings: str | None) -> list[str]:
    """Why a prior may not stand in a comparison; empty if it may.

    Args:
        name: of the prior's experiment, or ``standard_normal``.
        seeds: measured rows by seed.
        settings: hash of the experiment's present settings; ``None``: there are none.
    """
    mine = {seed: row for seed, row in seeds.items() if name in row["priors"]}
    wrong = []
    if len(mine) < FEWEST_SEEDS:
        wrong.append(f"{len(mine)} seeds, {FEWEST_SEEDS} are needed")
    if any(row["draws"] < FEWEST_DRAWS for row in mine.values()):
        wrong.append(f"fewer than {FEWEST_DRAWS} draws a row")
    if any(len(row["rows"]) < row["test_rows"] for row in mine.values()):
        wrong.append("not all test rows")
    if name == STANDARD:
        return wrong
    parts = [row["priors"][name] for row in mine.values()]
    if any(part["dirty"] is not False for part in parts):
        wrong.append("trained with code that is in no commit")
    if any(part["settings"] != settings for part in parts):
        wrong.append("superseded: its settings have changed since")
    gap = max((sum(sides_of(part)) for part in parts), default=0.0)
    if not gap <= TOLERANCE:
        wrong.append(f"no number: the sides of the estimate are {gap:.2g} nats apart")
    return wrong


def sides_of(part: Mapping[str, Any]) -> tuple[float, float]:
    """How far an NLL may lie below and above the one that is stated, nats.

    Below is the estimate with fresh draws alone; above, that with reverse annealing.
    """
    if "nll" not in part:
        return math.inf, math.inf
    below = max(0.0, part["nll"] - part["nll_lower"])
    return below, max(0.0, part.get("nll_sandwich", 0.0) - below)


def interval(difference_SR: np.ndarray, slack_2S: np.ndarray | None = None) -> list[float]:
    """Mean of paired differences with a 95 % interval over seeds and rows.

    Seeds and rows are drawn with replacement, rows the same for all seeds (Efron 1979). The lower
    end is that of the lowest differences that the estimates allow, the upper of the highest.

    Args:
        difference_SR: of every seed and row.
        slack_2S: by how much the estimates of every seed may be off, below and above, shape (2, S).

    Returns:
        Mean, lower and upper end.
    """
    stream = np.random.default_rng(0)
    seeds, rows = difference_SR.shape
    below_S, above_S = np.zeros((2, seeds)) if slack_2S is None else slack_2S
    lowest, highest = [], []
    for _ in range(REPEATS):
        of_rows_S = difference_SR[:, stream.integers(rows, size=rows)].mean(1)
        drawn = stream.integers(seeds, size=seeds)
        lowest.append((of_rows_S - below_S)[drawn].mean())
        highest.append((of_rows_S + above_S)[drawn].mean())
    low, high = np.quantile(lowest, 0.025), np.quantile(highest, 0.975)
    return [float(difference_SR.mean()), float(low), float(high)]


def _table(content: Mapping[str, Any], library: Library | None) -> str:
    seeds: Mapping[str, Mapping[str, Any]] = content["seeds"]
    names = list(dict.fromkeys(name for row in seeds.values() for name in row["priors"]))
    wrong = {name: breaches(name, seeds, _present(name, library)) for name in names}
    fair = [name for name in names if not wrong[name]]
    lines = [f"## {content['group']}: priors of one backbone\n"]
    if fair:
        lines += _compared(seeds, fair)
    left = [f"{name} ({'; '.join(reasons)})" for name, reasons in wrong.items() if reasons]
    if left:
        lines.append("Not compared: " + ", ".join(left) + ".\n")
    return "\n".join(lines)


def _compared(seeds: Mapping[str, Mapping[str, Any]], names: list[str]) -> list[str]:
    common = [row for row in seeds.values() if set(names) <= row["priors"].keys()]
    nll = {
        name: np.array([_by_row(row, name) for row in common], dtype=np.float64) for name in names
    }
    best = min(names, key=lambda name: float(nll[name].mean()))
    sides_2S = {
        name: np.transpose([sides_of(row["priors"][name]) for row in common]) for name in names
    }
    lines = [
        f"{len(common)} seeds, each with a backbone of its own; {len(common[0]['rows'])} test rows,"
        f" {common[0]['draws']} draws a row, the same for all; valid NLL in nats a row (lower is"
        " better). Gain: by how much the best prior of the table is better, paired over rows and"
        " seeds, with the 95 % interval of a bootstrap over both, widened by how far the two sides"
        " of each estimate are apart (sides: means over the seeds). Training: updates and"
        " processor seconds of the second stage, medians.\n",
        "| prior | updates | training, s | NLL | sides | gain of the best |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted(names, key=lambda item: float(nll[item].mean())):
        parts = [row["priors"][name] for row in common]
        middle = [_median([part.get(key) for part in parts]) for key in ("updates", "cpu_seconds")]
        gain = "best"
        if name != best:
            slack_2S = sides_2S[name] + sides_2S[best][::-1]
            mean, low, high = interval(nll[name] - nll[best], slack_2S)
            gain = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        value, spread = float(nll[name].mean()), float(nll[name].mean(1).std(ddof=1))
        title = "N(0, I)" if name == STANDARD else name
        below, above = sides_2S[name].mean(1)
        cells = (
            title,
            *middle,
            f"{value:.3f} ± {spread:.3f}",
            f"-{below:.2f} +{above:.2f}",
            gain,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _by_row(row: Mapping[str, Any], name: str) -> np.ndarray:
    """The NLL of every test row, in the order of their ids."""
    return np.asarray(row["priors"][name]["row_nll"])[np.argsort(row["rows"])]


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return f"{np.median(known):.0f}" if known else ""


def _present(name: str, library: Library | None) -> str | None:
    """Hash of what an experiment of conf/ says now."""
    if library is None or name == STANDARD:
        return None
    try:
        return library.experiment(name).training_hash
    except UsageError:
        return None
