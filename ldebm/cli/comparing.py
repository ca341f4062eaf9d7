"""The command ``compare``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["COMMANDS"]

_TARGET = (
    "An experiment, EXPERIMENT@REVISION, a git revision, a dvc experiment, `workspace`, "
    "or a file of results/."
)


def compare(
    first: Annotated[str, typer.Argument(help=_TARGET)],
    second: Annotated[str, typer.Argument(help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show every metric.")] = False,
) -> None:
    """Parameters, metrics with seed intervals, curves, samples, code and data that differ."""
    from ldebm.files import json_text
    from ldebm.reporting.compare import compare as compare_targets
    from ldebm.reporting.comparison_text import lines

    found = compare_targets(first, second)
    if as_json:
        typer.echo(json_text(found.to_json()), nl=False)
    else:
        typer.echo("\n".join(lines(found, everything=everything)))


COMMANDS = [compare]
