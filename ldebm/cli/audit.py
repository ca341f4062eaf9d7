"""The command that looks back: ``lineage``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ldebm.errors import LdebmError, UsageError

__all__ = ["COMMANDS"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def lineage(
    words: Annotated[list[str], typer.Argument(metavar="[show|verify] TARGET")],
    as_json: AsJson = False,
) -> None:
    """Walk back from a file or experiment to raw data and parameters; `verify` checks the way."""
    from ldebm.trace import trace, verify

    action = words[0] if len(words) == 2 else "show"
    if len(words) > 2 or action not in {"show", "verify"}:
        raise UsageError("usage: ldebm lineage [show|verify] TARGET")
    found = trace(words[-1])
    if action == "show":
        typer.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(found.lines()))
        return
    problems = verify(found)
    if as_json:
        typer.echo(json.dumps({"target": found.target, "problems": problems}, indent=1))
    else:
        for line in problems:
            typer.echo(line)
    if problems:
        raise LdebmError(f"{found.target}: {len(problems)} things on the way differ")
    if not as_json:
        typer.echo(f"{found.target}: {len(found.steps)} stages verified, nothing differs")


COMMANDS = [lineage]
