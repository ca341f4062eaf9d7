"""What commands do with one record a row: a file, JSON, or lines on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.training.progress import Progress

__all__ = ["expect_table", "progress", "show_rows"]

PAUSE = 10.0  # seconds between lines of progress


def progress(title: str, total: int, unit: str) -> Progress:
    """Progress of a command on stderr: a bar on a terminal, else a line every ten seconds."""
    from ldebm.training.progress import Progress

    return Progress(title, total, unit=unit, pause=PAUSE)


def expect_table(out: Path | None) -> None:
    """Refuses names of files that records are not written to, before anything is computed.

    Raises:
        UsageError: the name ends neither in .parquet nor in .json.
    """
    if out is not None and out.suffix.lower() not in (".parquet", ".json"):
        raise UsageError(f"{out}: expected a file name that ends in .parquet or .json")


def show_rows(
    rows: list[dict[str, Any]], out: Path | None, name: str, what: str, *, as_json: bool
) -> None:
    """Writes records to ``out``, or prints their numbers with what is called ``name`` last.

    Args:
        rows: one record a row, at least one; what is neither ``name`` nor "row" is a number.
        out: parquet or JSON, as :func:`expect_table` wants it; None: the screen.
        name: the key of the row itself.
        what: the rows are, for the line that says what was written.
        as_json: print JSON.
    """
    from ldebm.files import write_json, write_parquet

    if out is not None and out.suffix.lower() == ".parquet":
        write_parquet(out, {key: [row[key] for row in rows] for key in rows[0]})
    elif out is not None:
        write_json(out, rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if out is not None:
        typer.echo(f"{out}: {len(rows)} {what}")
        return
    numbers = [key for key in rows[0] if key not in ("row", name)]
    typer.echo("\t".join([*numbers, name]))
    for row in rows:
        typer.echo("\t".join([*(f"{row[key]:.3f}" for key in numbers), row[name]]))
