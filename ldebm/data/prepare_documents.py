"""Preparing documents: those without a word of the vocabulary are left out."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.documents import FIRST_WORD, document_words, train_vocabulary

__all__ = ["known_documents"]


def known_documents(config: DataConfig, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Documents with at least one word of the training documents' vocabulary, and the others.

    Args:
        config: of the data set; its ``vocab_size`` bounds the vocabulary.
        frame: all splits, with ``split``, ``line`` and ``text``.

    Returns:
        The frame with ``known``, the number of known words of each row; and what is left out.

    Raises:
        UsageError: no training document has a word that counts.
    """
    words = [document_words(text) for text in frame["text"]]
    train = [text for text, split in zip(words, frame["split"], strict=True) if split == "train"]
    rows = train_vocabulary(train, config.vocab_size).encode_rows(words)
    frame = frame.with_columns(known=pl.Series(_known(rows), dtype=pl.Int64))
    unknown = frame.filter(pl.col("known") == 0).select(
        pl.col("split").cast(pl.String),
        "line",
        pl.lit("no known word").alias("reason"),
        pl.col("text").str.slice(0, 200).alias("row"),
    )
    return frame.filter(pl.col("known") > 0), unknown


def _known(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(token >= FIRST_WORD for token in row) for row in rows]
