"""A user's dialogues: a turn a row, or a dialogue a row; contexts are the turns before.

dialogue,turn,speaker,text,intent        {"text": ["hi", "hello"], "intent": ["greet", ""]}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.config import DataConfig
from ldebm.data.text_files import Table
from ldebm.data.turns import Dialogue, dialogue_frame
from ldebm.data.user_tables import column_of, require_column
from ldebm.data.values import is_list, labels, numbers, texts
from ldebm.errors import UsageError

__all__ = ["holds_turns", "read_user_dialogues"]


def holds_turns(config: DataConfig, table: Table) -> bool:
    """Whether contexts have to be made from the rows: no column holds them."""
    if column_of(config, table, "context"):
        return False
    text = column_of(config, table, "text")
    listed = text is not None and is_list(table[text])
    return listed or column_of(config, table, "dialogue") is not None


def read_user_dialogues(
    config: DataConfig, table: Table, names: list[str], splits: Sequence[str | None], path: Path
) -> pl.DataFrame:
    """One row a turn, with its context.

    Args:
        config: its ``columns`` name dialogue, turn, speaker and text.
        table: the file.
        names: its label columns.
        splits: of every row, among train, valid, test and None.
        path: the file, for messages.

    Raises:
        UsageError: numbers of turns and labels are unequal, a turn has no number, a dialogue is in
            two splits, or no dialogue has two turns.
    """
    text = column_of(config, table, "text") or "text"
    require_column(table, text, "text", path)
    read = _listed if is_list(table[text]) else _gathered
    dialogues = read(config, table, text, names, splits, path)
    frame = dialogue_frame(dialogues, names, max(1, config.context_turns), strict=config.strict)
    if not (frame["context"].list.len() > 0).any():
        raise UsageError(
            f"{path}: every context is empty: no dialogue has two turns; name the column that "
            "dialogues have in common with --dialogue, or use kind: sentences"
        )
    return frame


def _listed(
    config: DataConfig,
    table: Table,
    text: str,
    names: list[str],
    splits: Sequence[str | None],
    path: Path,
) -> Iterator[Dialogue]:
    """A dialogue a row: lists of texts, of speakers, and of labels (or one label for all)."""
    speaker = column_of(config, table, "speaker")
    for index, value in enumerate(table[text]):
        place = f"{path}: row {index + 1}"
        if value is not None and not isinstance(value, list):
            raise UsageError(
                f"{place}: column {text!r} has {value!r:.40}; expected a list of turns"
            )
        turns = texts(value or [], f"{place}: column {text!r}")
        given = {name: _every_turn(table[name][index], len(turns), place) for name in names}
        who = _every_turn(table[speaker][index], len(turns), place) if speaker else None
        if who is not None and len(who) != len(turns):
            raise UsageError(f"{place}: {len(turns)} turns and {len(who)} speakers")
        speakers = None if who is None else [name or "" for name in who]
        yield Dialogue(turns, place, index + 1, splits[index], given, speakers)


def _every_turn(value: Any, turns: int, place: str) -> list[str | None]:
    return labels(value if isinstance(value, list) else [value] * turns, place)


def _gathered(
    config: DataConfig,
    table: Table,
    text: str,
    names: list[str],
    splits: Sequence[str | None],
    path: Path,
) -> Iterator[Dialogue]:
    """A turn a row: rows of one dialogue, in the order of ``turn`` or else of the file."""
    dialogue = column_of(config, table, "dialogue") or "dialogue"
    speaker = column_of(config, table, "speaker")
    members: dict[str, list[int]] = {}
    for row, key in enumerate(labels(table[dialogue], f"{path}: column {dialogue!r}")):
        if key is None:
            raise UsageError(f"{path}: row {row + 1}: no value in column {dialogue!r}")
        members.setdefault(key, []).append(row)
    order = _order(config, table, path)
    said = texts(table[text], f"{path}: column {text!r}")
    columns = {name: labels(table[name], f"{path}: column {name!r}") for name in names}
    who = labels(table[speaker], f"{path}: column {speaker!r}") if speaker else None
    for key, unsorted in members.items():
        rows = sorted(unsorted, key=lambda row: order[row]) if order is not None else unsorted
        there = list(dict.fromkeys(splits[row] for row in rows))
        place = f"{path}: row {rows[0] + 1}"
        if len(there) > 1:
            raise UsageError(
                f"{place}: dialogue {key!r} is in the splits {there[0]} and {there[1]}; "
                "expected one"
            )
        yield Dialogue(
            [said[row] for row in rows],
            place,
            [row + 1 for row in rows],
            there[0],
            {name: [values[row] for row in rows] for name, values in columns.items()},
            None if who is None else [who[row] or "" for row in rows],
        )


def _order(config: DataConfig, table: Table, path: Path) -> list[float] | None:
    """The number of every turn in its dialogue; None where no column has it."""
    name = column_of(config, table, "turn")
    if name is None:
        return None
    expected = "expected the number of the turn in its dialogue"
    try:
        order = numbers(table[name], f"{path}: column {name!r}")
    except UsageError as error:
        raise UsageError(str(error).replace("expected a number", expected)) from None
    if np.isnan(order).any():
        row = int(np.isnan(order).argmax())
        raise UsageError(f"{path}: row {row + 1}: column {name!r} has no number; {expected}")
    return order
