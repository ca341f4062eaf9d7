"""Columns of a user's data: which is what, and their values of whatever type a file gives them.

A missing value is None, NaN, or an empty cell. Whole numbers read the same whether a file has them
as 1, 1.0 or text.

Frames and prepared tables hold a label called ``line`` as ``label.line``, so that it may have the
name of a column of the pipeline; the profile, packed data and messages say ``line``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from ldebm.config import DataConfig
from ldebm.errors import UsageError

__all__ = [
    "MAX_CLASSES",
    "SPLIT_WORDS",
    "Table",
    "column_of",
    "is_list",
    "kind_of",
    "label_column",
    "label_names",
    "label_names_of",
    "label_texts",
    "labels",
    "labels_among",
    "numbers",
    "require_column",
    "split_of",
    "stated_split",
    "text_column",
    "texts",
    "turns",
    "whole_numbers",
]  # fmt: skip

Table = dict[str, list[Any]]  # column to its values, as Python has them
LABEL = "label."
LONGEST_LABEL = 200  # characters
MAX_CLASSES = 1000
WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
TURN_BREAK = "\n"  # between the turns of a context that is one text
TEXT_NAMES = ("text", "sentence", "utterance", "utterances", "content", "review", "response")
SPLIT_WORDS = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
ENDINGS = re.compile(r"[ _-]?(set|data|split|images)$")  # training_set, testset


def label_column(label: str) -> str:
    """The column of a label in frames and prepared tables."""
    return LABEL + label


def labels_among(columns: Iterable[str]) -> list[str]:
    """The labels of these columns, in their order.

    Example:
        >>> labels_among(["line", "text", "label.line"])
        ['line']
    """
    return [name.removeprefix(LABEL) for name in columns if name.startswith(LABEL)]


def split_of(word: Any) -> str | None:
    """The split that a word stands for; None where it stands for none.

    Example:
        >>> split_of("Val"), split_of("test_set"), split_of("cats")
        ('valid', 'test', None)
    """
    return SPLIT_WORDS.get(ENDINGS.sub("", str(word).strip().lower()))


def stated_split(value: Any, where: str) -> str | None:
    """The split of a row whose column ``split`` has this value; None where the cell is empty.

    Raises:
        UsageError: the value is no split; the message begins with ``where``.
    """
    if value is None or not str(value).strip() or value != value:
        return None
    split = split_of(value)
    if split is None:
        raise UsageError(f"{where}: split {str(value)!r}; expected {', '.join(SPLIT_WORDS)}")
    return split


def require_column(table: Mapping[str, Any], name: str, role: str, path: Path) -> None:
    """Checks that a column is there.

    Raises:
        UsageError: it is not; the message has those that are.
    """
    if name not in table:
        there = ", ".join(table)
        raise UsageError(f"{path}: no column {name!r} for {role}; columns there: {there}")


def label_names_of(config: DataConfig) -> list[str]:
    """The label columns that the parameters name, each once."""
    role = [config.columns["label"]] if "label" in config.columns else []
    return list(dict.fromkeys([*config.labels, *role]))


def column_of(config: DataConfig, table: Table, role: str) -> str | None:
    """The column of a role: the one that is named, or one of the role's name that is no label."""
    named = dict(config.columns).get(role)  # type: ignore[call-overload]  # split is never named
    if named is not None:
        return str(named)
    taken = {*label_names_of(config), *config.columns.values()}
    return role if role in table and role not in taken else None


def text_column(table: Table, path: Path, taken: Collection[str] = ()) -> str:
    """The column of the text: one of a usual name, or the only one not ``taken`` that holds text.

    Raises:
        UsageError: none or several columns could be it.
    """
    others = [name for name in table if name not in taken]
    named = [name for name in TEXT_NAMES if name in others]
    candidates = named[:1] or [name for name in others if kind_of(table[name]) in ("text", "texts")]
    if len(candidates) != 1:
        there = ", ".join(table)
        raise UsageError(f"{path}: which column is the text? Give --text; columns there: {there}")
    return candidates[0]


def kind_of(values: Sequence[Any]) -> str:
    """What a column holds: text, numbers, lists of either (texts, vectors), nested or empty.

    Example:
        >>> kind_of(["1", "2.5", ""]), kind_of(["1", "a"]), kind_of([["hi"], ["a", "b"]])
        ('numbers', 'text', 'texts')
    """
    types = {type(value) for value in values if not _missing(value)}
    if not types:
        return "empty"
    if any(issubclass(kind, list | tuple) for kind in types):
        items = [item for value in values if isinstance(value, list | tuple) for item in value]
        inner = kind_of(items)
        if len(types) > 1 or inner not in ("text", "numbers", "empty"):
            return "nested"
        strings = any(isinstance(item, str) for item in items)
        return "texts" if strings or inner != "numbers" else "vectors"
    if any(issubclass(kind, dict | bytes) for kind in types):
        return "nested"
    if types <= {int, float, Decimal}:
        return "numbers"
    if types == {str} and all(_number(value) is not None for value in values if value):
        return "numbers"
    return "text"


def is_list(values: Sequence[Any]) -> bool:
    """Whether a column holds lists of texts."""
    return any(isinstance(value, list) for value in values)


def texts(values: Sequence[Any], where: str, before: int = 0) -> list[str | None]:
    """A column as text; None where a value is missing.

    Args:
        values: of the column, or of some of its rows.
        where: file and column, for messages.
        before: how many rows are before these.

    Raises:
        UsageError: a value is a list, an object or bytes; the message begins with ``where``, file
            and column.
    """
    if all(type(value) is str for value in values):
        return list(values)
    return [_text(value, row, where) for row, value in enumerate(values, before + 1)]


def _text(value: Any, row: int, where: str) -> str | None:
    if type(value) is str:
        return value
    if _missing(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    if isinstance(value, list | tuple | dict | bytes):
        what = {dict: "an object", bytes: "bytes"}.get(type(value), "a list")
        raise UsageError(f"{where}: row {row} is {what}; expected text or a number")
    return str(value)


def labels(values: Sequence[Any], where: str) -> list[str | None]:
    """A column of labels as text without outer white space; None where there is none.

    Raises:
        UsageError: a value is a list, an object or bytes, or too long for a label.

    Example:
        >>> labels(["1.0", "2", " ", None], ""), labels([True, False, math.nan], "")
        (['1', '2', None, None], ['true', 'false', None])
    """
    stripped = label_texts(values, where)
    if whole_numbers(stripped):
        return [value and value.partition(".")[0] for value in stripped]
    return stripped


def label_texts(values: Sequence[Any], where: str, before: int = 0) -> list[str | None]:
    """:func:`labels` of some rows of a column: whole numbers stay as they are written."""
    stripped = [(value or "").strip() or None for value in texts(values, where, before)]
    for row, value in enumerate(stripped, before + 1):
        if value is not None and len(value) > LONGEST_LABEL:
            raise UsageError(
                f"{where}: row {row} has a label of {len(value)} characters ({value[:30]!r}...), "
                f"more than {LONGEST_LABEL}; is it the text?"
            )
    return stripped


def whole_numbers(values: Iterable[str | None]) -> bool:
    """Whether all labels are whole numbers, which are written alike then (``1.0`` as ``1``)."""
    return all(value is None or WHOLE.fullmatch(value) for value in values)


def label_names(values: Iterable[Any]) -> list[str]:
    """The classes of a label column in the order of their numbers: whole numbers by size.

    Example:
        >>> label_names(["10", "9", None])
        ['9', '10']
        >>> label_names(["pos", "neg", "pos"])
        ['neg', 'pos']
    """
    names = {str(value) for value in values if value is not None}
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def numbers(
    values: Sequence[Any], where: str, expected: str = "a number", *, every: bool = False
) -> list[float]:
    """A column of numbers; NaN where one is missing, unless ``every`` row needs one.

    Raises:
        UsageError: a value is no number, or missing.
    """
    parsed = []
    for row, value in enumerate(values, 1):
        number = math.nan if _missing(value) else _number(value)
        if number is None:
            raise UsageError(f"{where}: row {row} is {value!r:.40}; expected {expected}")
        if every and math.isnan(number):
            raise UsageError(f"{where}: row {row} has no number; expected {expected}")
        parsed.append(number)
    return parsed


def turns(values: Sequence[Any], where: str) -> list[list[str]]:
    """A column of what was said before: lists of turns, or text with a turn a line."""
    rows = []
    for row, value in enumerate(values, 1):
        if isinstance(value, list | tuple):
            said = [_text(item, row, where) or "" for item in value]
        else:
            said = (_text(value, row, where) or "").split(TURN_BREAK)
        rows.append([turn for turn in said if turn.strip()])
    return rows


def _missing(value: Any) -> bool:
    if value is None or value == "":
        return True
    return isinstance(value, float | Decimal) and math.isnan(value)


def _number(value: Any) -> float | None:
    scalar = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
    if not scalar or "_" in str(value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
