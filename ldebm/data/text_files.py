"""Files of text as they come: decoded, in lines, as tables or as JSON, with errors that name the
file and the line.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl

from ldebm.errors import UsageError

__all__ = ["FORMATS", "existing", "lines_frame", "numbered", "read_json_file", "read_lines",
           "read_table"]  # fmt: skip

FORMATS = (".txt", ".csv", ".jsonl", ".parquet")


def existing(path: Path) -> Path:
    """The path of a fetched file.

    Raises:
        UsageError: it is not there.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; fetch it first (`dvc repro`)")
    return path


def numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the number of every row, from 1, as ``line``."""
    return frame.with_row_index("line", offset=1).with_columns(pl.col("line").cast(pl.Int64))


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without line ends.

    Raises:
        UsageError: it is missing, empty or not UTF-8; the message has the line.
    """
    data = _decoded(path)
    lines = data.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _decoded(path: Path) -> str:
    data = existing(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise UsageError(f"{path}: the file is empty; a data set needs at least one row")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}: line {line} is not UTF-8 text (byte 0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None


def lines_frame(path: Path, split: str | None) -> pl.DataFrame:
    """One row a line: ``line``, ``text``, ``split``."""
    frame = numbered(pl.DataFrame({"text": read_lines(path)}, schema={"text": pl.String}))
    return frame.with_columns(split=pl.lit(split, pl.String))


def read_json_file(path: Path) -> Any:
    """What a JSON file, which may be gzipped, holds.

    Raises:
        UsageError: it is missing, damaged or not JSON.
    """
    data = existing(path).read_bytes()
    try:
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: cannot be read as JSON ({reason})") from None


def read_table(path: Path) -> pl.DataFrame:
    """Reads a txt, csv, jsonl or parquet file; csv columns are all text.

    Raises:
        UsageError: the format is not one of these, or the file cannot be read as that.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: format {suffix or 'unknown'!r}; expected {', '.join(FORMATS)}")
    if suffix == ".txt":
        return pl.DataFrame({"text": read_lines(path)}, schema={"text": pl.String})
    try:
        if suffix == ".parquet":
            if existing(path).stat().st_size == 0:
                raise UsageError(f"{path}: the file is empty; a data set needs at least one row")
            frame = pl.read_parquet(path)
        elif suffix == ".csv":
            frame = pl.read_csv(io.BytesIO(_decoded(path).encode()), infer_schema=False)
        else:
            frame = pl.read_ndjson(io.BytesIO(_decoded(path).encode()), infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: cannot be read as {suffix[1:]} ({reason})") from None
    if frame.height == 0:
        raise UsageError(f"{path}: the file has no rows; a data set needs at least one")
    return frame
