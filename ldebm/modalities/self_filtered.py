"""Sentences of a class that the model itself recognises: rejection by its own p(y|x).

z is drawn from p(z|y) and the words from p(x|z), as always; of several such draws the first is kept
whose class the model's own encoder and symbol vector find to be y: the argmax of p(y|mu(x)). What
is kept has the distribution p(x|y) restricted to those sentences, so that words can be drawn, which
keeps sentences diverse, without losing the class on the way. No other classifier is asked.

Shapes: N sentences, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ldebm.errors import UsageError
from ldebm.seeding import derive_seed

if TYPE_CHECKING:
    from ldebm.modalities.sentences import TextModel

__all__ = ["SelfFiltered", "self_filtered"]

ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class SelfFiltered:
    """Sentences of one class.

    Attributes:
        texts: N of them.
        agreed: whether the model finds the class in each (N,).
        draws: how many were drawn for each (N,).
    """

    texts: list[str]
    agreed: np.ndarray
    draws: np.ndarray


def self_filtered(
    model: TextModel, n: int, label: int | str, draws: int, mode: str = "sample", seed: int = 0
) -> SelfFiltered:
    """n sentences of a class, each the first of at most ``draws`` in which the model finds it.

    Where it finds it in none, the one with the largest p(y|x) is kept. The first draws are the
    sentences of :meth:`Model.generate`.

    Args:
        model: of sentences, with classes and without contexts.
        n: how many.
        label: class, by name or number.
        draws: of each, at most.
        mode: ``sample`` or ``greedy``: how words are chosen given the latent.
        seed: of the draws.

    Raises:
        UsageError: the model is not such a one, or has no such class.
    """
    if type(model).task != "text" or not model.prior.has_classes:
        raise UsageError(
            f"{model.experiment}: only models of sentences with classes choose among several draws"
        )
    number = model.label_index(label)
    assert number is not None
    texts, best_N = [""] * n, np.full(n, -1.0)
    agreed_N, draws_N = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
    for draw in range(draws):
        rows = np.flatnonzero(~agreed_N)
        if not len(rows):
            break
        own_seed = seed if draw == 0 else derive_seed(seed, "draw", draw)
        drawn = [str(text) for text in model.generate(len(rows), number, own_seed, mode)]
        p_NK = _own_classes(model, drawn)
        agreed = p_NK.argmax(-1) == number
        for place in np.flatnonzero(agreed | (p_NK[:, number] > best_N[rows])).tolist():
            texts[rows[place]], best_N[rows[place]] = drawn[place], p_NK[place, number]
        agreed_N[rows], draws_N[rows] = agreed, draw + 1
    return SelfFiltered(texts, agreed_N, draws_N)


def _own_classes(model: TextModel, texts: list[str]) -> np.ndarray:
    """p(y|mu(x)) (N, K + 1); the last column is 1 where a sentence is empty, which has no class."""
    p_NK = np.zeros((len(texts), model.prior.classes + 1))
    full = np.array([index for index, text in enumerate(texts) if text.strip()], dtype=np.int64)
    for start in range(0, len(full), ROWS_AT_ONCE):
        rows = full[start : start + ROWS_AT_ONCE]
        p_NK[rows, :-1] = model.classify([texts[row] for row in rows], at_mean=True)
    p_NK[p_NK.sum(-1) == 0, -1] = 1
    return p_NK
