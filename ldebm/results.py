"""Recorded runs, ``results/<experiment>/<seed>.json``, and comparisons of them.

A recorded run is {experiment, seed, epochs, updates, params, commit, dirty, device, seconds,
stage_seconds, numerics, metrics}: small enough for git, and complete enough to say how a number
came about.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.config import nearest
from ldebm.errors import UsageError
from ldebm.files import read_json, write_json
from ldebm.lineage import records

__all__ = [
    "Comparison",
    "by_experiment",
    "compare",
    "flatten",
    "load_results",
    "numbers",
    "record_runs",
]

RESULTS = Path("results")
TRAINED = ("backbone", "prior")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def record_runs(root: Path = Path(), experiments: Sequence[str] = ()) -> list[Path]:
    """Copies what was evaluated into ``results/``, with where and how it was made.

    A report whose model is not here (git brings the metrics of the default build, not its models)
    was not evaluated here.

    Args:
        root: the project's folder.
        experiments: which; none: all that were evaluated.

    Returns:
        The files that were written.

    Raises:
        UsageError: one of ``experiments`` was not evaluated.
    """
    reports = [
        path
        for path in sorted(root.glob("reports/*/*/metrics.json"))
        if _config(root, path.parts[-3], path.parts[-2]).is_file()
    ]
    here = {path.parts[-3] for path in reports}
    for name in experiments:
        if name not in here:
            raise UsageError(f"{name}: not evaluated here, nothing to record{nearest(name, here)}")
    known = records(root)
    written = []
    for path in reports:
        experiment, seed = path.parts[-3], path.parts[-2]
        if experiments and experiment not in experiments:
            continue
        target = root / RESULTS / experiment / f"{seed}.json"
        write_json(target, _run(root, experiment, int(seed), known))
        written.append(target)
    return written


def _run(root: Path, experiment: str, seed: int, known: list[dict[str, Any]]) -> dict[str, Any]:
    mine: dict[str, dict[str, Any]] = {}
    for record in known:  # newest first
        stage, _, instance = record["stage"].partition("@")
        if instance == f"{experiment}-{seed}":
            mine.setdefault(stage, record)
    params = _built_with(root, experiment, seed)
    override = mine.get("prior", {}).get("params", {}).get("run.epochs")
    trainings = {stage: params.get(stage, {}).get("training", {}) for stage in TRAINED}
    for training in trainings.values():
        if override is not None and training.get("updates") is None:
            training["epochs"] = override
    seconds = {  # a backbone that another experiment trained counts with the time it took there
        stage: round(max(record["seconds"], record.get("trained_seconds", 0.0)), 1)
        for stage, record in sorted(mine.items())
    }
    last = mine.get("prior", {})
    return {
        "experiment": experiment,
        "seed": seed,
        "epochs": {stage: training.get("epochs") for stage, training in trainings.items()},
        "updates": {
            stage: _updates(root / "models" / experiment / str(seed) / stage) for stage in TRAINED
        },
        "params": params,
        "commit": last.get("git", {}).get("commit"),
        "dirty": last.get("git", {}).get("dirty"),
        "device": last.get("device"),
        "numerics": last.get("numerics"),
        "seconds": round(sum(seconds.values()), 1) if seconds else None,
        "stage_seconds": seconds,
        "metrics": read_json(root / "reports" / experiment / str(seed) / "metrics.json"),
    }


def _updates(folder: Path) -> int | None:
    """How many optimiser steps a stage of this run did."""
    path = folder / "metrics.json"
    return read_json(path).get("updates") if path.is_file() else None


def _config(root: Path, experiment: str, seed: int | str) -> Path:
    return root / "models" / experiment / str(seed) / "prior" / "config.json"


def _built_with(root: Path, experiment: str, seed: int) -> dict[str, Any]:
    """The resolved experiment that the model was built with, which the model's folder keeps."""
    content = read_json(_config(root, experiment, seed))
    config: dict[str, Any] = content.get("config", content)
    return config


def load_results(root: Path = Path()) -> list[dict[str, Any]]:
    """All recorded runs, by experiment and seed."""
    paths = (root / RESULTS).glob("*/*.json")
    runs = [run for run in map(read_json, paths) if {"experiment", "seed", "metrics"} <= run.keys()]
    return sorted(runs, key=lambda run: (run["experiment"], run["seed"]))


def by_experiment(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Runs grouped by experiment, in the order of the names."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda item: (item["experiment"], item["seed"])):
        groups.setdefault(run["experiment"], []).append(run)
    return groups


def numbers(runs: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """The values of a metric in those runs that have it."""
    values = [flatten(run["metrics"]).get(metric) for run in runs]
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


@dataclass(frozen=True)
class Comparison:
    """How two sets of runs differ."""

    first: str
    second: str
    params: dict[str, tuple[Any, Any]]
    metrics: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return vars(self)

    def lines(self) -> Iterator[str]:
        """The comparison as text."""
        yield f"{self.first}  against  {self.second}"
        yield "parameters" if self.params else "parameters: the same"
        for key, (one, other) in self.params.items():
            yield f"  {key}: {one} -> {other}"
        yield "metrics (mean over seeds; interval of the difference at 95%)"
        words = {True: "differs", False: "within seed noise", None: "one seed: no interval"}
        for key, row in self.metrics.items():
            half = "" if row["interval"] is None else f" +- {row['interval']:.4g}"
            yield (
                f"  {key}: {row['first']:.5g} -> {row['second']:.5g}"
                f"  ({row['difference']:+.4g}{half}; {words[row['exceeds']]})"
            )


def compare(first: str, second: str, root: Path = Path()) -> Comparison:
    """Parameters and metrics of two experiments or result files.

    Args:
        first: an experiment of ``results/`` or ``reports/``, or a file of ``results/``.
        second: likewise.
        root: the project's folder.

    Raises:
        UsageError: one of them is not there.
    """
    one, other = _runs(first, root), _runs(second, root)
    params = [flatten(group[0].get("params", {})) for group in (one, other)]
    keys = sorted(params[0].keys() | params[1].keys())
    changed = {key: (params[0].get(key), params[1].get(key)) for key in keys}
    metrics = {}
    for key in flatten(one[0]["metrics"]):
        a, b = numbers(one, key), numbers(other, key)
        if a and b:
            metrics[key] = _difference(a, b)
    differing = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    return Comparison(first, second, differing, metrics)


def _runs(target: str, root: Path) -> list[Mapping[str, Any]]:
    path = root / target
    if path.is_file():
        run = read_json(path)
        if not isinstance(run, dict) or "metrics" not in run:
            raise UsageError(f"{target}: not a recorded run; expected a file of results/")
        return [run]
    groups = by_experiment(load_results(root))
    if target in groups:
        return groups[target]
    here = sorted(root.glob(f"reports/{target}/*/metrics.json"))
    if here:
        return [_run(root, target, int(item.parent.name), []) for item in here]
    evaluated = {item.parts[-3] for item in root.glob("reports/*/*/metrics.json")}
    raise UsageError(
        f"{target}: no recorded or evaluated run{nearest(target, {*groups, *evaluated})}"
    )


def _difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Means, difference, and Welch's 95% half-width of it (None with one seed)."""
    means = statistics.fmean(first), statistics.fmean(second)
    difference = means[1] - means[0]
    interval: float | None = None
    if len(first) > 1 and len(second) > 1:
        from scipy.stats import t  # comes with scikit-learn; slow to load

        parts = [statistics.variance(item) / len(item) for item in (first, second)]
        squares = [
            part**2 / (len(item) - 1) for part, item in zip(parts, (first, second), strict=True)
        ]
        freedom = sum(parts) ** 2 / sum(squares) if sum(squares) else float("inf")
        interval = float(t.ppf(0.975, freedom)) * sum(parts) ** 0.5
    return {
        "first": means[0],
        "second": means[1],
        "difference": difference,
        "interval": interval,
        "exceeds": None if interval is None else abs(difference) > interval,
        "seeds": [len(first), len(second)],
    }
