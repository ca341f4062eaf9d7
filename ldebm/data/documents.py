"""Documents as bags of words: which words count, and how often each is there.

docs/method.md, section 6.6.

Words are as in VAMPIRE (Gururangan et al. 2019), whose files Pang and Wu (2021) use: runs of 3 to
30 letters, in lower case, without English stop words. They are numbered by a word tokenizer, so
that ids below :data:`FIRST_WORD` are control tokens, which no document holds.

Shapes: V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from ldebm.data.tokenizer import Tokenizer, train_tokenizer
from ldebm.errors import UsageError

__all__ = ["FIRST_WORD", "bags", "document_words", "log_frequencies", "train_vocabulary"]

FIRST_WORD = 4  # ids of words start here, after pad, unk, bos and eos
ABSENT = 1e-12  # frequency of what training documents do not hold
WORD = re.compile(r"\b[^\d\W]{3,30}\b")


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def document_words(text: str) -> str:
    """The words of a document that count, in its order, joined by single spaces.

    Example:
        >>> document_words("The 3 markets fell; markets were down.")
        'markets fell markets'
    """
    words = WORD.findall(text.lower())
    return " ".join(word for word in words if word not in _stop_words())


def train_vocabulary(words: Sequence[str], vocab_size: int) -> Tokenizer:
    """The most frequent words of training documents, which :func:`document_words` has made.

    Raises:
        UsageError: none has a word.
    """
    if not any(words):
        raise UsageError(
            "documents: no training document has a known word; words are runs of 3 to 30 letters "
            "that are no English stop words"
        )
    return train_tokenizer(words, "word", vocab_size)


def bags(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every document the rising ids of its known words (int64) and their counts (int64)."""
    rows = tokenizer.encode_rows([document_words(text) for text in texts])
    pairs = []
    for row in rows:
        ids, counts = np.unique(np.array(row, dtype=np.int64), return_counts=True)
        pairs.append((ids[ids >= FIRST_WORD], counts[ids >= FIRST_WORD]))
    return pairs


def log_frequencies(ids: np.ndarray, counts: np.ndarray, vocab_size: int) -> np.ndarray:
    """Log relative frequency of every word; log 1e-12 for those that do not occur, float32 (V).

    Example:
        >>> logs = log_frequencies(np.array([4, 5, 4]), np.array([1, 2, 1]), 7)
        >>> [round(float(value), 3) for value in logs[4:6]]
        [-0.693, -0.693]
    """
    total = np.bincount(ids, weights=counts, minlength=vocab_size)
    share = total / max(float(total.sum()), 1.0)
    logs = np.full(vocab_size, math.log(ABSENT), dtype=np.float32)
    logs[share > 0] = np.log(share[share > 0])
    return logs
