"""Frames of source rows, which are numbered by the lines of their file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ldebm.data.text_files import read_lines

__all__ = ["lines_frame", "numbered"]


def numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the number of every row, from 1, as ``line``."""
    return frame.with_row_index("line", offset=1).with_columns(pl.col("line").cast(pl.Int64))


def lines_frame(path: Path, split: str | None) -> pl.DataFrame:
    """One row a line: ``line``, ``text``, ``split``."""
    frame = numbered(pl.DataFrame({"text": read_lines(path)}, schema={"text": pl.String}))
    return frame.with_columns(split=pl.lit(split, pl.String))
