"""Which recorded runs may stand in a table: those of the settings that their experiment has now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ldebm.config import ExperimentConfig, parse
from ldebm.errors import UsageError
from pipelines.library import Library
from pipelines.results.recorded import settings_of

__all__ = ["standing", "superseded_list"]

Run = Mapping[str, Any]


def standing(runs: Sequence[Run], library: Library) -> tuple[list[Run], dict[str, str]]:
    """Parts recorded runs.

    Args:
        runs: recorded ones.
        library: the experiments as they are now.

    Returns:
        Those whose settings are the present ones of their experiment; and for every other
        experiment what has changed since.
    """
    present: list[Run] = []
    superseded: dict[str, str] = {}
    experiments = {name: _now(name, library) for name in {run["experiment"] for run in runs}}
    for run in runs:
        reason = _reason(run, experiments[run["experiment"]])
        if reason:
            superseded[f"{run['experiment']}, seed {run['seed']}"] = reason
        else:
            present.append(run)
    return present, superseded


def _now(name: str, library: Library) -> dict[str, Any] | None:
    """The settings of an experiment; ``None`` where there is none of that name."""
    try:
        return settings_of(library.experiment(name).model_dump(mode="json"))
    except UsageError:
        return None


def _reason(run: Run, now: dict[str, Any] | None) -> str:
    """What differs between a run and the settings of its experiment; empty if nothing."""
    if now is None:
        return "its experiment is gone"
    try:
        params = parse(ExperimentConfig, run["params"], file=run["experiment"])
        then = settings_of(params.model_dump(mode="json"))
    except UsageError:
        return "its settings cannot be read any more"
    keys = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    parts = [f"{key} was {json.dumps(then.get(key))}" for key in keys[:3]]
    return ", ".join(parts) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def superseded_list(superseded: Mapping[str, str]) -> str:
    """The section of docs/results.md on what the tables leave out; empty if nothing."""
    if not superseded:
        return ""
    grouped: dict[str, list[str]] = {}
    for name, reason in superseded.items():
        grouped.setdefault(reason, []).append(name)
    lines = [
        "## Superseded\n",
        "Recorded runs whose experiments have other settings now; no table shows them.\n",
        *(f"* {'; '.join(names)}: {reason}" for reason, names in grouped.items()),
    ]
    return "\n".join(lines) + "\n"
