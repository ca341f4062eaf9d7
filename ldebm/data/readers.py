"""Reading source files into one frame per data set, before anything is cleaned or split.

Every reader returns a polars frame with ``split`` (null where the source has none), ``line`` (of
the source file, from 1), the kind's columns and one column per label.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.packed import SPLITS
from ldebm.errors import UsageError

__all__ = ["FORMATS", "read_lines", "read_source", "read_table"]

FORMATS = (".txt", ".csv", ".jsonl", ".parquet")
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
TURN_BREAK = "\n"  # between the turns of a context that is one text


def read_source(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Reads ``data/raw/<name>``.

    Raises:
        UsageError: a file is missing, empty, not UTF-8 or not what the parameters say.
    """
    if config.source == "file":
        return _read_user_file(config, raw)
    if config.source == "ptb":
        return pl.concat([_lines_frame(raw / f"ptb.{split}.txt", split) for split in SPLITS])
    if config.source == "chatter":
        frame = pl.read_parquet(_existing(raw / "utterances.parquet"))
        return _numbered(frame).with_columns(split=pl.lit(None, pl.String))
    if config.kind == "points":
        parts = []
        for split in SPLITS:
            part = pl.read_parquet(_existing(raw / f"{split}.parquet"))
            parts.append(_numbered(part).with_columns(split=pl.lit(split)))
        return pl.concat(parts)
    raise UsageError(
        f"source {config.source!r}: its files can be fetched but not prepared as {config.kind}; "
        "prepared are gaussians16, pinwheel10, chatter, ptb, those of kind images, and file "
        "(`ldebm new NAME --from FILE`)"
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; fetch it first (`dvc repro`)")
    return path


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
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
    data = _existing(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
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


def _lines_frame(path: Path, split: str | None) -> pl.DataFrame:
    frame = _numbered(pl.DataFrame({"text": read_lines(path)}, schema={"text": pl.String}))
    return frame.with_columns(split=pl.lit(split, pl.String))


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
            if _existing(path).stat().st_size == 0:
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


def _read_user_file(config: DataConfig, raw: Path) -> pl.DataFrame:
    files = sorted(item for item in raw.glob("*") if item.suffix.lower() in FORMATS)
    if len(files) != 1:
        raise UsageError(f"{raw}: expected one file of {', '.join(FORMATS)}, found {len(files)}")
    path = files[0]
    table = read_table(path)
    for role in ("text", "label", "context"):
        if role in config.columns:
            _require(table, config.columns[role], role, path)
    for label in config.labels:
        _require(table, label, "label", path)
    columns: dict[str, Any] = {}
    if config.kind == "points":
        columns["x"] = _point_column(table, config, path)
    else:
        text = config.columns.get("text", "text")
        _require(table, text, "text", path)
        columns["text"] = pl.col(text).cast(pl.String)
    if config.kind == "dialogues":
        columns["context"] = _context_column(table, config, path)
        rows = pl.int_range(pl.len(), dtype=pl.Int64)
        there = table.columns
        columns["dialogue"] = pl.col("dialogue").cast(pl.Int64) if "dialogue" in there else rows
        columns["turn"] = pl.col("turn").cast(pl.Int32) if "turn" in there else pl.lit(0, pl.Int32)
    for label in dict.fromkeys([*config.labels, *_named(config, "label")]):
        # an empty cell of a csv is a missing label
        columns[label] = pl.col(label).cast(pl.String).replace("", None)
    columns["split"] = _split_column(table, path)
    try:
        return _numbered(table.select(**columns))
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: a column has values of another type ({reason})") from None


def _named(config: DataConfig, role: Any) -> list[str]:
    return [config.columns[role]] if role in config.columns else []


def _require(table: pl.DataFrame, column: str, role: str, path: Path) -> None:
    if column not in table.columns:
        raise UsageError(
            f"{path}: no column {column!r} for {role}; columns there: {', '.join(table.columns)}"
        )


def _point_column(table: pl.DataFrame, config: DataConfig, path: Path) -> pl.Expr:
    if "x" in config.columns:
        names = [name.strip() for name in config.columns["x"].split(",")]
        for name in names:
            _require(table, name, "x", path)
    else:
        labels = {*config.labels, *_named(config, "label"), "split", "id"}
        names = [
            name
            for name, kind in table.schema.items()
            if name not in labels and (kind.is_numeric() or path.suffix.lower() == ".csv")
        ]
    if len(names) == 1 and isinstance(table.schema[names[0]], pl.Array | pl.List):
        row = table[names[0]].drop_nulls().to_list()[:1]
        width = len(row[0]) if row else 0
        return pl.col(names[0]).cast(pl.Array(pl.Float32, width))
    if not names:
        raise UsageError(
            f"{path}: no numeric columns; columns there are: {', '.join(table.columns)}"
        )
    return pl.concat_arr([pl.col(name).cast(pl.Float32) for name in names])


def _is_list(table: pl.DataFrame, name: str) -> bool:
    return isinstance(table.schema[name], pl.List)


def _context_column(table: pl.DataFrame, config: DataConfig, path: Path) -> pl.Expr:
    name = config.columns.get("context", "context")
    _require(table, name, "context", path)
    if _is_list(table, name):
        return pl.col(name).cast(pl.List(pl.String)).fill_null([])
    turns = pl.col(name).cast(pl.String).fill_null("").str.split(TURN_BREAK)
    return turns.list.eval(pl.element().filter(pl.element().str.strip_chars() != ""))


def _split_column(table: pl.DataFrame, path: Path) -> pl.Expr:
    if "split" not in table.columns:
        return pl.lit(None, pl.String)
    found = set(table["split"].cast(pl.String).unique().to_list())
    unknown = sorted(map(str, found - set(SPLIT_NAMES)))
    if unknown:
        raise UsageError(
            f"{path}: column split holds {unknown[0]!r}; expected {', '.join(SPLIT_NAMES)}"
        )
    return pl.col("split").cast(pl.String).replace_strict(SPLIT_NAMES)
