"""What commands do with one record a row: a file, JSON, or lines on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ldebm.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from ldebm.training.progress import Progress

__all__ = ["class_records", "expect_table", "progress", "show_classes", "show_rows"]

SURE = 0.8  # probability of a class, below: the model is unsure

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


def class_records(p_NK: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """Of every row the most probable class, the next one, and whether the model is sure.

    Args:
        p_NK: probabilities of the classes.
        names: of the classes.
    """
    records = []
    for p in p_NK:
        first, *others = p.argsort(kind="stable")[::-1][:2]
        record = {"label": names[first], "probability": round(float(p[first]), 4)}
        record["sure"] = bool(p[first] >= SURE)
        for other in others:
            record["next"] = {"label": names[other], "probability": round(float(p[other]), 4)}
        records.append(record)
    return records


def show_classes(records: list[dict[str, Any]], name: str, *, as_json: bool) -> None:
    """Prints classes: label, probability, the row itself, and where the model is unsure, why.

    Args:
        records: of :func:`class_records`, with the row under ``name`` and its unknown words.
        name: the key of the row itself.
        as_json: print JSON.
    """
    if as_json:
        typer.echo(json.dumps(records, indent=1, ensure_ascii=False))
        return
    for row in records:
        columns = [row["label"], f"{row['probability']:.3f}", row[name]]
        doubts = []
        if not row["sure"]:
            near = row.get("next")
            doubts.append("unsure" + (f", or {near['label']}" if near else ""))
        if row.get("unknown"):
            doubts.append(f"unknown: {' '.join(row['unknown'])}")
        typer.echo("\t".join(columns + ([f"({'; '.join(doubts)})"] if doubts else [])))
