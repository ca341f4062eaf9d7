"""The commands ``compare``, ``experiments`` and ``list``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

__all__ = ["compare", "experiments", "list_experiments"]

_TARGET = (
    "An experiment, EXPERIMENT@REVISION, a git revision, a dvc experiment, `workspace`, "
    "or a file of results/."
)


def compare(
    first: Annotated[str, typer.Argument(help=_TARGET)],
    second: Annotated[str, typer.Argument(help="What to compare it with.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show also what does not differ.")
    ] = False,
) -> None:
    """Compare two experiments or revisions.

    Parameters, metrics with intervals over seeds, curves, samples, code and data.
    """
    from ldebm.files import json_text
    from pipelines.compare.compare import compare as compare_targets
    from pipelines.compare.text import lines

    comparisons = compare_targets(first, second)
    if as_json:
        typer.echo(json_text(comparisons.to_json()), nl=False)
    else:
        typer.echo("\n".join(lines(comparisons, everything=everything)))


def experiments(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs of `dvc exp`.

    Model by model: the changed parameters and the metrics.
    """
    from rich.console import Console
    from rich.table import Table

    from pipelines.compare.experiments import show_experiments

    tables = show_experiments()
    if as_json:
        typer.echo(json.dumps([asdict(table) for table in tables], indent=1))
        return
    if not tables:
        typer.echo("no experiment differs from HEAD; `dvc exp run -S KEY=VALUE` makes one")
    console = Console(highlight=False, markup=False)
    for item in tables:
        table = Table(title=item.title, title_justify="left", box=None, pad_edge=False)
        for number, name in enumerate(item.header):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in item.rows:
            table.add_row(*row)
        console.print(table)
        console.print()


def list_experiments(
    names: Annotated[
        list[str] | None, typer.Argument(help="Groups or experiments; default: all.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Only what is selected or built here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List experiments, their state and main metric.

    Those of conf/: whether they are built here, whether `dvc repro` would run
    them again, how many runs are recorded, and the main number. A star marks
    what params.yaml selects.
    """
    from rich.console import Console
    from rich.table import Table

    from pipelines.listing import entries

    listed = entries(names=names or (), here=here)
    if as_json:
        typer.echo(json.dumps([entry.to_json() for entry in listed], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "experiment", "state", "seeds", "recorded", "main metric"):
        table.add_column(column, overflow="fold", no_wrap=column in ("", "state"))
    for entry in listed:
        seeds = ",".join(map(str, entry.seeds))
        star = "*" if entry.selected else ""
        runs = str(entry.recorded or "")
        table.add_row(star, entry.name, entry.state, seeds, runs, entry.headline)
    Console(highlight=False, markup=False).print(table)
