"""Words that name a split, in columns, folders, and names of files and arrays."""

from __future__ import annotations

import re
from typing import Any

from ldebm.errors import UsageError

__all__ = ["WORDS", "split_of", "stated_split"]

WORDS = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
ENDINGS = re.compile(r"[ _-]?(set|data|split|images)$")  # training_set, testset


def split_of(word: Any) -> str | None:
    """The split that a word stands for; None where it stands for none.

    Example:
        >>> split_of("Val"), split_of("test_set"), split_of("cats")
        ('valid', 'test', None)
    """
    return WORDS.get(ENDINGS.sub("", str(word).strip().lower()))


def stated_split(value: Any, where: str) -> str | None:
    """The split of a row whose column ``split`` has this value; None where the cell is empty.

    Args:
        value: of the cell.
        where: file and row, for messages.

    Raises:
        UsageError: the value is no split.
    """
    if value is None or not str(value).strip() or value != value:
        return None
    split = split_of(value)
    if split is None:
        raise UsageError(f"{where}: split {str(value)!r}; expected {', '.join(WORDS)}")
    return split
