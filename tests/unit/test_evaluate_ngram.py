"""Kneser-Ney against its definition, and gaps filled by both neighbours."""

import math

import numpy as np
import pytest

from ldebm.evaluate.ngram import KneserNey

# 0 pad, 1 unk, 2 bos, 3 eos
ROWS = [[2, 4, 5, 6, 3], [2, 4, 5, 7, 3], [2, 8, 5, 6, 3], [2, 9, 7, 3]]


def test_probabilities_sum_to_one_and_agree_with_the_distribution():
    model = KneserNey(ROWS, 12)
    for context in ([2], [2, 2], [2, 4], [4, 5], [5, 11], [11, 10]):
        share = model.distribution(context)
        assert share.sum() == pytest.approx(1)
        assert share.min() > 0
        assert [model.probability(context, word) for word in range(12)] == pytest.approx(
            list(share)
        )


def test_a_trigram_by_hand():
    model, d = KneserNey(ROWS, 12), 0.75
    # Words after any word: 4, 8, 9 and 6 after one, 5 and 3 after two, 7 after two: ten bigrams.
    bigrams = {(a, b) for row in ROWS for a, b in zip([2, *row[:-1]], row, strict=True) if b != 2}
    total, types = len(bigrams), len({b for _, b in bigrams})
    follows = len({a for a, b in bigrams if b == 6})
    unigram = (follows - d + d * types / 12) / total
    # After 5: 6 (before it 4 and 8) and 7 (before it 4).
    bigram = ((2 - d) + d * 2 * unigram) / 3
    trigram = ((1 - d) + d * 2 * bigram) / 2  # after "4 5": 6 once, 7 once
    assert model.probability([4, 5], 6) == pytest.approx(trigram)


def test_an_unseen_history_backs_off():
    model = KneserNey(ROWS, 12)
    assert np.allclose(model.distribution([11, 5]), model.distribution([5]))
    assert np.allclose(model.distribution([11]), model.distribution([]))


def test_a_gap_takes_what_fits_on_both_sides():
    rows = [[2, 4, 5, 6, 3]] * 3 + [[2, 4, 7, 8, 3]] * 2
    model = KneserNey(rows, 12)
    never = (0, 1, 2, 3)
    assert model.fill([2, 4, 1, 6, 3], [False, False, True, False, False], never, 1, 8)[2] == 5
    assert model.fill([2, 4, 1, 8, 3], [False, False, True, False, False], never, 1, 8)[2] == 7
    assert model.fill([2, 4, 1, 8, 3], [False, False, True, False, False], never, 1, 1)[2] == 5
    both = model.fill([2, 4, 1, 1, 3], [False, False, True, True, False], never, 1, 8)
    assert both == [2, 4, 5, 6, 3]
    assert model.fill([2, 1, 3], [False, True, False], (*never, 4), 1, 8)[1] != 4
    assert model.fill([2, 1, 3], [False, False, False], never, 1, 8) == [2, 1, 3]
    assert math.isfinite(model.probability([3, 3], 11))


def test_a_wide_beam_finds_the_most_probable_row():
    model, never = KneserNey(ROWS, 12), (0, 1, 2, 3)
    filled = model.fill([2, 1, 5, 1, 3], [False, True, False, True, False], never, 1, 64)

    def score(row: list[int]) -> float:
        padded = [2, *row]
        return sum(math.log(model.probability(padded[: i + 1], row[i])) for i in range(1, 5))

    words = range(4, 12)
    assert filled == max(([2, a, 5, b, 3] for a in words for b in words), key=score)
