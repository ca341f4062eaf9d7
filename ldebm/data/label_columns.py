"""Label columns of a frame have a name that no other column has: ``label.`` and the label's name.

A user's label may be called ``line``, ``text`` or ``number``, as columns of the pipeline are.
Frames and prepared tables hold ``label.line``; the profile, packed data and messages say ``line``.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["label_column", "labels_among"]

PREFIX = "label."


def label_column(label: str) -> str:
    """The column of a label.

    Example:
        >>> label_column("line")
        'label.line'
    """
    return PREFIX + label


def labels_among(columns: Iterable[str]) -> list[str]:
    """The labels of these columns, in their order.

    Example:
        >>> labels_among(["line", "text", "label.line"])
        ['line']
    """
    return [name.removeprefix(PREFIX) for name in columns if name.startswith(PREFIX)]
