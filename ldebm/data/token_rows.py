"""From texts to rows of token ids: which tokenizer suits them, and how the rows are stored.

What the packing of a data set and a training from Python share; it needs numpy and sentencepiece
alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.tokenizer import Tokenizer
from ldebm.files import atomic_path, growing_array

__all__ = ["UNKNOWN", "choose_tokens", "cut", "unknown_shares", "write_rows", "write_tokenizer"]

UNKNOWN = 0.5  # of the words of a split: the vocabulary then is of another text
MANY_WORDS = 30_000  # beyond, words alone would leave most of the vocabulary rare
UNSEEN = 0.3  # of the words of held-out rows: beyond, words are no units to count in
HELD_OUT = 10  # one row in so many
MOST_WORDS, MOST_PIECES = 10_001, 8000  # of vocabularies
Trial = Callable[[dict[str, Any]], tuple[dict[str, float], Tokenizer]]


def choose_tokens(
    texts: Mapping[str, Sequence[str]], wanted: str | None, trial: Trial
) -> tuple[dict[str, Any], dict[str, float]]:
    """The keys tokenizer, vocab_size and max_len of a data section that suit texts.

    Args:
        texts: of every split.
        wanted: word, unigram or bpe; None: what suits the texts.
        trial: trains a tokenizer by the first two keys, and gives the unknown shares with it.

    Returns:
        The keys, and by split the share of words that they make unknown.
    """
    rows = [text for part in texts.values() for text in part]
    words = len({word for text in rows for word in text.split()})
    chosen = wanted
    if chosen is None:
        spaced = _unseen(texts["train"]) <= UNSEEN
        chosen = "unigram" if not spaced else "bpe" if words > MANY_WORDS else "word"
    while True:
        tokens = {"tokenizer": chosen, "vocab_size": _vocabulary(chosen, words, rows)}
        shares, trained = trial(tokens)
        if wanted or chosen != "word" or max(shares.values()) <= UNKNOWN:
            break
        chosen = "unigram"
    lengths = [len(row) for row in trained.encode_rows(rows)]
    return tokens | {"max_len": min(128, max(8, int(np.quantile(lengths, 0.99))))}, shares


def _unseen(texts: Sequence[str]) -> float:
    """The share of words of one row in ten that the other rows do not have.

    Near 1 where spaces do not separate words, as in Chinese, Japanese and Thai: then every row is
    one word that no other row has.
    """
    known = {w for i, text in enumerate(texts) if i % HELD_OUT for w in text.split()}
    held = [w for text in texts[::HELD_OUT] for w in text.split()]
    return sum(word not in known for word in held) / max(1, len(held))


def _vocabulary(tokenizer: str, words: int, rows: Sequence[str]) -> int:
    """Words, or pieces: enough that frequent words are one, few enough that all are seen often."""
    if tokenizer == "word":
        return min(MOST_WORDS, max(8, words + 4))
    characters = len({mark for text in rows for mark in text})
    return max(2 * characters, min(MOST_PIECES, max(200, words // 2)))


def unknown_shares(tokenizer: Tokenizer, rows: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """By split the share of tokens that are unknown."""
    shares = {}
    for split, texts in rows.items():
        tokens = unknown = 0
        for part in tokenizer.encode_parts(texts):
            tokens += sum(len(row) - 2 for row in part)
            unknown += sum(row.count(tokenizer.unk_id) for row in part)
        shares[split] = unknown / max(1, tokens)
    return shares


def cut(row: list[int], length: int) -> list[int]:
    """Of a row that is longer than ``length`` its beginning, and EOS."""
    return row if len(row) <= length else [*row[: length - 1], row[-1]]


def write_rows(
    target: Path, prefix: str, parts: Iterable[list[list[int]]], vocab_size: int
) -> None:
    """Writes rows one after the other as ``ids``, and where each begins as ``offsets``.

    They go to disk as they come.
    """
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
    end = 0
    with (
        growing_array(target / f"{prefix}ids.npy", dtype) as add_ids,
        growing_array(target / f"{prefix}offsets.npy", np.int64) as add_offsets,
    ):
        add_offsets(np.zeros(1, np.int64))
        for rows in parts:
            lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
            add_ids(np.fromiter(itertools.chain.from_iterable(rows), dtype=dtype))
            add_offsets(end + np.cumsum(lengths))
            end += int(lengths.sum())


def write_tokenizer(target: Path, tokenizer: Tokenizer, config: DataConfig) -> dict[str, Any]:
    """Writes the tokenizer of a packed data set; returns what ``meta.json`` says of it."""
    with atomic_path(target / "tokenizer.model") as path:
        path.write_bytes(tokenizer.to_bytes())
    ids = ("vocab_size", "pad_id", "unk_id", "bos_id", "eos_id")
    return {name: getattr(tokenizer, name) for name in ids} | {
        "max_len": config.max_len,
        "tokenizer": config.tokenizer,
        "context_turns": 0,
    }
