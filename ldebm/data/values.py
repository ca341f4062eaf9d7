"""Values of a user's columns, of whatever type a file gives them: text, labels, numbers, turns.

A missing value is None, NaN, or an empty cell. Whole numbers read the same whether a file has them
as 1, 1.0 or text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from ldebm.errors import UsageError

__all__ = ["Kind", "is_list", "kind_of", "labels", "numbers", "texts", "turns"]

Kind = Literal["text", "numbers", "texts", "vectors", "nested", "empty"]
LONGEST_LABEL = 200  # characters
WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
TURN_BREAK = "\n"  # between the turns of a context that is one text
SCALARS = (str, bool, int, float, Decimal)


def kind_of(values: Sequence[Any]) -> Kind:
    """What a column holds: text, numbers, lists of either, or what is neither.

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


def texts(values: Sequence[Any], where: str) -> list[str | None]:
    """A column as text; None where a value is missing.

    Args:
        values: the column.
        where: file and column, for messages.

    Raises:
        UsageError: a value is a list, an object or bytes.
    """
    if all(type(value) is str for value in values):
        return list(values)
    return [_text(value, row, where) for row, value in enumerate(values, 1)]


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

    Args:
        values: the column.
        where: file and column, for messages.

    Raises:
        UsageError: a value is a list, an object or bytes, or too long for a label.

    Example:
        >>> labels(["1.0", "2", " ", None], "")
        ['1', '2', None, None]
        >>> labels([True, False, math.nan], "")
        ['true', 'false', None]
    """
    found = [(value or "").strip() or None for value in texts(values, where)]
    for row, value in enumerate(found, 1):
        if value is not None and len(value) > LONGEST_LABEL:
            raise UsageError(
                f"{where}: row {row} has a label of {len(value)} characters ({value[:30]!r}...), "
                f"more than {LONGEST_LABEL}; is it the text?"
            )
    if all(value is None or WHOLE.fullmatch(value) for value in found):
        return [value and value.partition(".")[0] for value in found]
    return found


def numbers(values: Sequence[Any], where: str) -> list[float]:
    """A column of numbers; NaN where one is missing.

    Raises:
        UsageError: a value is no number.
    """
    found = []
    for row, value in enumerate(values, 1):
        number = math.nan if _missing(value) else _number(value)
        if number is None:
            raise UsageError(f"{where}: row {row} is {value!r:.40}; expected a number")
        found.append(number)
    return found


def turns(values: Sequence[Any], where: str) -> list[list[str]]:
    """A column of what was said before: lists of turns, or text with a turn a line."""
    found = []
    for row, value in enumerate(values, 1):
        if isinstance(value, list | tuple):
            said = [_text(item, row, where) or "" for item in value]
        else:
            said = (_text(value, row, where) or "").split(TURN_BREAK)
        found.append([turn for turn in said if turn.strip()])
    return found


def _missing(value: Any) -> bool:
    if value is None or value == "":
        return True
    return isinstance(value, float | Decimal) and math.isnan(value)


def _number(value: Any) -> float | None:
    if not isinstance(value, SCALARS) or isinstance(value, bool) or "_" in str(value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
