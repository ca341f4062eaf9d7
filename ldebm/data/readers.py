"""Reading source files into one frame per data set, before anything is cleaned or split.

Every reader returns a polars frame with ``split`` (null where the source has none), ``line`` (of
the source file, from 1), the kind's columns and one column ``label.NAME`` per label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.corpora import CORPORA, read_corpus
from ldebm.data.label_columns import label_column, labels_among
from ldebm.data.packed import SPLITS
from ldebm.data.text_files import FORMATS, existing, numbered, read_table
from ldebm.data.turns import BASE
from ldebm.data.user_dialogues import holds_turns, read_user_dialogues
from ldebm.errors import UsageError

__all__ = ["read_source", "read_user_table"]

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
CORPUS_COLUMNS = {"group", *BASE}  # of a published corpus; the others are its labels
TURN_BREAK = "\n"  # between the turns of a context that is one text


def read_source(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Reads ``data/raw/<name>``.

    Raises:
        UsageError: a file is missing, empty, not UTF-8 or not what the parameters say.
    """
    if config.source == "file":
        return _read_user_file(config, raw)
    if config.source in CORPORA:
        return _marked(read_corpus(config, raw), CORPUS_COLUMNS)
    if config.kind == "points":
        parts = []
        for split in SPLITS:
            part = pl.read_parquet(existing(raw / f"{split}.parquet"))
            parts.append(numbered(part).with_columns(split=pl.lit(split)))
        return _marked(pl.concat(parts), {"line", "split", "x"})
    raise UsageError(
        f"source {config.source!r}: its files can be fetched but not prepared as {config.kind}; "
        f"prepared are gaussians16, pinwheel10, {', '.join(CORPORA)}, those of kind images, and "
        "file (`ldebm new NAME --from FILE`)"
    )


def _marked(frame: pl.DataFrame, own: set[str]) -> pl.DataFrame:
    """The frame with every column that is not among ``own`` named as a label."""
    labels = [n for n in frame.columns if n not in own and not labels_among([n])]
    return frame.rename({name: label_column(name) for name in labels})


def _read_user_file(config: DataConfig, raw: Path) -> pl.DataFrame:
    files = sorted(item for item in raw.glob("*") if item.suffix.lower() in FORMATS)
    if len(files) != 1:
        raise UsageError(f"{raw}: expected one file of {', '.join(FORMATS)}, found {len(files)}")
    return read_user_table(config, read_table(files[0]), files[0])


def read_user_table(config: DataConfig, table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """A user's table as preparing reads it.

    Args:
        config: which columns are what.
        table: the rows of the file.
        path: the file, for messages.

    Raises:
        UsageError: a column is missing, or rows are not what the parameters say.
    """
    for role in ("text", "label", "context", "dialogue", "turn", "speaker"):
        if role in config.columns:
            _require(table, config.columns[role], role, path)
    for label in config.labels:
        _require(table, label, "label", path)
    labels = list(dict.fromkeys([*config.labels, *_named(config, "label")]))
    if config.kind == "dialogues":
        _require(table, config.columns.get("text", "text"), "text", path)
        if holds_turns(config, table):
            table = table.with_columns(split=_split_column(table, path))
            table = numbered(table.drop("line", strict=False))
            return read_user_dialogues(config, table, labels, path)
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
        if table.select(columns["context"].list.len().max()).item() == 0:
            name = config.columns.get("context", "context")
            raise UsageError(
                f"{path}: every context is empty; is {name!r} the column of the turns before? "
                "Without contexts use kind: sentences"
            )
    for label in labels:
        # an empty cell of a csv is a missing label
        columns[label_column(label)] = pl.col(label).cast(pl.String).replace("", None)
    columns["split"] = _split_column(table, path)
    try:
        return numbered(table.select(**columns))
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
