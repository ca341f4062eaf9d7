"""The papers' tables with our numbers beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.results.published import Column, PublishedTable, System
from pipelines.results.recorded import by_experiment, devices, lengths, summary

__all__ = ["NOT_MEASURED", "NOT_RUN", "beside_the_paper"]

NOT_RUN, NOT_MEASURED = "not run", "not measured"

Run = Mapping[str, Any]


def beside_the_paper(
    table: PublishedTable, runs: Sequence[Run]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a paper's table: every column as published, where it was, and as ours.

    A system that has an experiment without runs says so in its cells; a system without experiment
    has empty ones.

    Args:
        table: of the paper.
        runs: recorded ones, of any data sets.
    """
    shown = [
        any(system.value(i) is not None for system in table.systems)
        for i in range(len(table.columns))
    ]
    columns = ["system", "experiment", "seeds", "updates", "device"]
    for column, published in zip(table.columns, shown, strict=True):
        columns += [f"{column.label}: paper", "ours"] if published else [f"{column.label}: ours"]
    groups, rows = by_experiment(runs), []
    for system in table.systems:
        of_part = {part: groups.get(system.experiment_of(part), []) for part in table.parts}
        ran = [run for group in of_part.values() for run in group]
        name = system.experiment_of("*")
        seeds = "/".join(str(len(group)) for group in of_part.values()) if name else ""
        cells = [system.name, name, seeds, lengths(ran) if ran else "", devices(ran)]
        for i, column in enumerate(table.columns):
            value = system.value(i)
            cells += ["" if value is None else f"{value:g}"] if shown[i] else []
            cells.append(_ours(system, i, column, of_part[column.part]))
        rows.append(cells)
    return columns, rows


def _ours(system: System, index: int, column: Column, runs: Sequence[Run]) -> str:
    metric = column.metric if system.metrics is None else system.metrics[index]
    if not system.experiment or not metric:
        return ""
    if not runs:
        return NOT_RUN
    return summary(runs, metric, column.scale) or NOT_MEASURED
