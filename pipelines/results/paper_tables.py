"""The papers' tables with our numbers beside the published ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.results.published import Column, PublishedTable, System
from pipelines.results.recorded import by_experiment, devices, lengths, summary

__all__ = ["NOT_MEASURED", "NOT_RUN", "SUPERSEDED", "TOO_SHORT", "beside_the_paper"]

NOT_RUN, NOT_MEASURED = "not run", "not measured"
TOO_SHORT, SUPERSEDED = "too short", "superseded"

Run = Mapping[str, Any]


def beside_the_paper(
    table: PublishedTable, runs: Sequence[Run], superseded: Collection[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a paper's table: every column as published, where it was, and as ours.

    A system that has an experiment without runs says so in its cells, and so does one whose first
    stage had less than half of the updates of the longest of the published systems; a system
    without experiment has empty ones.

    Args:
        table: of the paper.
        runs: recorded ones, of any data sets.
        superseded: experiments whose records are of other settings.
    """
    shown = [
        any(system.value(i) is not None for system in table.systems)
        for i in range(len(table.columns))
    ]
    columns = ["system", "experiment", "seeds", "updates", "device"]
    for column, published in zip(table.columns, shown, strict=True):
        columns += [f"{column.label}: paper", "ours"] if published else [f"{column.label}: ours"]
    groups, rows = by_experiment(runs), []
    longest = max(
        (
            first_updates(run)
            for system in table.systems
            for part in table.parts
            for run in groups.get(system.experiment_of(part), [])
            if any(system.value(i) is not None for i in range(len(table.columns)))
        ),
        default=0,
    )
    for system in table.systems:
        of_part = {part: groups.get(system.experiment_of(part), []) for part in table.parts}
        ran = [run for group in of_part.values() for run in group]
        short = any(0 < first_updates(run) < longest / 2 for run in ran)
        name = system.experiment_of("*")
        seeds = "/".join(str(len(group)) for group in of_part.values()) if name else ""
        cells = [system.name, name, seeds, lengths(ran) if ran else "", devices(ran)]
        for i, column in enumerate(table.columns):
            value = system.value(i)
            cells += ["" if value is None else f"{value:g}"] if shown[i] else []
            ours = TOO_SHORT if short else _ours(system, i, column, of_part[column.part])
            gone = ours == NOT_RUN and system.experiment_of(column.part) in superseded
            cells.append(SUPERSEDED if gone else ours)
        rows.append(cells)
    return columns, rows


def first_updates(run: Run) -> int:
    """Updates of the first stage of a run; 0 where none is recorded."""
    return int(run.get("updates", {}).get("backbone") or 0)


def _ours(system: System, index: int, column: Column, runs: Sequence[Run]) -> str:
    metric = column.metric if system.metrics is None else system.metrics[index]
    if not system.experiment or not metric:
        return ""
    if not runs:
        return NOT_RUN
    return summary(runs, metric, column.scale) or NOT_MEASURED
