"""A user's dialogues: a turn a row, or a dialogue a row; contexts are the turns before.

dialogue,turn,speaker,text,intent        {"text": ["hi", "hello"], "intent": ["greet", ""]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.turns import Dialogue, dialogue_frame
from ldebm.errors import UsageError

__all__ = ["holds_turns", "read_user_dialogues"]

ORDER = "turn"  # column that is used without being named


def holds_turns(config: DataConfig, table: pl.DataFrame) -> bool:
    """Whether contexts have to be made from the rows: no column holds them."""
    if config.columns.get("context", "context") in table.columns:
        return False
    text = config.columns.get("text", "text")
    listed = text in table.columns and isinstance(table.schema[text], pl.List)
    return listed or config.columns.get("dialogue", "dialogue") in table.columns


def read_user_dialogues(
    config: DataConfig, table: pl.DataFrame, labels: list[str], path: Path
) -> pl.DataFrame:
    """One row a turn, with its context.

    Args:
        config: its ``columns`` name dialogue, turn, speaker and text.
        table: the file, with ``split`` among train, valid, test and null, and ``line``.
        labels: its label columns.
        path: the file, for messages.

    Raises:
        UsageError: numbers of turns and labels are unequal, a turn has no number, a dialogue is in
            two splits, or no dialogue has two turns.
    """
    text = config.columns.get("text", "text")
    if isinstance(table.schema[text], pl.List):
        dialogues = _listed(config, table, labels, path)
    else:
        dialogues = _gathered(config, table, labels, path)
    frame = dialogue_frame(dialogues, labels, max(1, config.context_turns), strict=config.strict)
    if not (frame["context"].list.len() > 0).any():
        raise UsageError(
            f"{path}: every context is empty: no dialogue has two turns; name the column that "
            "dialogues have in common with --dialogue, or use kind: sentences"
        )
    return frame


def _listed(
    config: DataConfig, table: pl.DataFrame, labels: list[str], path: Path
) -> Iterator[Dialogue]:
    """A dialogue a row: lists of texts, of speakers, and of labels (or one label for all)."""
    text, speaker = config.columns.get("text", "text"), config.columns.get("speaker")
    for row in table.iter_rows(named=True):
        turns = list(row[text] or [])
        found = {name: _values(row[name], len(turns)) for name in labels}
        who = _values(row[speaker], len(turns)) if speaker else None
        place = f"{path}: line {row['line']}"
        if who is not None and len(who) != len(turns):
            raise UsageError(f"{place}: {len(turns)} turns and {len(who)} speakers")
        speakers = None if who is None else [name or "" for name in who]
        yield Dialogue(turns, place, row["line"], row["split"], found, speakers)


def _values(value: Any, turns: int) -> list[str | None]:
    values = value if isinstance(value, list) else [value] * turns
    return [None if item is None or str(item) == "" else str(item) for item in values]


def _gathered(
    config: DataConfig, table: pl.DataFrame, labels: list[str], path: Path
) -> Iterator[Dialogue]:
    """A turn a row: rows of one dialogue, in the order of ``turn`` or else of the file."""
    text = config.columns.get("text", "text")
    dialogue = config.columns.get("dialogue", "dialogue")
    speaker = config.columns.get("speaker")
    order = config.columns.get("turn", ORDER if ORDER in table.columns else None)
    nameless = table.filter(pl.col(dialogue).is_null())
    if nameless.height:
        raise UsageError(f"{path}: row {nameless['line'][0]}: no value in column {dialogue!r}")
    if order is not None:
        number = pl.col(order).cast(pl.Float64, strict=False)
        wrong = table.filter(number.is_null() | number.is_nan())
        if wrong.height:
            raise UsageError(
                f"{path}: row {wrong['line'][0]}: column {order!r} has {wrong[order][0]!r}; "
                "expected the number of the turn in its dialogue"
            )
        table = table.with_columns(number.alias("__order")).sort("__order", maintain_order=True)
    for part in table.partition_by(dialogue, maintain_order=True):
        splits = part["split"].unique(maintain_order=True).to_list()
        first = int(part["line"].to_list()[0])
        if len(splits) > 1:
            raise UsageError(
                f"{path}: row {first}: dialogue {part[dialogue][0]!r} is in the splits "
                f"{splits[0]} and {splits[1]}; expected one"
            )
        found = {name: _values(part[name].to_list(), part.height) for name in labels}
        who = _values(part[speaker].to_list(), part.height) if speaker else None
        yield Dialogue(
            part[text].cast(pl.String).to_list(),
            f"{path}: row {first}",
            part["line"].to_list(),
            splits[0],
            found,
            None if who is None else [name or "" for name in who],
        )
