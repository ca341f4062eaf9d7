"""Commands that read every row of a user's file with a model: scores and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldebm.cli.images import score_images
from ldebm.cli.models import AsJson, Column, Resize, Seed, Target, file_texts, load_target
from ldebm.cli.output import expect_table, progress, show_rows
from ldebm.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from ldebm.model import Model

    Encoded = tuple[dict[str, Any], np.ndarray, np.ndarray | None]

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
            help="Texts: txt (one a line), csv, tsv, jsonl, json, parquet. Images: a file, "
            "folder, zip, npz or parquet."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="FILE.parquet or FILE.json; by default the screen.")
    ] = None,
    text: Column = None,
    context: Context = None,
    importance: Annotated[
        int, typer.Option(min=2, help="Texts: trajectories of the bound, for each.")
    ] = 100,
    resize: Resize = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Score rows: likelihood bound and energy."""
    model = load_target(target)
    if model.is_image:
        score_images(model, file, out, seed, resize=resize, as_json=as_json)
        return
    if not model.is_text:
        raise UsageError(f"{target}: a model of points; scores are of models of text and of images")
    from ldebm.text_use import known_of, score_texts

    expect_table(out)
    found = file_texts(file, text, context)
    _, said = known_of(model)
    if said:
        typer.echo(f"{model.experiment}: log Z of its prior is estimated; {said}", err=True)
    with progress("score", len(found.texts), "texts") as bar:
        scores = score_texts(
            model, found.texts, found.turns, seed, importance, done=lambda n: bar.show(n, {})
        )
    show_rows(scores.records(found), out, "text", "texts", as_json=as_json)


def export_embeddings(
    target: Target,
    source: Annotated[
        Path, typer.Option("--from", help="Texts or images, as `ldebm score` reads them.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The file to write, FILE.parquet.")],
    text: Column = None,
    context: Context = None,
    resize: Resize = False,
) -> None:
    """Write embeddings of rows to parquet.

    The posterior mean of every row, and its most probable class.
    """
    if to.suffix.lower() != ".parquet":
        raise UsageError(f"{to}: expected a file name that ends in .parquet")
    from ldebm.files import write_parquet

    model = load_target(target)
    if not (model.is_image or model.is_text):
        raise UsageError(f"{target}: a model of points; its embeddings are points again")
    read = _read_images if model.is_image else _read_texts
    columns, embedding, p = read(model, source, text, context, resize=resize)
    columns["embedding"] = embedding
    if p is not None:
        names = model.class_labels()
        columns["class"] = [names[int(index)] for index in p.argmax(1)]
        columns["probability"] = p.max(1)
    write_parquet(to, columns)
    typer.echo(f"{to}: {len(embedding)} rows of {embedding.shape[1]} numbers")


def _read_texts(
    model: Model, source: Path, text: str | None, context: str | None, *, resize: bool
) -> Encoded:
    """Columns of the texts, their posterior means and p(y|x)."""
    import numpy as np

    from ldebm.text_use import class_probabilities, encode_texts

    if resize:
        raise UsageError(f"{model.experiment}: a model of text; leave --resize out")
    found = file_texts(source, text, context)
    z, logits = encode_texts(model, found.texts, found.turns)
    if model.prior.levels:
        logits = class_probabilities(model, found.texts, found.turns)
    elif logits is not None:
        logits = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return {"row": found.rows, "text": found.texts}, z, logits


def _read_images(
    model: Model, source: Path, text: str | None, context: str | None, *, resize: bool
) -> Encoded:
    from ldebm.image_use import read_pictures

    if text or context:
        raise UsageError(f"{model.experiment}: a model of images; leave --text and --context out")
    found = read_pictures(source, model.meta, resize=resize)
    p = model.classify(found.pixels) if model.prior.has_classes else None
    return {"image": found.places}, model.encode(found.pixels), p


COMMANDS = [score, export_embeddings]
