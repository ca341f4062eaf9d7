"""Utterances with the turns before each: a user's table has these, or a turn or a dialogue a row.

dialogue,turn,speaker,text,intent        {"text": ["hi", "hello"], "intent": ["greet", ""]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.data.columns import (
    Table,
    column_of,
    is_list,
    label_names_of,
    labels,
    numbers,
    require_column,
    texts,
    turns,
)
from ldebm.data.kinds.base import Check, Cleaned, Limit
from ldebm.data.kinds.sentences import Sentences
from ldebm.data.token_rows import write_rows
from ldebm.data.tokenizer import Tokenizer
from ldebm.data.turns import Dialogue, dialogue_frame
from ldebm.errors import UsageError
from ldebm.files import parquet_parts

__all__ = ["Dialogues"]

TURN = "the number of the turn in its dialogue"


class Dialogues(Sentences):
    """Rows of ``text`` with its ``context``, a list of turns, oldest first."""

    columns = ("text", "context", "dialogue", "turn")
    limits = (*Sentences.limits, Limit("shared_dialogues", "dialogues in two splits", most=0))

    def rows(self, table: Table, splits: Sequence[str | None], path: Path) -> pl.DataFrame:
        """The rows of a table with contexts; or one a turn, with the turns before it."""
        config = self.config
        text = column_of(config, table, "text")
        listed = text is not None and is_list(table[text])
        if column_of(config, table, "context") or not (
            listed or column_of(config, table, "dialogue")
        ):
            return super().rows(table, splits, path)
        require_column(table, text or "text", "text", path)
        read = self._listed if listed else self._gathered
        dialogues = read(table, text or "text", splits, path)
        most = max(1, config.context_turns)
        frame = dialogue_frame(dialogues, label_names_of(config), most, strict=config.strict)
        if not (frame["context"].list.len() > 0).any():
            raise UsageError(
                f"{path}: every context is empty: no dialogue has two turns; name the column that "
                "dialogues have in common with --dialogue, or use kind: sentences"
            )
        return frame

    def _listed(
        self, table: Table, text: str, splits: Sequence[str | None], path: Path
    ) -> Iterator[Dialogue]:
        """A dialogue a row: lists of texts, of speakers, and of labels (or one label for all)."""
        names, speaker = label_names_of(self.config), column_of(self.config, table, "speaker")
        for index, value in enumerate(table[text]):
            place = f"{path}: row {index + 1}"
            if value is not None and not isinstance(value, list):
                raise UsageError(
                    f"{place}: column {text!r} has {value!r:.40}; expected a list of turns"
                )
            said = texts(value or [], f"{place}: column {text!r}")
            labels = {name: _every_turn(table[name][index], len(said), place) for name in names}
            who = _every_turn(table[speaker][index], len(said), place) if speaker else None
            if who is not None and len(who) != len(said):
                raise UsageError(f"{place}: {len(said)} turns and {len(who)} speakers")
            speakers = None if who is None else [name or "" for name in who]
            yield Dialogue(said, place, index + 1, splits[index], labels, speakers)

    def _gathered(
        self, table: Table, text: str, splits: Sequence[str | None], path: Path
    ) -> Iterator[Dialogue]:
        """A turn a row: rows of one dialogue, in the order of ``turn`` or else of the file."""
        config = self.config
        dialogue = column_of(config, table, "dialogue") or "dialogue"
        turn, speaker = (column_of(config, table, role) for role in ("turn", "speaker"))
        members: dict[str, list[int]] = {}
        for row, key in enumerate(labels(table[dialogue], f"{path}: column {dialogue!r}")):
            if key is None:
                raise UsageError(f"{path}: row {row + 1}: no value in column {dialogue!r}")
            members.setdefault(key, []).append(row)
        order = range(len(splits)) if turn is None else self._order(table, turn, path)
        said = texts(table[text], f"{path}: column {text!r}")
        names = label_names_of(config)
        columns = {name: labels(table[name], f"{path}: column {name!r}") for name in names}
        who = labels(table[speaker], f"{path}: column {speaker!r}") if speaker else None
        for key, unsorted in members.items():
            rows = sorted(unsorted, key=order.__getitem__)
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

    @staticmethod
    def _order(table: Table, turn: str, path: Path) -> list[float]:
        return numbers(table[turn], f"{path}: column {turn!r}", TURN, every=True)

    def own_columns(self, table: Table, path: Path) -> dict[str, pl.Series]:
        """Columns of a table that has the turns before every row."""
        config, columns = self.config, super().own_columns(table, path)
        rows = len(columns["text"])
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
        order = self._order(table, turn, path) if turn else [0.0] * rows
        return columns | {
            "context": pl.Series(context, dtype=pl.List(pl.String)),
            "dialogue": pl.Series([known[key] for key in keys] or range(rows), dtype=pl.Int64),
            "turn": pl.Series([int(value) for value in order], dtype=pl.Int32),
        }

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        context = pl.col("context").list.eval(self.tidy(pl.element()))
        return super().clean(frame.with_columns(context=context))

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        table = tables[split]
        others = [part["dialogue"] for name, part in tables.items() if name != split]
        shared = table["dialogue"].is_in(pl.concat(others).implode())
        return super().facts(split, tables, labels) | {
            "dialogues": table["dialogue"].n_unique(),
            "mean_context": float(np.mean(table["context"].list.len().to_numpy())),
            "shared_dialogues": table["dialogue"].filter(shared).n_unique(),
        }

    def checks(self, facts: Mapping[str, Any], train: Mapping[str, Any]) -> list[Check]:
        turn = {"column": "turn", "min_value": 0, "max_value": 1000}
        return [*super().checks(facts, train), ("ExpectColumnValuesToBeBetween", turn)]

    def checked_columns(self, part: pl.DataFrame) -> dict[str, Any]:
        return super().checked_columns(part) | {"turn": part["turn"].to_numpy()}

    def pack(
        self, files: Mapping[str, Path], rows: Mapping[str, int], target: Path
    ) -> dict[str, Any]:
        meta = super().pack(files, rows, target)
        if self.config.context_turns:
            tokenizer = Tokenizer((target / "tokenizer.model").read_bytes())
            for split, file in files.items():
                parts = (part["context"] for part in parquet_parts(file, ["context"]))
                joined = (self._contexts(tokenizer, part) for part in parts)
                write_rows(target, f"{split}.context.", joined, tokenizer.vocab_size)
        return meta | {"context_turns": self.config.context_turns}

    def _contexts(self, tokenizer: Tokenizer, rows: list[list[str]]) -> list[list[int]]:
        """The last turns before every row, one after the other."""
        most = self.config.context_turns
        contexts = [[turn for turn in turns if turn][-most:] for turns in rows]
        encoded = iter(tokenizer.encode_rows(turn for turns in contexts for turn in turns))
        return [[token for _ in turns for token in self.cut(next(encoded))] for turns in contexts]


def _every_turn(value: Any, turns: int, place: str) -> list[str | None]:
    return labels(value if isinstance(value, list) else [value] * turns, place)
