"""Documents as counts of their words; those without a word of the vocabulary are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.data.documents import (
    FIRST_WORD,
    bags,
    document_words,
    log_frequencies,
    train_vocabulary,
)
from ldebm.data.kinds.base import Check, Cleaned, Limit
from ldebm.data.kinds.sentences import Sentences, column_values
from ldebm.data.token_rows import write_rows
from ldebm.files import write_array

__all__ = ["Documents"]


class Documents(Sentences):
    """Rows of ``text`` with ``known``, the number of its words that the vocabulary has."""

    columns = ("text", "known")
    limits = (
        *Sentences.limits,
        Limit("known_mean", "known words of a document, in the mean", least=2),
    )

    def after_split(self, frame: pl.DataFrame) -> Cleaned:
        words = [document_words(text) for text in frame["text"]]
        pairs = zip(words, frame["split"], strict=True)
        train = [text for text, split in pairs if split == "train"]
        rows = train_vocabulary(train, self.config.vocab_size).encode_rows(words)
        known = [sum(token >= FIRST_WORD for token in row) for row in rows]
        frame = frame.with_columns(known=pl.Series(known, dtype=pl.Int64))
        unknown = frame.filter(pl.col("known") == 0).select(
            pl.col("split").cast(pl.String),
            "line",
            pl.lit("no known word").alias("reason"),
            pl.col("text").str.slice(0, 200).alias("row"),
        )
        return frame.filter(pl.col("known") > 0), unknown

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        known = float(np.mean(tables[split]["known"].to_numpy()))
        return super().facts(split, tables, labels) | {"known_mean": known}

    def checks(self, facts: Mapping[str, Any], train: Mapping[str, Any]) -> list[Check]:
        known = {"column": "known", "min_value": 1}
        return [*super().checks(facts, train), ("ExpectColumnValuesToBeBetween", known)]

    def checked_columns(self, part: pl.DataFrame) -> dict[str, Any]:
        return super().checked_columns(part) | {"known": part["known"].to_numpy()}

    def sizes(
        self, tables: Mapping[str, pl.DataFrame], tokenizer: str | None
    ) -> tuple[dict[str, Any], dict[str, float] | None]:
        words: set[str] = set()
        for table in tables.values():
            for text in table["text"]:
                words.update(document_words(text).split())
        return {"vocab_size": min(30_004, max(8, len(words) + 4))}, None

    def unknown(self, prepared: Path) -> dict[str, float] | None:
        return None

    def pack(
        self, files: Mapping[str, Path], rows: Mapping[str, int], target: Path
    ) -> dict[str, Any]:
        """Ids, counts and offsets of the different words; log frequencies of training."""
        words = [document_words(text) for text in column_values(files["train"], "text")]
        tokenizer = train_vocabulary(words, self.config.vocab_size)
        for split, file in files.items():
            documents = bags(tokenizer, list(column_values(file, "text")))
            listed = [[ids.tolist() for ids, _ in documents]]
            write_rows(target, f"{split}.", listed, tokenizer.vocab_size)
            counts = np.concatenate([counts for _, counts in documents]).astype(np.int32)
            write_array(target / f"{split}.counts.npy", counts)
            if split == "train":
                ids = np.concatenate([ids for ids, _ in documents])
                logs = log_frequencies(ids, counts, tokenizer.vocab_size)
                write_array(target / "background.npy", logs)
        return self.text_meta(target, tokenizer)
