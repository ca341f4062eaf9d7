"""Which column of a user's table is what: named by the user, or found by its name and values."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ldebm.config import DataConfig
from ldebm.data.text_files import Table
from ldebm.data.values import kind_of
from ldebm.errors import UsageError

__all__ = ["column_of", "label_names_of", "require_column", "text_column"]

TEXT_NAMES = ("text", "sentence", "utterance", "utterances", "content", "review", "response")


def require_column(table: Table, name: str, role: str, path: Path) -> None:
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
    """The column of the text: one of a usual name, or the only one that holds text.

    Args:
        table: the rows.
        path: the file, for messages.
        taken: columns that are something else.

    Raises:
        UsageError: none or several columns could be it.
    """
    others = [name for name in table if name not in taken]
    named = [name for name in TEXT_NAMES if name in others]
    if named:
        return named[0]
    found = [name for name in others if kind_of(table[name]) in ("text", "texts")]
    if len(found) != 1:
        there = ", ".join(table)
        raise UsageError(f"{path}: which column is the text? Give --text; columns there: {there}")
    return found[0]
