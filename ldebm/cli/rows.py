"""Commands that read every row of a user's file with a model: scores and embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ldebm.cli.models import (
    AsJson,
    Column,
    Device,
    Resize,
    Seed,
    Target,
    load_target,
    read_rows,
)
from ldebm.cli.output import expect_table, progress, show_rows
from ldebm.errors import UsageError

__all__ = ["COMMANDS"]

Context = Annotated[
    str | None,
    typer.Option("--context", help="Dialogue models: the column with the previous turns."),
]


def score(
    target: Target,
    file: Annotated[
        Path,
        typer.Option(
            "--from",
            "--file",
            help="Texts: txt (one a line), csv, tsv, jsonl, json, parquet. Images: a file, "
            "folder, zip, npz or parquet.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--to", "--out", help="FILE.parquet or FILE.json; by default the screen."),
    ] = None,
    text: Column = None,
    context: Context = None,
    importance: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Texts: trajectories of the bound, for each; by default 32, with --fast 8. More "
            "are slower and give a tighter bound.",
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Texts: several times as fast, with looser bounds that rank texts nearly alike.",
        ),
    ] = False,
    resize: Resize = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Score rows: likelihood bound and energy."""
    model = load_target(target, device)
    if model.rows != "texts" and (fast or importance is not None):
        option = "--fast" if fast else "--importance"
        raise UsageError(f"{option}: for models of texts; {target} is one of {model.rows}")
    expect_table(out)
    rows = read_rows(model, file, text, context, resize=resize)
    if said := model.prepare_scores():
        typer.echo(f"{model.experiment}: log Z of its prior is estimated; {said}", err=True)
    with progress("score", len(rows), model.rows) as bar:
        records = model.scored(
            rows, seed, lambda n: bar.show(n, {}), importance=importance, fast=fast
        )
    show_rows(records, out, rows.name, model.rows, as_json=as_json)


def export_embeddings(
    target: Target,
    source: Annotated[
        Path, typer.Option("--from", help="Texts or images, as `ldebm score` reads them.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The file to write, FILE.parquet.")],
    text: Column = None,
    context: Context = None,
    resize: Resize = False,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Write embeddings of rows to parquet.

    The posterior mean of every row, and its most probable class.
    """
    if to.suffix.lower() != ".parquet":
        raise UsageError(f"{to}: expected a file name that ends in .parquet")
    from ldebm.files import write_parquet

    model = load_target(target, device)
    rows = read_rows(model, source, text, context, resize=resize)
    embedding, p = model.encoded(rows)
    columns: dict[str, Any] = {**rows.columns, "embedding": embedding}
    if p is not None:
        names = model.class_labels()
        columns["class"] = [names[int(index)] for index in p.argmax(1)]
        columns["probability"] = p.max(1)
    write_parquet(to, columns)
    if as_json:
        done = {"file": str(to), "rows": len(embedding), "numbers": embedding.shape[1]}
        typer.echo(json.dumps(done))
    else:
        typer.echo(f"{to}: {len(embedding)} rows of {embedding.shape[1]} numbers")


COMMANDS = [score, export_embeddings]
