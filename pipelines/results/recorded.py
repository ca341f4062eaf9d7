"""Recorded runs, ``results/<experiment>/<seed>.json``.

A recorded run is {experiment, seed, epochs, updates, params, settings, code, commit, dirty, device,
seconds, stage_seconds, cpu_seconds, numerics, metrics}: small enough for git, and complete enough
to say how a number came about.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldebm.config import nearest
from ldebm.errors import UsageError
from ldebm.files import read_json, write_json
from pipelines.lineage.records import records
from pipelines.results.glossary import present_names

__all__ = [
    "by_experiment",
    "devices",
    "flatten",
    "lengths",
    "load_results",
    "numbers",
    "record_runs",
    "settings_of",
    "summary",
]

RESULTS = Path("results")
TRAINED = ("backbone", "prior")
SECTIONS = ("backbone", "cluster", "prior")
_ENERGIES = ("prior.energy", "prior.sampler", "prior.levels", "prior.score_matching", "prior.mi_")
WITHOUT_ENERGIES = {  # priors that are only fitted, and what they do not read
    "gaussian": (*_ENERGIES, "prior.class", "prior.training"),
    "mixture": (*_ENERGIES, "prior.class", "prior.training"),
    "own": (*_ENERGIES, "prior.training"),
}
# What a run is trained with whatever its experiment says: `run.epochs`, and the machine.
LENGTHS = ("epochs", "updates", "threads", "device", "checkpoint_seconds", "validate_every")


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


def settings_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of an experiment that decides what is trained, but for how long; dotted keys.

    Args:
        params: the resolved experiment.
    """
    flat = flatten({"data": params.get("data"), **{s: params.get(s, {}) for s in SECTIONS}})
    unused = WITHOUT_ENERGIES.get(str(flat.get("prior.kind")), ())
    return {
        key: value
        for key, value in flat.items()
        if not (key.rpartition(".")[0].endswith(".training") and key.endswith(LENGTHS))
        and not key.startswith(unused)
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def record_runs(root: Path = Path(), experiments: Sequence[str] = ()) -> list[Path]:
    """Copies what was evaluated into ``results/``, with where and how it was made.

    A report whose model is not here was not evaluated here.

    Args:
        root: the project's folder.
        experiments: which; none: all that were evaluated.

    Returns:
        The files that were written.

    Raises:
        UsageError: one of ``experiments`` was not evaluated, or was trained with code or
            parameters that are in no commit.
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
        run = _run(root, experiment, int(seed), known)
        if run["dirty"] is not False:
            raise UsageError(
                f"{experiment}, seed {seed}: its prior was trained with code or parameters that are"
                " in no commit; commit them and build it again"
            )
        write_json(target, run)
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
    seconds = {stage: round(_seconds(record), 1) for stage, record in sorted(mine.items())}
    last = mine.get("prior", {})
    return {
        "experiment": experiment,
        "seed": seed,
        "epochs": {stage: training.get("epochs") for stage, training in trainings.items()},
        "updates": {
            stage: _updates(root / "models" / experiment / str(seed) / stage) for stage in TRAINED
        },
        "params": params,
        "settings": _hash(settings_of(params)),
        "code": _hash({stage: record.get("code") for stage, record in mine.items()}),
        "commit": last.get("git", {}).get("commit"),
        "dirty": last.get("git", {}).get("dirty"),
        "device": last.get("device"),
        "numerics": last.get("numerics"),
        "seconds": round(sum(seconds.values()), 1) if seconds else None,
        "stage_seconds": seconds,
        "cpu_seconds": {
            stage: record["cpu_seconds"]
            for stage, record in sorted(mine.items())
            if record.get("cpu_seconds") is not None
        },
        "metrics": read_json(root / "reports" / experiment / str(seed) / "metrics.json"),
    }


def _updates(folder: Path) -> int | None:
    """How many optimiser steps a stage of this run did."""
    path = folder / "metrics.json"
    return read_json(path).get("updates") if path.is_file() else None


def _config(root: Path, experiment: str, seed: int | str) -> Path:
    return root / "models" / experiment / str(seed) / "prior" / "config.json"


def _seconds(record: Mapping[str, Any]) -> float:
    """What a stage took.

    A backbone that another experiment trained counts with the time it took there, a prior that was
    trained at once with others with its share.
    """
    trained = float(record.get("trained_seconds", 0.0))
    if record.get("trained_with") and trained:
        return trained
    return max(float(record["seconds"]), trained)


def _built_with(root: Path, experiment: str, seed: int) -> dict[str, Any]:
    """The resolved experiment that the model was built with, which the model's folder keeps."""
    content = read_json(_config(root, experiment, seed))
    config: dict[str, Any] = content.get("config", content)
    return config


def load_results(root: Path = Path()) -> list[dict[str, Any]]:
    """All recorded runs, by experiment and seed."""
    paths = (root / RESULTS).glob("*/*.json")
    runs = [run for run in map(read_json, paths) if {"experiment", "seed", "metrics"} <= run.keys()]
    for run in runs:
        run["metrics"] = present_names(run["metrics"])
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


def summary(runs: Sequence[Mapping[str, Any]], metric: str, scale: float = 1.0) -> str:
    """Median over the seeds, with the smallest and largest where there are several.

    Args:
        runs: of one experiment.
        metric: its name.
        scale: the values are multiplied by it.

    Example:
        >>> summary([{"metrics": {"nll": 2.0}}, {"metrics": {"nll": 3.0}}], "nll")
        '2.5 [2, 3]'
    """
    values = [scale * value for value in numbers(runs, metric)]
    if not values:
        return ""
    middle = f"{statistics.median(values):.4g}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.4g}, {max(values):.4g}]"


def lengths(runs: Sequence[Mapping[str, Any]]) -> str:
    """Updates of the first and the second stage, with the epochs where they were given so."""
    run = runs[0]
    parts = []
    for stage in TRAINED:
        updates = run.get("updates", {}).get(stage)
        epochs = run.get("epochs", {}).get(stage)
        parts.append("" if updates is None else f"{updates}{f' ({epochs:g} ep)' if epochs else ''}")
    return " + ".join(parts)


def devices(runs: Sequence[Mapping[str, Any]]) -> str:
    """The devices of the runs, each once."""
    return ", ".join(sorted({str(run["device"]) for run in runs if run.get("device")}))
