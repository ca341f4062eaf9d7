"""Reading source files into one frame per data set, before anything is cleaned or split.

Every reader returns a polars frame with ``split`` (null where the source has none), ``line`` (of
the source file, from 1), the kind's columns, and one column ``label.NAME`` per label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.config import DataConfig
from ldebm.data.corpora import CORPORA, read_corpus
from ldebm.data.frames import numbered
from ldebm.data.label_columns import label_column, labels_among
from ldebm.data.packed import SPLITS
from ldebm.data.split_names import stated_split
from ldebm.data.text_files import FORMATS, Table, existing, file_format, read_table
from ldebm.data.turns import BASE
from ldebm.data.user_dialogues import holds_turns, read_user_dialogues
from ldebm.data.user_tables import column_of, label_names_of, require_column
from ldebm.data.values import kind_of, labels, numbers, texts, turns
from ldebm.errors import UsageError

__all__ = ["read_source", "read_user_table"]

CORPUS_COLUMNS = {"group", *BASE}  # of a published corpus; the others are its labels


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
    files = sorted(item for item in raw.glob("*") if file_format(item))
    if len(files) != 1:
        raise UsageError(f"{raw}: expected one file of {', '.join(FORMATS)}, found {len(files)}")
    return read_user_table(config, read_table(files[0]), files[0])


def read_user_table(config: DataConfig, table: Table, path: Path) -> pl.DataFrame:
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
            require_column(table, config.columns[role], role, path)
    names = label_names_of(config)
    for name in names:
        require_column(table, name, "label", path)
    splits = _splits(config, table, path)
    if config.kind == "dialogues" and holds_turns(config, table):
        return read_user_dialogues(config, table, names, splits, path)
    rows = len(splits)
    columns: dict[str, Any] = {}
    if config.kind == "points":
        columns["x"] = _points(config, table, path)
    else:
        text = column_of(config, table, "text") or "text"
        require_column(table, text, "text", path)
        columns["text"] = pl.Series(texts(table[text], f"{path}: column {text!r}"), dtype=pl.String)
    if config.kind == "dialogues":
        columns |= _contexts(config, table, path, rows)
    for name in names:
        values = labels(table[name], f"{path}: column {name!r}")
        columns[label_column(name)] = pl.Series(values, dtype=pl.String)
    columns["split"] = pl.Series(splits, dtype=pl.String)
    return numbered(pl.DataFrame(columns))


def _points(config: DataConfig, table: Table, path: Path) -> pl.Series:
    """Coordinates, float32: of the named columns, or of all that hold numbers."""
    if "x" in config.columns:
        names = [name.strip() for name in config.columns["x"].split(",")]
        for name in names:
            require_column(table, name, "x", path)
    else:
        taken = {*label_names_of(config), "split", "id"}
        names = [
            name
            for name, values in table.items()
            if name not in taken and kind_of(values) in ("numbers", "vectors")
        ]
    if not names:
        raise UsageError(f"{path}: no numeric columns; columns there are: {', '.join(table)}")
    parts = [_coordinates(table[name], f"{path}: column {name!r}") for name in names]
    x = np.concatenate(parts, axis=1).astype(np.float32)
    return pl.Series(x, dtype=pl.Array(pl.Float32, x.shape[1]))


def _coordinates(values: Sequence[Any], where: str) -> np.ndarray:
    if kind_of(values) != "vectors":
        return np.array(numbers(values, where), dtype=np.float64)[:, None]
    width = len(next(value for value in values if value))
    missing = [np.nan] * width
    rows = [numbers(value, where) if value else missing for value in values]
    wrong = next((i for i, row in enumerate(rows, 1) if len(row) != width), None)
    if wrong is not None:
        raise UsageError(f"{where}: row {wrong} has {len(rows[wrong - 1])} numbers, row 1 {width}")
    return np.array(rows, dtype=np.float64)


def _contexts(config: DataConfig, table: Table, path: Path, rows: int) -> dict[str, pl.Series]:
    """Columns of a table that has the turns before every row."""
    name = column_of(config, table, "context") or "context"
    require_column(table, name, "context", path)
    context = turns(table[name], f"{path}: column {name!r}")
    if not any(context):
        raise UsageError(
            f"{path}: every context is empty; is {name!r} the column of the turns before? "
            "Without contexts use kind: sentences"
        )
    dialogue, turn = (column_of(config, table, role) for role in ("dialogue", "turn"))
    keys = texts(table[dialogue], f"{path}: column {dialogue!r}") if dialogue else []
    known = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    order = numbers(table[turn], f"{path}: column {turn!r}") if turn else [0.0] * rows
    if np.isnan(order).any():
        row = int(np.isnan(order).argmax()) + 1
        raise UsageError(f"{path}: row {row}: no number of the turn in column {turn!r}")
    return {
        "context": pl.Series(context, dtype=pl.List(pl.String)),
        "dialogue": pl.Series([known[key] for key in keys] or range(rows), dtype=pl.Int64),
        "turn": pl.Series([int(value) for value in order], dtype=pl.Int32),
    }


def _splits(config: DataConfig, table: Table, path: Path) -> list[str | None]:
    """The split of every row: of the column ``split`` where that is none of the labels."""
    name = column_of(config, table, "split")
    if name is None:
        return [None] * max(map(len, table.values()))
    return [
        stated_split(value, f"{path}: row {row}: column {name!r}")
        for row, value in enumerate(table[name], 1)
    ]
