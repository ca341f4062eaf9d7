"""Text metrics against sacrebleu, hand-worked examples and each other."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from sacrebleu.metrics.bleu import BLEU

from ldebm.evaluate.control import control_accuracy, wilson
from ldebm.evaluate.language import (
    bleu,
    bleu_moses,
    distinct,
    distinct_n,
    self_bleu,
    unigram_divergence,
    unigram_divergence_legacy,
    unigrams,
)

REFERENCES = [
    "the cat sat on the mat near the door",
    "a dog barked at the old <unk> in the garden",
    "we will meet at noon in the small cafe",
]
HYPOTHESES = [
    "the cat sat on a mat near the door",
    "a dog barked at the the the old garden",
    "we meet at noon in the small cafe today maybe",
]


@pytest.mark.parametrize("cut", [9, 6, 4])
def test_moses_bleu_equals_sacrebleu_without_tokenisation_and_smoothing(cut: int) -> None:
    ours = [" ".join(text.split()[:cut]) for text in HYPOTHESES]
    reference = BLEU(tokenize="none", smooth_method="none", force=True)
    expected = reference.corpus_score(ours, [REFERENCES]).score
    assert bleu_moses(ours, REFERENCES) == pytest.approx(expected, abs=1e-6)


def test_bleu_is_100_for_equal_texts_and_0_without_a_common_4_gram() -> None:
    assert bleu_moses(REFERENCES, REFERENCES) == pytest.approx(100)
    assert bleu_moses(["the cat", "a b", "c d"], REFERENCES) == 0
    assert bleu_moses(["x y z w"], ["w z y x"]) == 0


def test_sacrebleu_gives_its_signature() -> None:
    score, signature = bleu(HYPOTHESES, REFERENCES)
    assert 0 < score < 100
    assert "tok:none" in signature


def test_bleu_refuses_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="2 and 3"):
        bleu_moses(HYPOTHESES[:2], REFERENCES)


def test_unigram_divergence_on_a_hand_example() -> None:
    first, second = Counter(a=3, b=1), Counter(a=1, b=1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert unigram_divergence_legacy(first, second) == pytest.approx(expected)
    assert unigram_divergence(first, second, 0.0 + 1e-12) == pytest.approx(expected)
    smoothed = 4 / 6 * math.log(4 / 6 / 0.5) + 2 / 6 * math.log(2 / 6 / 0.5)
    assert unigram_divergence(first, second) == pytest.approx(smoothed)


def test_the_published_divergence_skips_words_and_can_be_negative() -> None:
    assert unigram_divergence_legacy(Counter(a=1, new=9), Counter(a=1)) < 0
    assert unigram_divergence(Counter(a=1, new=9), Counter(a=1)) > 0
    assert unigram_divergence(Counter(a=5), Counter(a=5)) == 0


def test_clitics_are_split_from_words() -> None:
    assert unigrams(["it's john's"]) == Counter({"'s": 2, "it": 1, "john": 1})


def test_diversity_counts_different_texts_and_n_grams() -> None:
    assert distinct(["a b", "a b", "c"]) == pytest.approx(2 / 3)
    assert distinct_n(["a b a", "b"], 1) == pytest.approx(2 / 4)
    assert distinct_n(["a b a", "b"], 2) == 1
    same, other = self_bleu(["a b c d e"] * 5), self_bleu(REFERENCES)
    assert same == pytest.approx(100)
    assert other < 40


def test_wilson_interval_encloses_the_share_and_shrinks() -> None:
    low, high = wilson(90, 100)
    assert low < 0.9 < high
    assert wilson(900, 1000)[0] > low
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0


def test_control_accuracy_pools_counts_and_counts_undecided_as_wrong() -> None:
    def classify(text: str) -> str | None:
        return {"g": "good", "b": "bad"}.get(text[0])

    control = control_accuracy({"good": ["g1", "g2", "b1", "?"], "bad": ["b1", "b1"]}, classify)
    assert control.accuracy == pytest.approx(4 / 6)
    assert control.undecided == pytest.approx(1 / 6)
    assert control.per_label == {"good": 0.5, "bad": 1.0}
    assert control.low < control.accuracy < control.high
    assert control.distinct == pytest.approx((4 * 1 + 2 * 0.5) / 6)
    with pytest.raises(ValueError, match="at least one sample"):
        control_accuracy({"good": []}, classify)
