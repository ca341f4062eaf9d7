"""Dialogues as one row a turn, with the turns before it as its context.

docs/method.md, section 6.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from ldebm.data.columns import label_column
from ldebm.errors import UsageError

__all__ = ["Dialogue", "dialogue_frame"]

COLUMNS: dict[str, pl.DataType] = {
    "split": pl.String(), "line": pl.Int64(), "text": pl.String(), "context": pl.List(pl.String()),
    "dialogue": pl.Int64(), "turn": pl.Int32(), "fault": pl.String(),
}  # fmt: skip


@dataclass(frozen=True)
class Dialogue:
    """One conversation.

    Attributes:
        turns: what was said, in order.
        place: file and line or entry, for messages: ``dialogues.txt: line 3``.
        line: of the source file, from 1 (one number, or one for every turn).
        split: train, valid or test; None where the source has none.
        labels: column -> label of every turn; None where it has none.
        speakers: of every turn; they are put before the text as ``<speaker>``.
    """

    turns: Sequence[str | None]
    place: str
    line: int | Sequence[int]
    split: str | None = None
    labels: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    speakers: Sequence[str] | None = None

    def fault(self) -> str | None:
        """What is wrong with the numbers of turns and labels; None where nothing is."""
        for column, values in self.labels.items():
            if len(values) != len(self.turns):
                return f"{len(self.turns)} turns and {len(values)} labels of {column!r}"
        return None

    def texts(self) -> list[str | None]:
        """What was said, with the speaker before it."""
        if self.speakers is None:
            return list(self.turns)
        pairs = zip(self.speakers, self.turns, strict=True)
        return [f"<{'_'.join(who.split())}> {text or ''}" if who else text for who, text in pairs]


def dialogue_frame(
    dialogues: Iterable[Dialogue], labels: Sequence[str], context_turns: int, *, strict: bool
) -> pl.DataFrame:
    """One row a turn: split, line, text, context, dialogue, turn, the labels, and ``fault``.

    Args:
        dialogues: in the order in which they are numbered.
        labels: the label columns that every dialogue has.
        context_turns: how many earlier turns the context holds at most, oldest first.
        strict: whether a dialogue with unequal numbers of turns and labels is an error; otherwise
            it becomes one row whose ``fault`` says so, and which preparing leaves out.

    Raises:
        UsageError: there is such a dialogue and ``strict`` is set; the message has its place.
    """
    schema = COLUMNS | {label_column(name): pl.String() for name in labels}
    columns: dict[str, list[object]] = {name: [] for name in schema}
    for number, dialogue in enumerate(dialogues):
        fault = dialogue.fault()
        if fault and strict:
            raise UsageError(
                f"{dialogue.place}: {fault}; correct the line, or leave such dialogues out with "
                "strict: false in the data set's section of params.yaml"
            )
        texts = dialogue.texts()
        if fault:
            texts = [" ".join(text or "" for text in texts)]
        for turn, text in enumerate(texts):
            line, before = dialogue.line, texts[max(0, turn - context_turns) : turn]
            row = (
                dialogue.split,
                line if isinstance(line, int) else line[turn],
                text,
                [item for item in before if item],
                number,
                turn,
                "unequal numbers of turns and labels" if fault else None,
                *(None if fault else dialogue.labels[name][turn] for name in labels),
            )
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    return pl.DataFrame(columns, schema=schema)
