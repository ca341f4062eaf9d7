"""Texts that are given to a trained model: of a file, of standard input, or from Python.

Files are read as those of a data set are (:mod:`ldebm.data.text_files`), with the core alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.data.columns import Table, require_column, text_column, texts, turns
from ldebm.data.text_files import decode, file_format, read_table, split_lines
from ldebm.errors import UsageError

__all__ = ["Texts", "as_texts", "read_stream", "read_texts"]


@dataclass(frozen=True)
class Texts:
    """Texts of a file.

    Attributes:
        texts: those that are not empty.
        rows: the line, or the row of a table, of each, from 1.
        turns: what was said before each, oldest first; None where the file has no contexts.
        left_out: rows of a table without text.
    """

    texts: list[str]
    rows: list[int]
    turns: list[list[str]] | None = None
    left_out: int = 0


def read_texts(path: Path, column: str | None = None, context: str | None = None) -> Texts:
    """The texts of a file of lines, or of a column of a csv, tsv, jsonl, json or parquet table.

    Empty lines, and rows without text, are left out.

    Args:
        path: the file.
        column: of a table; by default ``text`` or one named like it, or the only column of text.
        context: column of the turns before, as lists or with a turn a line.

    Raises:
        UsageError: the file is missing, damaged or has no such column; or no row has a text.
    """
    if not path.is_file():
        what = "a folder; expected a file of texts" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {what}")
    table = read_table(path)
    for name, option in ((column, "--text"), (context, "--context")):
        if name is not None:
            require_column(table, name, option, path)
    return _texts(table, column or text_column(table, path, [context or ""]), context, path)


def _texts(table: Table, column: str, context: str | None, path: Path) -> Texts:
    cells = texts(table[column], f"{path}: column {column!r}")
    plain = [" ".join((text or "").split()) for text in cells]
    kept = [index for index, text in enumerate(plain) if text]
    if not kept:
        raise UsageError(f"{path}: no text in it; expected some in column {column!r}")
    before = None
    if context is not None:
        said = turns(table[context], f"{path}: column {context!r}")
        before = [[" ".join(turn.split()) for turn in said[index]] for index in kept]
    rows = [index + 1 for index in kept]
    left_out = 0 if file_format(path) == ".txt" else len(plain) - len(kept)
    return Texts([plain[index] for index in kept], rows, before, left_out)


def read_stream(data: bytes) -> Texts:
    """The texts of standard input, one a line.

    Raises:
        UsageError: it is empty or no UTF-8 text.
    """
    where = "standard input"
    return _texts({"text": list(split_lines(decode(data, where)))}, "text", None, Path(where))


def as_texts(rows: Any) -> list[str]:
    """Texts as a list: a bare string is one text, not its letters.

    Raises:
        UsageError: something is no text.

    Example:
        >>> as_texts("hello"), as_texts(["a b", "c"])
        (['hello'], ['a b', 'c'])
    """
    if isinstance(rows, str):
        return [rows]
    listed: Sequence[Any] = list(rows)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise UsageError(f"texts: item {number} is {text!r:.40}; expected a string")
    return [str(text) for text in listed]
