"""What the kinds of data have in common: what every stage of the data asks a kind for.

A kind reads source files into a frame, cleans it, describes and writes the splits, says what they
must be like, and packs them. Whoever adds a kind writes one class and its row in
:mod:`ldebm.data.kinds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.columns import (
    Table,
    column_of,
    label_column,
    label_names_of,
    labels,
    require_column,
    stated_split,
)
from ldebm.data.corpora import numbered, read_corpus
from ldebm.data.text_files import FORMATS, file_format, read_table
from ldebm.errors import UsageError
from ldebm.files import atomic_path

__all__ = ["PART", "Check", "Kind", "Limit", "counts", "divided", "sink", "user_file"]

PART = 1 << 17  # rows of a prepared table that are checked at a time
ROLES = ("text", "label", "context", "dialogue", "turn", "speaker")
Check = tuple[str, dict[str, Any]]  # an expectation of Great Expectations and its arguments
Cleaned = tuple[pl.DataFrame, pl.DataFrame]  # rows to keep; split, line, reason and row of others


@dataclass(frozen=True)
class Limit:
    """Bounds of one number of every split.

    Attributes:
        name: of the number.
        words: what it is.
        least: its lower bound; None for none.
        most: its upper bound; None for none.
        remedy: what to do where it is outside.
    """

    name: str
    words: str
    least: float | None = None
    most: float | None = None
    remedy: str = ""

    def failure(self, value: float) -> str | None:
        """A value outside the bounds in words; None for one within them."""
        low = self.least is not None and not value >= self.least
        if not low and (self.most is None or value <= self.most):
            return None
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.words} is {value:.3g}; expected {' and '.join(bounds)}{remedy}"


class Kind:
    """A data set of one kind.

    Attributes:
        config: its section of params.yaml.
        content: the column that makes rows equal.
        columns: of prepared tables, beside ``id`` and the labels.
        limits: bounds of the numbers of every split, beside those of all kinds.
    """

    content: str
    columns: tuple[str, ...]
    limits: ClassVar[tuple[Limit, ...]]

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    def close(self) -> None:
        """Gives back what reading has taken."""

    @staticmethod
    def is_source(path: Path) -> bool:
        """Whether a path names what a user may have rows of this kind in."""
        return path.is_file()

    # Preparing

    def read(self, raw: Path, scratch: Path) -> pl.DataFrame:
        """Reads ``data/raw/<name>``.

        Args:
            raw: the folder.
            scratch: a folder, which need not exist, on whose disk there is room for temporary
                files.

        Returns:
            ``split`` (null where the source has none), ``line`` (of the source, from 1), the
            kind's columns, ``label.NAME`` of every label, and ``reason`` or ``fault`` of rows that
            cannot be used.

        Raises:
            UsageError: a file is missing, damaged, or not what the parameters say.
        """
        if self.config.source != "file":
            return read_corpus(self.config, raw)
        file = user_file(raw)
        return self.from_table(read_table(file), file)

    def from_table(self, table: Table, path: Path) -> pl.DataFrame:
        """The rows of a user's table, as :meth:`read` gives them.

        Raises:
            UsageError: a column is missing, or rows are not what the parameters say.
        """
        for role in ROLES:
            if role in self.config.columns:
                require_column(table, self.config.columns[role], role, path)
        for label in label_names_of(self.config):
            require_column(table, label, "label", path)
        return self.rows(table, self.splits(table, path), path)

    def splits(self, table: Table, path: Path, before: int = 0) -> list[str | None]:
        """The split of every row of a table that has so many rows ``before`` it; None for none."""
        name = column_of(self.config, table, "split")
        if name is None:
            return [None] * max(map(len, table.values()))
        return [
            stated_split(value, f"{path}: row {row}: column {name!r}")
            for row, value in enumerate(table[name], before + 1)
        ]

    def rows(self, table: Table, splits: Sequence[str | None], path: Path) -> pl.DataFrame:
        """:meth:`from_table`, of a table whose columns are there, with the split of every row."""
        columns = self.own_columns(table, path)
        for name in label_names_of(self.config):
            values = labels(table[name], f"{path}: column {name!r}")
            columns[label_column(name)] = pl.Series(values, dtype=pl.String)
        columns["split"] = pl.Series(splits, dtype=pl.String)
        return numbered(pl.DataFrame(columns))

    def own_columns(self, table: Table, path: Path) -> dict[str, pl.Series]:
        """The kind's columns of a user's table."""
        raise NotImplementedError

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        """The rows to keep, and those left out with the reason."""
        raise NotImplementedError

    def after_split(self, frame: pl.DataFrame) -> Cleaned:
        """:meth:`clean` of what depends on the training rows."""
        return frame, frame.clear()

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        """What the profile says of one split, beside rows and labels."""
        raise NotImplementedError

    def write(self, target: Path, table: pl.DataFrame) -> None:
        """Writes one split as a prepared table."""
        sink(target, table.lazy())

    def sizes(
        self, tables: Mapping[str, pl.DataFrame], tokenizer: str | None
    ) -> tuple[dict[str, Any], dict[str, float] | None]:
        """What ``ldebm new`` writes of a user's rows: nothing for those that are no text.

        Args:
            tables: the cleaned rows of every split.
            tokenizer: word, unigram or bpe; None: what suits them.

        Returns:
            The keys tokenizer, vocab_size and max_len of the data section, and by split the share
            of words that these make unknown, where :meth:`unknown` looks at it.
        """
        return {}, None

    # Validating

    @staticmethod
    def shares(facts: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a split that :attr:`limits` bound and its facts do not hold themselves.

        Args:
            facts: of the split.
            train: of the training split.
        """
        return {}

    def checks(self, facts: Mapping[str, Any], train: Mapping[str, Any]) -> list[Check]:
        """What the rows of a split must be, beside identifiers and labels; arguments as above."""
        raise NotImplementedError

    def checked(self, path: Path, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The columns that :meth:`checks` names and the labels, some rows at a time."""
        table = pl.scan_parquet(path)
        rows = table.select(pl.len()).collect().item()
        for start in range(0, rows, PART):
            part = table.slice(start, PART).collect()
            columns = {label_column(label): part[label_column(label)] for label in labels}
            strings = {name: values.cast(pl.String).to_list() for name, values in columns.items()}
            yield strings | self.checked_columns(part)

    def checked_columns(self, part: pl.DataFrame) -> dict[str, Any]:
        """The columns of :meth:`checked` beside the labels."""
        raise NotImplementedError

    def unknown(self, prepared: Path) -> dict[str, float] | None:
        """By split the share of words that packing makes unknown; None where it is not looked at.

        Raises:
            UsageError: no tokenizer can be trained.
        """
        return None

    # Packing

    def pack(
        self, files: Mapping[str, Path], rows: Mapping[str, int], target: Path
    ) -> dict[str, Any]:
        """Writes the arrays of :mod:`ldebm.data.packed` and returns what ``meta.json`` has of them.

        Args:
            files: the prepared table of every split.
            rows: how many rows each has.
            target: the folder.
        """
        raise NotImplementedError


def user_file(raw: Path) -> Path:
    """The table in a folder with a user's data.

    Raises:
        UsageError: it has none, or several.
    """
    files = sorted(item for item in raw.glob("*") if file_format(item))
    if len(files) != 1:
        raise UsageError(f"{raw}: expected one file of {', '.join(FORMATS)}, found {len(files)}")
    return files[0]


def sink(target: Path, table: pl.LazyFrame) -> None:
    """Writes a prepared table, a row group at a time."""
    with atomic_path(target) as path:
        table.sink_parquet(path, compression="zstd", row_group_size=65536)


def divided(frame: pl.DataFrame, shown: pl.Expr) -> Cleaned:
    """Rows to keep and those left out: with a reason, or without split where others have one."""
    split = pl.col("split")
    if 0 < frame["split"].null_count() < frame.height:
        lost = pl.when(split.is_null()).then(pl.lit("of no split, though others are"))
        frame = frame.with_columns(reason=pl.coalesce("reason", lost))
    kept = frame.filter(pl.col("reason").is_null()).drop("reason")
    left_out = frame.filter(pl.col("reason").is_not_null())
    return kept, left_out.select(split.cast(pl.String), "line", "reason", shown.alias("row"))


def counts(values: pl.Series) -> dict[str, int]:
    """How often each value is there."""
    pairs = values.drop_nulls().cast(pl.String).value_counts().rows()
    return dict(sorted((str(value), int(count)) for value, count in pairs))
