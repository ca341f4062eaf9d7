"""What a user may name to compare: experiments, revisions, ``dvc exp`` names, result files.

results/E/S.json   a recorded run             workspace        what is evaluated here now
E                  an experiment's runs       REVISION or EXP  what a commit holds
E@REVISION         one experiment of a commit
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldebm.config import ExperimentConfig, nearest
from ldebm.config.checking import present
from ldebm.errors import UsageError
from ldebm.files import read_json
from pipelines.lineage.revisions import find_commit
from pipelines.lineage.snapshots import Revision, Snapshot, WorkingTree
from pipelines.results.glossary import present_names
from pipelines.results.recorded import RESULTS, flatten

__all__ = ["Run", "Side", "evaluated_runs", "find", "recorded_runs"]

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
        experiment: its name.
        seed: its seed.
        params: the resolved parameters, nested.
        raw_metrics: as metrics.json has them, under the names of now.
        facts: where and how it was made, as far as the record of results/ says.
        snapshot: where its curves and samples would be.
    """

    experiment: str
    seed: int
    params: Mapping[str, Any]
    raw_metrics: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    snapshot: Snapshot | None = None

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """The numbers by dotted name."""
        flat = flatten(self.raw_metrics)
        return {
            key: float(value)
            for key, value in flat.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.params.get("data", ""))


@dataclass(frozen=True)
class Side:
    """One side of a comparison: runs by experiment, sorted by seed.

    Attributes:
        name: what the user called it.
        runs: experiment -> runs.
        chosen: whether the user named one experiment, rather than a whole state.
        note: what else the name may stand for.
    """

    name: str
    runs: Mapping[str, list[Run]]
    chosen: bool
    note: str = ""


def find(target: str, root: Path = Path()) -> Side:
    """The runs that ``target`` names.

    An experiment is looked up in ``results/`` first, then among what is evaluated here.

    Raises:
        UsageError: there is no such thing, or it holds no run.
    """
    path = root / target
    if path.is_file():
        run = _of_file(path, root)
        return Side(target, {run.experiment: [run]}, chosen=True)
    here = WorkingTree(root)
    recorded, evaluated = recorded_runs(here), evaluated_runs(here)
    both = target in recorded and target in evaluated
    note = f"{target} is its recorded run; {target}@{WORKSPACE} is the one evaluated here"
    for runs in (recorded, evaluated):
        if target in runs:
            return Side(target, {target: runs[target]}, chosen=True, note=note if both else "")
    if target == WORKSPACE:
        return _side(target, here)
    commit = find_commit(target, root)
    if commit is not None:
        return _side(target, Revision(root, commit, target))
    experiment, _, revision = target.partition("@")
    if revision:
        return _one(target, experiment, revision, root)
    known = nearest(target, {*recorded, *evaluated})
    raise UsageError(
        f"{target}: no experiment, git revision, dvc experiment or result file of this name"
        f"{known}; no recorded or evaluated run"
    )


def _one(target: str, experiment: str, revision: str, root: Path) -> Side:
    """One experiment of a revision, or of the workspace."""
    commit = None if revision == WORKSPACE else find_commit(revision, root)
    if commit is None and revision != WORKSPACE:
        raise UsageError(f"{target}: {revision} is no git revision and no dvc experiment here")
    state = WorkingTree(root) if commit is None else Revision(root, commit, revision)
    runs = _side(target, state).runs
    if experiment not in runs:
        raise UsageError(f"{target}: no run of {experiment} there{nearest(experiment, set(runs))}")
    return Side(target, {experiment: runs[experiment]}, chosen=True)


def _side(name: str, state: Snapshot) -> Side:
    """Everything that a state holds: what is evaluated there, else what is recorded."""
    runs = {**recorded_runs(state), **evaluated_runs(state)}
    if not runs:
        raise UsageError(
            f"{name}: holds no run: no reports/*/*/metrics.json and no results/*/*.json (build or "
            "`dvc pull` them, or name an experiment)"
        )
    return Side(name, runs, chosen=False)


def _of_file(path: Path, root: Path) -> Run:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise UsageError(f"{path}: not a recorded run; expected a file of results/")
    run = _recorded(content, WorkingTree(root))
    if run is None:
        raise UsageError(f"{path}: not a recorded run: experiment or seed is missing")
    return run


def recorded_runs(state: Snapshot) -> dict[str, list[Run]]:
    """The runs of ``results/`` by experiment."""
    runs = []
    for path in state.paths(RESULTS.as_posix()):
        if path.endswith(".json") and path.count("/") == 2:
            run = _recorded(_json(state, path), state)
            runs += [run] if run is not None else []
    return _grouped(runs)


def _recorded(content: Any, state: Snapshot) -> Run | None:
    if not isinstance(content, dict) or not {"experiment", "seed", "metrics"} <= content.keys():
        return None
    facts = {key: content.get(key) for key in ("commit", "dirty", "device", "seconds", "epochs")}
    return Run(
        str(content["experiment"]),
        int(content["seed"]),
        present(ExperimentConfig, content.get("params") or {}),
        present_names(content["metrics"]),
        facts,
        state,
    )


def evaluated_runs(state: Snapshot) -> dict[str, list[Run]]:
    """The runs of ``reports/`` by experiment, with the parameters that their models keep."""
    runs = []
    paths = [Path(path) for path in state.paths("reports")]
    folders = {path.parent for path in paths if path.name in ("metrics.json", "summary.json")}
    for folder in sorted(folders):
        if len(folder.parts) != 3 or not folder.name.isdecimal():
            continue
        experiment, seed = folder.parts[1:]
        config = _json(state, f"models/{experiment}/{seed}/prior/config.json") or {}
        params = present(ExperimentConfig, config.get("config", config))
        metrics = _json(state, f"{folder.as_posix()}/metrics.json")  # in git, or DVC has it
        if isinstance(metrics, dict):
            runs.append(Run(experiment, int(seed), params, present_names(metrics), {}, state))
    return _grouped(runs)


def _grouped(runs: list[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda item: (item.experiment, item.seed)):
        groups.setdefault(run.experiment, []).append(run)
    return groups


def _json(state: Snapshot, path: str) -> Any:
    content = state.read(path)
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        raise UsageError(f"{path} in {state.name}: not valid JSON") from None
