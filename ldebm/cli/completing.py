"""The command ``complete``: fill the gaps of sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ldebm.cli import models
from ldebm.cli.output import progress

__all__ = ["COMMANDS"]


def complete(
    target: models.Target,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Sentences with ___ for every missing word; or use --from."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--from", "--file", help="Sentences, as `ldebm score` reads texts."),
    ] = None,
    column: models.Column = None,
    seed: models.Seed = 0,
    as_json: models.AsJson = False,
    device: models.Device = "auto",
) -> None:
    """Fill gaps: "the ___ of the company"."""
    rows = models.read_texts(texts, file, "complete", column)
    from ldebm.completion import read_gaps

    model = models.require_text(models.load_target(target, device), target)
    read_gaps(model, rows)  # a mistake is said before anything is trained
    if said := model.find_completer(progress):
        typer.echo(said, err=True)
    with progress("complete", len(rows), "texts") as bar:
        completed = model.complete(rows, seed, lambda n: bar.show(n, {}))
    if as_json:
        pairs = [{"text": a, "completed": b} for a, b in zip(rows, completed, strict=True)]
        typer.echo(json.dumps(pairs, indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(completed))


COMMANDS = [complete]
