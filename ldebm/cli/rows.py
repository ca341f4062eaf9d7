"""Commands that read every row of a user's file with a model: scores and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ldebm.cli.images import score_images
from ldebm.cli.models import AsJson, Resize, Seed, Target, load_target
from ldebm.cli.output import expect_table, show_rows
from ldebm.errors import UsageError

__all__ = ["COMMANDS"]

Column = Annotated[str | None, typer.Option("--text", help="Column of the text, of a table.")]


def score(
    target: Target,
    file: Annotated[
        Path,
        typer.Option(
            help="Texts: txt (one a line), csv, jsonl, parquet. Images: a file, folder, zip, npz "
            "or parquet."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="FILE.parquet or FILE.json; by default the screen.")
    ] = None,
    text: Column = None,
    importance: Annotated[
        int, typer.Option(min=2, help="Texts: trajectories of the bound, for each.")
    ] = 100,
    resize: Resize = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say how familiar rows are to a model: bound of the likelihood, and energy."""
    model = load_target(target)
    if model.is_image:
        score_images(model, file, out, seed, resize=resize, as_json=as_json)
        return
    if not model.is_text:
        raise UsageError(f"{target}: a model of points; scores are of models of text and of images")
    from ldebm.text_use import read_texts, score_texts

    expect_table(out)
    found = read_texts(file, text)
    rows = score_texts(model, found.texts, seed, importance).records(found)
    show_rows(rows, out, "text", "texts", as_json=as_json)


def export_embeddings(
    target: Target,
    source: Annotated[
        Path, typer.Option("--from", help="Texts or images, as `ldebm score` reads them.")
    ],
    to: Annotated[Path, typer.Option("--to", help="FILE.parquet, which is written.")],
    text: Column = None,
    resize: Resize = False,
) -> None:
    """Write the posterior mean of every row, and its class, to a parquet file."""
    if to.suffix.lower() != ".parquet":
        raise UsageError(f"{to}: expected a file name that ends in .parquet")
    from ldebm.files import write_parquet
    from ldebm.text_use import embed, read_texts

    model = load_target(target)
    columns: dict[str, Any]
    if model.is_image:
        from ldebm.image_use import read_pictures

        pictures = read_pictures(source, model.meta, resize=resize)
        columns, rows = {"image": pictures.places}, pictures.pixels
    elif model.is_text:
        found = read_texts(source, text)
        columns, rows = {"row": found.rows, "text": found.texts}, found.texts  # type: ignore[assignment]
    else:
        raise UsageError(f"{target}: a model of points; its embeddings are points again")
    columns["embedding"] = embed(model, rows)
    if model.prior.has_classes:
        p = model.classify(rows)
        names = model.class_labels()
        columns["class"] = [names[int(index)] for index in p.argmax(1)]
        columns["probability"] = p.max(1)
    write_parquet(to, columns)
    typer.echo(f"{to}: {len(rows)} rows of {columns['embedding'].shape[1]} numbers")


COMMANDS = [score, export_embeddings]
