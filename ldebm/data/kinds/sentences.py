"""Sentences; what dialogues and documents have in common with them.

``text`` becomes token ids by a tokenizer that is trained first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from ldebm.data.columns import Table, column_of, require_column, texts
from ldebm.data.kinds.base import Check, Cleaned, Kind, Limit, divided
from ldebm.data.packed import SPLITS
from ldebm.data.token_rows import (
    UNKNOWN,
    choose_tokens,
    cut,
    unknown_shares,
    write_rows,
    write_tokenizer,
)
from ldebm.data.tokenizer import SAMPLE, UNK, Tokenizer, sample, train_tokenizer
from ldebm.files import parquet_parts

__all__ = ["Sentences", "column_values"]

MAX_CHARACTERS = 20_000
# A word, a tag such as <unk>, or a run of marks; control characters are none of these.
WORDS = r"<\w+>|\w+|[^\w\s\x00-\x1f\x7f]+"


class Sentences(Kind):
    """Rows of ``text``."""

    content = "text"
    columns: ClassVar[tuple[str, ...]] = ("text",)
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

    def own_columns(self, table: Table, path: Path) -> dict[str, pl.Series]:
        name = column_of(self.config, table, "text") or "text"
        require_column(table, name, "text", path)
        return {"text": pl.Series(texts(table[name], f"{path}: column {name!r}"), dtype=pl.String)}

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        """Normalises white space (and case), and takes out rows without usable text."""
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
        kept, left = divided(frame.with_columns(reason=reason), pl.col("text").str.slice(0, 200))
        return kept.drop("fault", strict=False), left

    def tidy(self, text: pl.Expr) -> pl.Expr:
        """Text as the parameters want it."""
        if self.config.split_punctuation:
            text = text.str.extract_all(WORDS).list.join(" ")
        text = text.str.replace_all(r"\s+", " ").str.strip_chars()
        return text.str.to_lowercase() if self.config.lowercase else text

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        words = tables[split]["text"].str.split(" ")
        lengths = words.list.len().to_numpy()
        flat = words.explode()
        return {
            "words": int(lengths.sum()),
            "words_min": int(lengths.min()),
            "words_mean": float(lengths.mean()),
            "words_max": int(lengths.max()),
            "types": flat.n_unique(),
            "unknown": int((flat == UNK).sum()),
        }

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
        texts = {
            split: pl.read_parquet(prepared / f"{split}.parquet", columns=["text"])["text"]
            for split in SPLITS
        }
        return self.unknown_shares({name: part.fill_null("") for name, part in texts.items()})[0]

    def unknown_shares(
        self, rows: Mapping[str, Collection[str]]
    ) -> tuple[dict[str, float], Tokenizer]:
        """By split the share of tokens that are unknown, and the tokenizer, which is that of
        packing.

        Raises:
            UsageError: no tokenizer can be trained.
        """
        tokenizer = self.tokenizer(rows["train"], len(rows["train"]))
        return unknown_shares(tokenizer, rows), tokenizer

    def sizes(
        self, tables: Mapping[str, pl.DataFrame], tokenizer: str | None
    ) -> tuple[dict[str, Any], dict[str, float] | None]:
        texts = {split: table["text"].to_list() for split, table in tables.items()}

        def trial(tokens: dict[str, Any]) -> tuple[dict[str, float], Tokenizer]:
            return type(self)(self.config.model_copy(update=tokens)).unknown_shares(texts)

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


def column_values(file: Path, name: str) -> Iterator[Any]:
    """The values of a column, of which few are in memory at a time."""
    return (value for part in parquet_parts(file, [name]) for value in part[name])
