"""Classes of texts by their words: latent semantic analysis (Deerwester et al. 1990) and k-means.

A short text says what it is about by few words, which the latents of a small autoencoder hold only
in part. Classes that are found by all words, and then given to both stages, are what the latents
are made to tell.

Shapes: N texts, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ldebm.fitting.rows import Labels
from ldebm.seeding import derive_seed

__all__ = ["classes_from_words"]

DIMS = 10  # of the latent semantic analysis, at least: as many as classes
FEWEST = 3  # texts that have a word, at least
MOST_COMMON = (0.1, 0.5)  # of the texts have it, at most; the second where few words are left
RESTARTS = 8
NAMED_BY = 3  # words


def classes_from_words(texts: Sequence[str], classes: int, seed: int) -> Labels | None:
    """Groups texts by k-means of their semantic vectors on the unit sphere.

    Args:
        texts: N of them.
        classes: K.
        seed: of the starts.

    Returns:
        A class for every text that has one of the words, named by its most typical words; None
        where the words are too few to tell K classes.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD

    state = derive_seed(seed, "words") % 2**31
    read = next(filter(None, (_read(texts, share, classes) for share in MOST_COMMON)), None)
    if read is None:
        return None
    weights, known, words = read
    dims = min(max(DIMS, classes), weights.shape[1] - 1)
    with threadpool_limits(1):
        vectors = TruncatedSVD(dims, random_state=state).fit_transform(weights[known])
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if len(np.unique(vectors.round(6), axis=0)) < classes:
            return None
        found = KMeans(classes, n_init=RESTARTS, random_state=state).fit(vectors).labels_
    order = np.argsort(-np.bincount(found, minlength=classes), kind="stable")
    codes = np.full(len(texts), -1, dtype=np.int16)
    codes[known] = np.argsort(order)[found]
    names = []
    for number in range(classes):
        mean = np.asarray(weights[codes == number].mean(0)).ravel()
        best = np.argsort(-mean, kind="stable")[:NAMED_BY]
        names.append("/".join(words[best]))
    if len(set(names)) < classes:
        names = [f"{number}: {name}" for number, name in enumerate(names)]
    return Labels(codes, names)


def _read(texts: Sequence[str], share: float, classes: int) -> tuple[Any, np.ndarray, Any] | None:
    """Weights of words (N, words), the texts that have any, and the words; None: too few."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    reader = TfidfVectorizer(min_df=FEWEST, max_df=share, sublinear_tf=True, dtype=np.float32)
    try:
        weights = reader.fit_transform(texts)
    except ValueError:  # no word is in so many texts
        return None
    known = np.asarray(weights.getnnz(axis=1) > 0)
    if weights.shape[1] < 3 or known.sum() < max(10 * classes, len(texts) / 2):
        return None
    return weights, known, reader.get_feature_names_out()
