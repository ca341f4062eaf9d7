"""Word vectors for the metrics of responses: GloVe from a file, or made from the training text.

Vectors of the training text are the truncated SVD of its positive pointwise mutual information
(Levy, Goldberg and Dagan, Improving Distributional Similarity with Lessons Learned from Word
Embeddings, 2015): contexts are smoothed by the power 3/4 and the singular values enter by their
root. Scores under different vectors cannot be compared, so :attr:`WordVectors.origin` is to stand
beside every number.

Shapes: V words, E dimensions, n tokens of a text.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.data.registry import find_source
from ldebm.errors import UsageError
from ldebm.files import hash_path

__all__ = ["WordVectors", "ppmi_vectors", "read_vectors", "word_vectors"]

DIMENSIONS, WINDOW, MIN_COUNT = 300, 5, 2
SMOOTHING = 0.75  # power of the context frequencies


@dataclass(frozen=True)
class WordVectors:
    """Vectors of words.

    Attributes:
        index: word -> row of ``matrix``.
        matrix: float32 (V, E).
        origin: where they are from, in words.
    """

    index: dict[str, int]
    matrix: np.ndarray
    origin: str

    def of(self, text: str) -> np.ndarray:
        """Vectors of the words of ``text`` that are known and no tags (``<unk>``), (n, E)."""
        words = (w for w in text.split() if not (w.startswith("<") or w.endswith(">")))
        return self.matrix[[self.index[word] for word in words if word in self.index]]


def word_vectors(texts: Sequence[str], path: str | Path | None, seed: int = 0) -> WordVectors:
    """Vectors of a local GloVe file where one is given, else of the training text.

    Args:
        texts: training texts, words joined by spaces; they bound the vocabulary.
        path: a GloVe text file, or the zip of the registry's source ``glove``.
        seed: of the SVD.

    Raises:
        UsageError: the file is missing, damaged, or another edition of a registered one.
    """
    if path is None:
        return ppmi_vectors(texts, seed=seed)
    words = {word for text in texts for word in text.split()}
    return read_vectors(Path(path), words)


def read_vectors(path: Path, words: set[str]) -> WordVectors:
    """The vectors of ``words`` in a GloVe file: a word and its numbers a line.

    Of an archive the file with the most dimensions is read; the archive of the registry is checked
    by its sha256.

    Raises:
        UsageError: the file is missing, damaged, another edition, or has none of the words.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; give evaluate.word_vectors a GloVe file, or leave it out"
        )
    name, lines = path.name, _lines(path)
    index: dict[str, int] = {}
    rows: list[np.ndarray] = []
    for number, line in enumerate(lines, 1):
        word, _, numbers = line.rstrip("\n").partition(" ")
        if word not in words or word in index:
            continue
        row = np.fromstring(numbers, dtype=np.float32, sep=" ") if numbers else np.empty(0)
        if not len(row) or (rows and len(row) != len(rows[0])) or not np.isfinite(row).all():
            raise UsageError(f"{path}: line {number}: {len(row)} numbers; expected a GloVe file")
        index[word] = len(rows)
        rows.append(row)
    if not rows:
        raise UsageError(f"{path}: has no vector of a word of the training text")
    matrix = np.stack(rows)
    return WordVectors(index, matrix, f"{name}, {matrix.shape[1]} dimensions")


def _lines(path: Path) -> Iterator[str]:
    if path.suffix != ".zip":
        with path.open(encoding="utf-8", errors="replace") as stream:
            yield from stream
        return
    for known in find_source("glove").files:
        if known.name == path.name and hash_path(path) != known.sha256:
            raise UsageError(f"{path}: wrong sha256; expected {known.sha256} of source 'glove'")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".txt")]
            largest = max(members, key=lambda item: item.file_size)
            with archive.open(largest) as packed:
                yield from io.TextIOWrapper(packed, encoding="utf-8", errors="replace")
    except (zipfile.BadZipFile, ValueError) as error:
        raise UsageError(f"{path}: no archive of GloVe files ({error})") from None


def ppmi_vectors(
    texts: Iterable[str],
    dimensions: int = DIMENSIONS,
    window: int = WINDOW,
    min_count: int = MIN_COUNT,
    seed: int = 0,
) -> WordVectors:
    """Vectors by SVD of the positive PMI of neighbours in ``texts``.

    Args:
        texts: words joined by spaces; words of different texts are no neighbours.
        dimensions: E, at most one less than the words.
        window: words to either side; a neighbour at distance d counts 1/d.
        min_count: rarer words get no vector.
        seed: of the randomised SVD.

    Raises:
        UsageError: fewer than three words are frequent enough.
    """
    from sklearn.utils.extmath import randomized_svd

    sentences = [text.split() for text in texts]
    counts = Counter(word for words in sentences for word in words)
    known = sorted(word for word, count in counts.items() if count >= min_count)
    if len(known) < 3:
        raise UsageError(
            f"word vectors: {len(known)} words occur at least {min_count} times in the training "
            "text; more text is needed"
        )
    index = {word: number for number, word in enumerate(known)}
    matrix = _ppmi(_neighbours(sentences, index, window))
    rank = min(dimensions, len(known) - 1)
    left, values, _ = randomized_svd(matrix, rank, n_iter=4, random_state=seed)
    vectors = np.ascontiguousarray(left * np.sqrt(values), dtype=np.float32)
    origin = f"SVD of the training text's PPMI, window {window}, {rank} dimensions"
    return WordVectors(index, vectors, origin)


def _neighbours(sentences: list[list[str]], index: dict[str, int], window: int) -> Any:
    """Weighted counts of neighbours, sparse (V, V), symmetric."""
    from scipy.sparse import coo_matrix

    flat = np.array([index.get(word, -1) for words in sentences for word in words], dtype=np.int64)
    owner = np.repeat(np.arange(len(sentences)), [len(words) for words in sentences])
    size = len(index)
    total = coo_matrix((size, size)).tocsr()
    for distance in range(1, window + 1):
        first, second = flat[:-distance], flat[distance:]
        real = (owner[:-distance] == owner[distance:]) & (first >= 0) & (second >= 0)
        weight = np.full(int(real.sum()), 1.0 / distance)
        total += coo_matrix((weight, (first[real], second[real])), shape=(size, size)).tocsr()
    return total + total.T


def _ppmi(counts: Any) -> Any:
    """max(0, log p(w, c) / (p(w) p(c)^0.75)) of a sparse count matrix."""
    table = counts.tocoo()
    total = table.sum()
    if total == 0:
        raise UsageError("word vectors: the training text has no two words beside each other")
    p_word = np.asarray(counts.sum(1)).ravel() / total
    contexts = np.asarray(counts.sum(0)).ravel() ** SMOOTHING
    p_context = contexts / contexts.sum()
    value = np.log(table.data / total) - np.log(p_word[table.row] * p_context[table.col])
    table.data = np.maximum(value, 0.0)
    result = table.tocsr()
    result.eliminate_zeros()
    return result
