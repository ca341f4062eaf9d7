"""The command that compares results: ``compare``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["COMMANDS"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def compare(
    first: Annotated[str, typer.Argument(help="An experiment, or a file of results/.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Parameters and metrics that differ, with seed intervals."""
    from ldebm.results import compare as compare_results

    found = compare_results(first, second)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(found.lines()))


COMMANDS = [compare]
