"""The runs of ``dvc exp``, model by model: what was changed, and the few metrics of each run.

``dvc exp show`` has a column for every parameter and for every metric of every model; here a model
has a table of its own, with the runs that concern it, the parameters that differ between them and
the metrics of its ``summary.json``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldebm.errors import LdebmError
from pipelines.results.recorded import flatten

__all__ = ["Row", "Table", "experiment_tables", "rows_of", "show_experiments"]

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One state of the project.

    Attributes:
        name: of the dvc experiment or the revision.
        state: of an experiment that has not ended well: queued, running, failed.
        params: dotted key -> value.
        metrics: "EXPERIMENT, seed S" -> short name -> value.
    """

    name: str
    state: str
    params: Values
    metrics: Mapping[str, Values]


@dataclass(frozen=True)
class Table:
    """The runs that concern one model; cells are text."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)


def show_experiments(root: Path = Path()) -> list[Table]:
    """The tables of the experiments that start from HEAD, with HEAD and the working tree.

    Raises:
        LdebmError: dvc is missing or fails.
    """
    try:
        done = subprocess.run(
            ["dvc", "exp", "show", "--json"], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise LdebmError("dvc: no such program; pip install -e '.[pipeline]'") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LdebmError(f"dvc exp show: {lines[-1].removeprefix('ERROR: ')}")
    return experiment_tables(rows_of(json.loads(done.stdout)))


def rows_of(states: Sequence[Any]) -> list[Row]:
    """The rows in ``dvc exp show --json``: HEAD, the working tree if it differs, experiments."""
    tree, *rows = [row for state in states for row in _rows(state)]
    if not rows:
        return [tree]
    same = (tree.params, tree.metrics) == (rows[0].params, rows[0].metrics)
    return [rows[0], *([] if same else [tree]), *rows[1:]]


def _rows(state: Mapping[str, Any]) -> Iterator[Row]:
    yield _row(state, "")
    for run in state.get("experiments") or []:
        executor = (run.get("executor") or {}).get("state") or ""
        for revision in run["revs"][:1]:
            yield _row(revision, "" if executor == "success" else executor)


def _row(state: Mapping[str, Any], executor: str) -> Row:
    data = state.get("data") or {}
    params = ((data.get("params") or {}).get("params.yaml") or {}).get("data") or {}
    metrics = {}
    for path, content in (data.get("metrics") or {}).items():
        parts = Path(path).parts
        if len(parts) == 4 and parts[3] == "summary.json" and content.get("data"):
            metrics[f"{parts[1]}, seed {parts[2]}"] = content["data"]
    revision = str(state["rev"])
    name = state.get("name") or (revision if revision == "workspace" else revision[:7])
    return Row(name, executor, flatten(params), metrics)


def experiment_tables(rows: Sequence[Row]) -> list[Table]:
    """A table for every model that differs between the rows, of the first and those unlike it."""
    models = sorted({model for row in rows for model in row.metrics})
    tables = (_table(model, rows) for model in models)
    return [table for table in tables if len(table.rows) > 1]


def _table(model: str, rows: Sequence[Row]) -> Table:
    own = f"experiments.{model.partition(',')[0]}."
    data = {f"data.{row.params[own + 'data']}." for row in rows if own + "data" in row.params}
    parts = (own, "run.", *data)
    keys = sorted({key for row in rows for key in row.params if key.startswith(parts)})
    changed = [key for key in keys if len({_cell(row.params.get(key)) for row in rows}) > 1]
    names = sorted({name for row in rows for name in row.metrics.get(model, {})})
    shown = Table(model, ["run", *_short([k.removeprefix(own) for k in changed]), *names])
    first = rows[0]
    for row in rows:
        values = [row.params.get(key) for key in changed]
        metrics = row.metrics.get(model) or {}
        same = values == [first.params.get(key) for key in changed]
        if row is first or not same or (metrics and metrics != first.metrics.get(model)):
            name = f"{row.name} ({row.state})" if row.state else row.name
            shown.rows.append([name, *map(_cell, values), *(_cell(metrics.get(n)) for n in names)])
    return shown


def _short(keys: Sequence[str]) -> list[str]:
    """The shortest ends of dotted keys that tell them apart.

    Example:
        >>> _short(["prior.levels", "prior.training.updates", "backbone.training.updates"])
        ['levels', 'prior.training.updates', 'backbone.training.updates']
    """
    short = []
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1))
        short.append(next(e for e in ends if sum(f".{k}".endswith(f".{e}") for k in keys) == 1))
    return short


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
