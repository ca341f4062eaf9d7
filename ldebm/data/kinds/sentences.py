"""Sentences; what dialogues and documents have in common with them.

``text`` becomes token ids by a tokenizer that is trained first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.columns import (
    MAX_CLASSES,
    Table,
    column_of,
    label_column,
    label_names_of,
    label_texts,
    require_column,
    texts,
    whole_numbers,
)
from ldebm.data.corpora import numbered
from ldebm.data.kinds.base import Check, Cleaned, Kind, Limit, divided, sink, user_file
from ldebm.data.kinds.spill import Spill
from ldebm.data.packed import SPLITS
from ldebm.data.text_files import read_parts
from ldebm.data.token_rows import (
    UNKNOWN,
    choose_tokens,
    cut,
    unknown_shares,
    write_rows,
    write_tokenizer,
)
from ldebm.data.tokenizer import SAMPLE, UNK, Tokenizer, sample, train_tokenizer
from ldebm.files import parquet_facts, parquet_parts

__all__ = ["Sentences", "column_values"]

MAX_CHARACTERS = 20_000
SPLIT = pl.Enum(SPLITS)
SHOWN = 200  # characters of a row that is left out
# A word, a tag such as <unk>, or a run of marks; control characters are none of these.
WORDS = r"<\w+>|\w+|[^\w\s\x00-\x1f\x7f]+"


class Sentences(Kind):
    """Rows of ``text``; of a user's file :meth:`read` leaves the texts on disk.

    Such rows have their ``number`` there instead, and the ``digest`` of the text: a hash of 64
    bits, so that of five million texts two different ones are taken as the same once in a million
    data sets. Kinds that inherit from this one read their file as a whole.
    """

    content = "text"
    columns: tuple[str, ...] = ("text",)
    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("in_train", "share of rows that the training split has as well", most=0.5),
        Limit(
            "unknown", "share of words that the vocabulary lacks", most=UNKNOWN,
            remedy="take pieces of words: --tokenizer unigram of `ldebm new`, tokenizer: unigram "
            "of the data set; or raise vocab_size",
        ),
        Limit("words_mean", "words of a row, in the mean", least=1, most=1000),
        Limit("types", "different words", least=2, remedy="is it the right column?"),
    )  # fmt: skip

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self._spill: Spill | None = None

    def close(self) -> None:
        if self._spill is not None:
            self._spill.close()

    def read(self, raw: Path, scratch: Path) -> pl.DataFrame:
        if type(self) is not Sentences or self.config.source != "file":
            return super().read(raw, scratch)
        file, text = user_file(raw), self.config.columns.get("text", "text")
        self._spill = Spill(scratch)
        self.content, self.columns = "digest", ("number", "digest")
        names = label_names_of(self.config)
        required = {text, *names, *self.config.columns.values()}
        there: set[str] = set()
        frames, before = [], 0
        for part in read_parts(file, {*required, "split"}):
            rows = max(map(len, part.values()), default=0)
            there.update(part)
            whole = {name: [None] * rows for name in required} | part
            said = texts(whole[text], f"{file}: column {text!r}", before)
            columns = {"text": pl.Series(said, dtype=pl.String)}
            for name in names:
                values = label_texts(whole[name], f"{file}: column {name!r}", before)
                columns[label_column(name)] = pl.Series(values, dtype=pl.String)
            columns["split"] = pl.Series(self.splits(whole, file, before), dtype=pl.String)
            frame = self.judged(numbered(pl.DataFrame(columns), before))
            self._spill.add(frame["text"])
            number = (pl.col("line") - 1).cast(pl.UInt32)
            frame = frame.with_columns(number=number, digest=pl.col("text").hash())
            frames.append(frame.with_columns(pl.col("split").cast(SPLIT)).drop("text"))
            before += rows
        if not required <= there:
            self.from_table(next(read_parts(file)), file)  # which names the columns that are there
        return _alike(pl.concat(frames), names)

    def own_columns(self, table: Table, path: Path) -> dict[str, pl.Series]:
        name = column_of(self.config, table, "text") or "text"
        require_column(table, name, "text", path)
        return {"text": pl.Series(texts(table[name], f"{path}: column {name!r}"), dtype=pl.String)}

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        """Normalises white space (and case), and takes out rows without usable text."""
        start = pl.col("text").str.slice(0, SHOWN)
        if self._spill is None:
            return divided(self.judged(frame), start)
        kept, left = divided(frame, pl.col("number"))
        shown = self._spill.texts(left["row"]).select(start).collect(engine="streaming")
        return kept, left.with_columns(row=shown["text"])

    def judged(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows with their text as the parameters want it, and the ``reason`` of unusable ones."""
        frame = frame.with_columns(text=self.tidy(pl.col("text")))
        fault = pl.col("fault") if "fault" in frame.columns else pl.lit(None, pl.String)
        reason = (
            pl.when(fault.is_not_null())
            .then(fault)
            .when(pl.col("text").is_null() | (pl.col("text") == ""))
            .then(pl.lit("empty"))
            .when(pl.col("text").str.len_chars() > MAX_CHARACTERS)
            .then(pl.lit(f"longer than {MAX_CHARACTERS} characters"))
            .when(pl.col("text").str.contains("[\u2581\\x00-\\x1f\\x7f]"))
            .then(pl.lit("control character"))
        )
        return frame.with_columns(reason=reason).drop("fault", strict=False)

    def tidy(self, text: pl.Expr) -> pl.Expr:
        """Text as the parameters want it."""
        if self.config.split_punctuation:
            text = text.str.extract_all(WORDS).list.join(" ")
        text = text.str.replace_all(r"\s+", " ").str.strip_chars()
        return text.str.to_lowercase() if self.config.lowercase else text

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        table = tables[split]
        rows = self._with_text(table) if self._spill else table.lazy()
        words = pl.col("text").str.split(" ")
        lengths = words.list.len().cast(pl.Int64)
        found = rows.select(
            words=lengths.sum(),
            words_min=lengths.min(),
            words_max=lengths.max(),
            types=words.explode().n_unique(),
            unknown=(words.explode() == UNK).sum(),
        )
        facts = found.collect(engine="streaming").row(0, named=True)
        return facts | {"words_mean": facts["words"] / table.height}

    def _with_text(self, table: pl.DataFrame) -> pl.LazyFrame:
        """A table of :meth:`read` with the texts in their place."""
        assert self._spill is not None
        frames = [table.lazy(), self._spill.texts(table["number"])]
        others = [name for name in table.columns if name not in ("id", *self.columns)]
        whole = pl.concat(frames, how="horizontal")
        return whole.select("id", "text", pl.col(others).cast(pl.String))

    def write(self, target: Path, table: pl.DataFrame) -> None:
        sink(target, self._with_text(table) if self._spill else table.lazy())

    @staticmethod
    def shares(facts: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, float]:
        """Only words that are unknown in the source count, until a tokenizer is trained."""
        return {"unknown": facts["unknown"] / facts["words"]} if "unknown" in facts else {}

    def checks(self, facts: Mapping[str, Any], train: Mapping[str, Any]) -> list[Check]:
        lengths = {"min_value": 1, "max_value": MAX_CHARACTERS}
        return [
            ("ExpectColumnValuesToNotBeNull", {"column": "text"}),
            ("ExpectColumnValueLengthsToBeBetween", {"column": "text", **lengths}),
            ("ExpectColumnValuesToNotMatchRegex", {"column": "text", "regex": r"^\s|\s$|\s\s"}),
        ]

    def checked_columns(self, part: pl.DataFrame) -> dict[str, Any]:
        return {"text": part["text"].to_list()}

    def unknown(self, prepared: Path) -> dict[str, float] | None:
        files = {split: prepared / f"{split}.parquet" for split in SPLITS}
        rows, _ = parquet_facts(files["train"])
        said = {
            split: (text or "" for text in column_values(file, "text"))
            for split, file in files.items()
        }
        tokenizer = self.tokenizer((t or "" for t in column_values(files["train"], "text")), rows)
        return unknown_shares(tokenizer, said)

    def sizes(
        self, tables: Mapping[str, pl.DataFrame], tokenizer: str | None
    ) -> tuple[dict[str, Any], dict[str, float] | None]:
        texts = {split: table["text"].to_list() for split, table in tables.items()}

        def trial(tokens: dict[str, Any]) -> tuple[dict[str, float], Tokenizer]:
            kind = type(self)(self.config.model_copy(update=tokens))
            tokenizer = kind.tokenizer(texts["train"], len(texts["train"]))
            return unknown_shares(tokenizer, texts), tokenizer

        return choose_tokens(texts, tokenizer, trial)

    def tokenizer(self, training: Iterable[str], rows: int) -> Tokenizer:
        """The tokenizer of so many training texts, or of some of very many."""
        chosen = sample(training, rows)
        return train_tokenizer(chosen, self.config.tokenizer, self.config.vocab_size)

    def pack(
        self, files: Mapping[str, Path], rows: Mapping[str, int], target: Path
    ) -> dict[str, Any]:
        tokenizer = self.tokenizer(column_values(files["train"], "text"), rows["train"])
        for split, file in files.items():
            encoded = tokenizer.encode_parts(column_values(file, "text"))
            tokens = (([self.cut(row) for row in part]) for part in encoded)
            write_rows(target, f"{split}.", tokens, tokenizer.vocab_size)
        sampled = {"tokenizer_rows": SAMPLE} if rows["train"] > SAMPLE else {}
        return self.text_meta(target, tokenizer) | sampled

    def cut(self, row: list[int]) -> list[int]:
        """Of a row that is longer than ``max_len`` its beginning, and EOS."""
        return cut(row, self.config.max_len)

    def text_meta(self, target: Path, tokenizer: Tokenizer) -> dict[str, Any]:
        """Writes the tokenizer, and returns what ``meta.json`` says of it."""
        return write_tokenizer(target, tokenizer, self.config)


def _alike(frame: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """Labels as :func:`ldebm.data.columns.labels` writes them, as numbers of their classes."""
    for column in map(label_column, names):
        values = frame[column].unique()
        if whole_numbers(values):
            frame = frame.with_columns(pl.col(column).str.split(".").list.first())
            values = frame[column].unique()
        if len(values) <= MAX_CLASSES:
            frame = frame.with_columns(pl.col(column).cast(pl.Enum(values.drop_nulls().sort())))
    return frame


def column_values(file: Path, name: str) -> Iterator[Any]:
    """The values of a column, of which few are in memory at a time."""
    return (value for part in parquet_parts(file, [name]) for value in part[name])
