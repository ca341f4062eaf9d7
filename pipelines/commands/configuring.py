"""The command ``config``: what a key of params.yaml means."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["config"]


def config(
    key: Annotated[
        str | None, typer.Argument(help="A key or its end: prior.levels. Default: all sections.")
    ] = None,
) -> None:
    """Explain a key of params.yaml.

    What it means, its type and its default.
    """
    from pipelines.reference import find, tables

    if key is None:
        for table in tables():
            typer.echo(table.places[0] or "params.yaml")
            typer.echo(f"  {', '.join(entry.key for entry in table.entries)}")
        return
    for places, entry in find(key):
        typer.echo("\n".join([*places, entry.text]))
