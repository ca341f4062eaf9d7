"""What the commands ``generate``, ``classify`` and ``score`` do with a model of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.model import Model

__all__ = ["generate_images", "parse_attributes"]


def parse_attributes(wanted: list[str]) -> dict[str, int | str]:
    """``NAME=VALUE`` arguments.

    Raises:
        UsageError: one is not of this form, or names an attribute twice.

    Example:
        >>> parse_attributes(["Male=1", "Smiling=0"])
        {'Male': '1', 'Smiling': '0'}
    """
    attributes: dict[str, int | str] = {}
    for item in wanted:
        name, sign, value = item.partition("=")
        if not (name and sign and value):
            raise UsageError(f"--attribute {item!r}: expected NAME=VALUE, for example Smiling=1")
        if name in attributes:
            raise UsageError(f"--attribute {name}: given twice")
        attributes[name] = value
    return attributes


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
    from ldebm.modalities.images import write_pictures

    if out is None or out.suffix.lower() not in (".png", ".parquet"):
        what = "" if out is None else f", not {out}"
        raise UsageError(f"{model.experiment}: a model of images: give --to FILE.png or "
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
    write_pictures(out, drawn, columns)
    if as_json:
        typer.echo(json.dumps({"file": str(out), "images": number, **columns}))
    else:
        typer.echo(f"{out}: {number} images")
