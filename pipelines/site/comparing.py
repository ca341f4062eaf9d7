"""What the compare page needs of every run, and the verdicts on pairs of experiments.

The page only looks up and lays out: means, intervals and verdicts are computed here, by the same
code as ``ldebm compare``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.compare.compare import judge, ordered, pick_samples
from pipelines.compare.targets import Run, evaluated_runs, recorded_runs
from pipelines.curves import parse_curve, thin
from pipelines.lineage.snapshots import WorkingTree
from pipelines.results.glossary import describe
from pipelines.results.recorded import TRAINED, flatten
from pipelines.results.tables import HEADLINE

__all__ = ["comparison_data", "evaluated_here", "files", "groups", "index", "neighbours"]

NEAR = 12  # experiments with which each is judged
POINTS = 60  # of a curve
DIGITS = 6


def groups(root: Path) -> dict[str, list[Run]]:
    """The runs by experiment: recorded ones, with those of other seeds that are evaluated here.

    Where a run was recorded with other metrics than it has here, those here are another group.
    """
    state = WorkingTree(root)
    recorded, evaluated = recorded_runs(state), evaluated_runs(state)
    by_name = dict(recorded)
    for name, runs in evaluated.items():
        known = {run.seed: run for run in recorded.get(name, [])}
        if all(run.seed not in known or known[run.seed].metrics == run.metrics for run in runs):
            joined = {**{run.seed: run for run in runs}, **known}
            by_name[name] = [joined[seed] for seed in sorted(joined)]
        else:
            by_name[f"{name} (evaluated here)"] = runs
    return dict(sorted(by_name.items()))


def comparison_data(root: Path) -> dict[str, Any]:
    """Runs, and for pairs of experiments on the same data what :func:`judge` says.

    Returns:
        ``groups``: name -> data set and runs; ``pairs``: "first|second" -> metric -> row, for the
        :func:`neighbours`; ``still``: those of runs evaluated here, with their numbers; ``near``:
        how many neighbours there are, where that leaves pairs out, else 0;
        ``metrics``: name -> direction and meaning; ``order``: of the metrics; ``headline``;
        ``here``: the runs that have a page, by its anchor (:func:`evaluated_here`).
    """
    runs_of = groups(root)
    names = {name for runs in runs_of.values() for run in runs for name in run.metrics}
    near = neighbours(runs_of)
    pairs = {
        f"{one}|{other}": _rounded(judge(runs_of[one], runs_of[other]))
        for one, others in near.items()
        for other in others
    }
    here = evaluated_here(root, runs_of, list(pairs))
    still = sorted({pair for run in here.values() for pair in run["pairs"]})
    return {
        "groups": {
            name: {"data": runs[0].data, "runs": [_run(run) for run in runs]}
            for name, runs in runs_of.items()
        },
        "pairs": pairs,
        "still": [(number, key, pairs[key]) for number, key in still],
        "near": NEAR if _some_left_out(runs_of) else 0,
        "metrics": {name: vars(describe(name)) for name in ordered(names)},
        "headline": [name for name in HEADLINE if name in names],
        "here": here,
    }


def neighbours(runs_of: Mapping[str, Sequence[Run]]) -> dict[str, list[str]]:
    """The groups with which each is judged: those after it on the same data, at most :data:`NEAR`.

    Related experiments have names that begin alike. All pairs would grow with the square of the
    runs; the page shows the plain differences of the others.

    Args:
        runs_of: the groups in the order of their names.
    """
    by_data: dict[str, list[str]] = {}
    for name, runs in runs_of.items():
        by_data.setdefault(runs[0].data, []).append(name)
    after = {
        name: names[place + 1 : place + 1 + NEAR]
        for names in by_data.values()
        for place, name in enumerate(names)
    }
    return {name: after[name] for name in runs_of}


def _some_left_out(runs_of: Mapping[str, Sequence[Run]]) -> bool:
    return max(Counter(runs[0].data for runs in runs_of.values()).values(), default=0) > NEAR + 1


def files(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page loads of each group when it is chosen: its runs, and the pairs it is first in.

    Rows that follow from the runs themselves are left out: those of pairs with one run a side,
    where there is nothing to judge.
    """
    single = {name for name, group in content["groups"].items() if len(group["runs"]) == 1}

    def kept(key: str, row: Mapping[str, Any]) -> bool:
        plain = "equal" if row["first"] == row["second"] else "one seed"
        return not single >= set(key.split("|")) or "rows" in row or row["verdict"] != plain

    pairs: dict[str, dict[str, Any]] = {name: {} for name in content["groups"]}
    for key, rows in content["pairs"].items():
        one, _, other = key.partition("|")
        pairs[one][other] = {name: row for name, row in rows.items() if kept(key, row)}
    return [
        {"name": name, "runs": group["runs"], "pairs": pairs[name]}
        for name, group in content["groups"].items()
    ]


def index(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the page holds itself: names, data sets and seeds of the groups, and the metrics."""
    groups = {
        name: {"data": group["data"], "seeds": [run["seed"] for run in group["runs"]]}
        for name, group in content["groups"].items()
    }
    return {"groups": groups, "metrics": content["metrics"], "headline": content["headline"]}


def evaluated_here(
    root: Path, runs_of: Mapping[str, Sequence[Run]], pairs: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Where the page shows each run that was evaluated here, so that the run's page can lead there.

    Returns:
        "E-S" -> ``group``; ``seed``, empty where the group has no other; and ``pairs``, number and
        name of those that the group is in.
    """
    shown = {}
    for name, runs in evaluated_runs(WorkingTree(root)).items():
        own = f"{name} (evaluated here)"
        group = own if own in runs_of else name
        mine = [(n, pair) for n, pair in enumerate(pairs) if group in pair.split("|")]
        for run in runs:
            seed = str(run.seed) if len(runs_of[group]) > 1 else ""
            shown[f"{name}-{run.seed}"] = {"group": group, "seed": seed, "pairs": mine}
    return shown


def _run(run: Run) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "params": {key: value for key, value in flatten(run.params).items() if value is not None},
        "metrics": dict(run.metrics),  # unrounded: the page takes differences of them
        "curves": _curves(run),
        "samples": pick_samples(run),
        "facts": {key: run.facts.get(key) for key in ("commit", "device", "seconds")},
    }


def _curves(run: Run) -> dict[str, list[list[float]]]:
    """stage/series -> points, thinned to what a small chart shows."""
    curves = {}
    for stage in TRAINED:
        path = f"models/{run.experiment}/{run.seed}/{stage}/curve.csv"
        content = run.snapshot.read(path) if run.snapshot is not None else None
        for series in parse_curve((content or b"").decode("utf-8")):
            points = [[_round(x), _round(y)] for x, y in thin(series.points, POINTS)]
            curves[f"{stage}/{series.name}"] = points
    return curves


def _rounded(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the page shows of the rows."""
    shown = ("first", "second", "difference", "interval", "method", "verdict", "holm", "rows")
    return {
        name: {key: _round(row[key]) for key in shown if row[key] is not None}
        for name, row in rows.items()
    }


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_round(item) for item in value]
    return value
