"""What the commands ``generate``, ``classify`` and ``score`` do with a model of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ldebm.cli.output import class_records, expect_table, show_classes, show_rows
from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.model import Model

__all__ = ["classify_images", "generate_images", "parse_attributes", "score_images"]


def parse_attributes(given: list[str]) -> dict[str, int | str]:
    """``NAME=VALUE`` arguments.

    Raises:
        UsageError: one is not of this form, or names an attribute twice.

    Example:
        >>> parse_attributes(["Male=1", "Smiling=0"])
        {'Male': '1', 'Smiling': '0'}
    """
    found: dict[str, int | str] = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not (name and sign and value):
            raise UsageError(f"--attribute {item!r}: expected NAME=VALUE, for example Smiling=1")
        if name in found:
            raise UsageError(f"--attribute {name}: given twice")
        found[name] = value
    return found


def generate_images(
    model: Model,
    number: int,
    label: str | None,
    attributes: list[str],
    seed: int,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Draws images and writes them to a PNG or parquet file."""
    from ldebm.image_use import write_pictures

    if out is None or out.suffix.lower() not in (".png", ".parquet"):
        what = "" if out is None else f", not {out}"
        raise UsageError(f"{model.experiment}: a model of images: give --out FILE.png or "
                         f"FILE.parquet{what}")  # fmt: skip
    wanted = parse_attributes(attributes)
    if label is not None and wanted:
        raise UsageError("give --label or --attribute, not both")
    index = model.label_index(label)
    mode = model.config.evaluate.decode
    drawn = model.generate(number, index, seed, mode, wanted)
    columns: dict[str, Any] = {"seed": seed, **wanted}
    if index is not None:
        columns["label"] = model.class_labels()[index]
    write_pictures(out, drawn, columns)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps({"file": str(out), "images": number, **columns}))
    else:
        typer.echo(f"{out}: {number} images")


def classify_images(model: Model, file: Path | None, *, resize: bool, as_json: bool) -> None:
    """Gives every image its most probable class, and every attribute its probability."""
    from ldebm.image_use import read_pictures

    if file is None:
        raise UsageError(f"{model.experiment}: a model of images: give --file with the images")
    model.label_index(0)  # says what is wrong where the prior knows no label
    found = read_pictures(file, model.meta, resize=resize)
    names = model.class_labels()
    records = class_records(model.classify(found.pixels), names)
    rows = [{"image": place, **row} for place, row in zip(found.places, records, strict=True)]
    show_classes(rows, "image", as_json=as_json)


def score_images(
    model: Model, file: Path, out: Path | None, seed: int, *, resize: bool, as_json: bool
) -> None:
    """Writes or prints energies and bounds, one row an image."""
    from ldebm.image_use import read_pictures

    expect_table(out)
    found = read_pictures(file, model.meta, resize=resize)
    rows = model.score(found.pixels, seed).rows(found.places)
    show_rows(rows, out, "image", "images", as_json=as_json)
