"""Text metrics: BLEU, unigram divergence, reverse perplexity, diversity.

docs/method.md, section 5.3.

Texts are tokens joined by single spaces.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from ldebm.seeding import numpy_generator

__all__ = [
    "bleu",
    "bleu_moses",
    "distinct",
    "distinct_n",
    "diversity",
    "reverse_perplexity",
    "self_bleu",
    "unigram_divergence",
    "unigram_divergence_legacy",
    "unigrams",
]

ORDER = 4  # of BLEU
PART = 4096  # sentences that are compared at a time


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU by sacrebleu and its signature; the texts are tokenised already.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    from sacrebleu.metrics.bleu import BLEU  # loading takes half a second

    _check(hypotheses, references)
    metric = BLEU(tokenize="none", force=True)
    counts, totals, lengths = np.zeros(ORDER, int), np.zeros(ORDER, int), np.zeros(2, int)
    for start in range(0, len(hypotheses), PART):  # it keeps a list for every sentence it is given
        rows = slice(start, start + PART)
        part = metric.corpus_score(list(hypotheses[rows]), [list(references[rows])])
        counts, totals = counts + part.counts, totals + part.totals
        lengths += (part.sys_len, part.ref_len)
    score = metric.compute_bleu(
        counts.tolist(), totals.tolist(), int(lengths[0]), int(lengths[1]), metric.smooth_method
    )
    return float(score.score), str(metric.get_signature())


def bleu_moses(hypotheses: Sequence[str], references: Sequence[str], order: int = ORDER) -> float:
    """BLEU as multi-bleu.perl defines it: no smoothing, 0 if an order has no match, x 100.

    Counts are clipped per sentence and pooled; one reference; the brevity penalty is exp(1 - r/c)
    where the hypotheses have c tokens and the references r > c.

    Raises:
        ValueError: the lists differ in length or are empty.

    Example:
        >>> round(bleu_moses(["the cat sat on the mat"], ["the cat sat on a mat"]), 2)
        53.73
    """
    _check(hypotheses, references)
    matches, totals = [0] * order, [0] * order
    length = reference_length = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = hypothesis.split(), reference.split()
        length, reference_length = length + len(ours), reference_length + len(theirs)
        for n in range(1, order + 1):
            counts = _ngrams(ours, n)
            matches[n - 1] += (counts & _ngrams(theirs, n)).total()
            totals[n - 1] += counts.total()
    if min(matches) == 0:
        return 0.0
    precision = sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / order
    penalty = min(0.0, 1 - reference_length / length)
    return 100 * math.exp(precision + penalty)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"BLEU needs as many hypotheses as references and at least one, got {len(hypotheses)} "
            f"and {len(references)}"
        )


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def unigrams(texts: Iterable[str]) -> Counter[str]:
    """Word counts; "'s" is split off, as the published script does."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.replace("'s", " 's").split())
    return counts


def unigram_divergence_legacy(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """wKL(first || second) in nats; words that ``second`` lacks are skipped, so it can be negative.

    The published direction is generated || train.

    Example:
        >>> round(unigram_divergence_legacy({"a": 1, "b": 1}, {"a": 3, "b": 1}), 4)
        0.1438
    """
    n, m = sum(first.values()), sum(second.values())
    if not n or not m:
        return math.nan
    return sum(
        count / n * math.log(count / n * m / second[word])
        for word, count in first.items()
        if second.get(word)
    )


def unigram_divergence(
    first: Mapping[str, int], second: Mapping[str, int], smoothing: float = 1.0
) -> float:
    """wKL(first || second) with ``smoothing`` added to every word of either: never negative."""
    words = sorted(first.keys() | second.keys())
    n = sum(first.values()) + smoothing * len(words)
    m = sum(second.values()) + smoothing * len(words)
    total = 0.0
    for word in words:
        p = (first.get(word, 0) + smoothing) / n
        q = (second.get(word, 0) + smoothing) / m
        total += p * math.log(p / q)
    return total


def distinct(texts: Sequence[str]) -> float:
    """Share of different texts."""
    return len(set(texts)) / max(len(texts), 1)


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016)."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(_ngrams(text.split(), n))
    return len(counts) / max(counts.total(), 1)


def self_bleu(texts: Sequence[str], rows: int = 200) -> float:
    """Mean smoothed sentence BLEU of a text against ``rows`` others (Zhu et al. 2018): low is
    diverse. The first ``rows`` texts are compared.
    """
    from sacrebleu.metrics.bleu import BLEU

    texts = list(texts[:rows])
    if len(texts) < 2:
        return math.nan
    metric = BLEU(tokenize="none", force=True, effective_order=True, smooth_method="floor")
    values = [
        metric.sentence_score(text, texts[:index] + texts[index + 1 :]).score
        for index, text in enumerate(texts)
    ]
    return float(sum(values) / len(values))


def reverse_perplexity(
    generated: Sequence[Sequence[int]],
    real_train: Sequence[Sequence[int]],
    test: Sequence[Sequence[int]],
    vocab_size: int,
    kind: Literal["gru", "awd_lstm"],
    epochs: int,
    seed: int,
    threads: int,
) -> dict[str, float]:
    """Perplexity on real test text of a language model trained on generated text.

    Args:
        generated: token ids of generated sentences without BOS and EOS. The last 3 of 43 validate
            the language model, as published.
        real_train: real training sentences, of which as many are used: the bound ``rppl_real``
            that a perfect generator reaches.
        test: real test sentences.
        vocab_size: V.
        kind: "gru" or "awd_lstm".
        epochs: of either model.
        seed: of either model.
        threads: for training.
    """
    from ldebm.nn.lm import perplexity, train_language_model

    def score(sentences: Sequence[Sequence[int]]) -> float:
        cut = max(1, len(sentences) * 40 // 43)
        train, valid = sentences[:cut], sentences[cut:] or None
        model = train_language_model(train, vocab_size, kind, epochs, seed, threads, valid)
        return float(perplexity(model, test))

    return {"rppl": score(generated), "rppl_real": score(real_train[: len(generated)])}


def diversity(
    generated: Sequence[str], real: Sequence[str], seed: int = 0, rows: int = 500
) -> dict[str, float]:
    """Self-BLEU, distinct 1- and 2-grams and the share of different texts, of both sides.

    They depend on how many texts are compared, so both sides get the same number.

    Args:
        generated: sampled texts, of all classes.
        real: training texts.
        seed: of the choice of texts.
        rows: texts of either side that are compared, at most.

    Returns:
        ``self_bleu``, ``distinct_1``, ``distinct_2``, ``distinct``, the same with ``_real``, and
        ``self_bleu_excess``, how far generated texts are more like each other than real ones.

    Raises:
        ValueError: a side has fewer than two texts.
    """
    count = min(rows, len(generated), len(real))
    if count < 2:
        raise ValueError(f"diversity: {count} texts to compare; expected at least 2 of either side")
    result: dict[str, float] = {}
    for suffix, texts in (("", generated), ("_real", real)):
        order = numpy_generator(seed, "diversity", suffix, len(texts)).permutation(len(texts))
        chosen = [texts[int(index)] for index in order[:count]]
        result[f"self_bleu{suffix}"] = self_bleu(chosen, count)
        result[f"distinct_1{suffix}"] = distinct_n(chosen, 1)
        result[f"distinct_2{suffix}"] = distinct_n(chosen, 2)
        result[f"distinct{suffix}"] = distinct(chosen)
    result["self_bleu_excess"] = result["self_bleu"] - result["self_bleu_real"]
    return result
