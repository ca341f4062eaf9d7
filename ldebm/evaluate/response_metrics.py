"""How near a response is to the true one in the space of word vectors.

docs/method.md, section 5.5.

Average, extrema and greedy matching (Liu et al., How NOT To Evaluate Your Dialogue System, 2016)
as the public code computes them: tags and unknown words are dropped, pairs where either side is
then empty are left out, and the mean over the others is multiplied by 100.

Shapes: n and m tokens of two texts, E dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ldebm.evaluate.word_vectors import WordVectors

__all__ = ["average", "extrema", "greedy", "response_metrics"]


def response_metrics(
    responses: Sequence[str], references: Sequence[str], vectors: WordVectors
) -> dict[str, float]:
    """``embedding_average``, ``_extrema``, ``_greedy`` (per cent); the share of pairs they cover.

    Args:
        responses: generated, one a context.
        references: the true ones, in the same order.
        vectors: of words.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(responses) != len(references) or not responses:
        raise ValueError(
            f"responses: {len(responses)}, references: {len(references)}; expected as many of "
            "both, and at least one"
        )
    scores = []
    for response, reference in zip(responses, references, strict=True):
        ours, theirs = vectors.of(response), vectors.of(reference)
        if len(ours) and len(theirs):
            scores.append((average(ours, theirs), extrema(ours, theirs), greedy(ours, theirs)))
    names = ("embedding_average", "embedding_extrema", "embedding_greedy")
    means = 100 * np.mean(scores, axis=0) if scores else [math.nan] * len(names)
    result = {name: float(value) for name, value in zip(names, means, strict=True)}
    result["embedding_pairs"] = len(scores) / len(responses)
    return result


def _unit(vectors: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norm, 1e-12))


def average(ours_nE: np.ndarray, theirs_mE: np.ndarray) -> float:
    """Cosine of the mean vectors."""
    return float(_unit(ours_nE.mean(0)) @ _unit(theirs_mE.mean(0)))


def extrema(ours_nE: np.ndarray, theirs_mE: np.ndarray) -> float:
    """Cosine of the vectors of the values that are largest by magnitude in each dimension."""
    return float(_unit(_extreme(ours_nE)) @ _unit(_extreme(theirs_mE)))


def _extreme(vectors_nE: np.ndarray) -> np.ndarray:
    """The signed value of the largest magnitude of every dimension; the lower one of equals."""
    low, high = vectors_nE.min(0), vectors_nE.max(0)
    return np.asarray(np.where(high > np.abs(low), high, low))


def greedy(ours_nE: np.ndarray, theirs_mE: np.ndarray) -> float:
    """Mean cosine of every word with the nearest of the other text, both ways."""
    cosine_nm = _unit(ours_nE) @ _unit(theirs_mE).T
    return float((cosine_nm.max(1).mean() + cosine_nm.max(0).mean()) / 2)
