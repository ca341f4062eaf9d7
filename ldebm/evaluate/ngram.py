"""Interpolated Kneser-Ney trigrams (Chen and Goodman 1999), and filling gaps with them.

Sentences are token ids from BOS to EOS; V is the vocabulary.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["KneserNey"]

ORDER = 3
Counts = dict[tuple[int, ...], dict[int, int]]
Hypothesis = tuple[float, list[int]]  # log-probability and words


class KneserNey:
    """An n-gram language model.

    Args:
        sentences: training rows, BOS to EOS.
        vocab_size: V.
        discount: taken off every count.
    """

    def __init__(
        self, sentences: Iterable[Sequence[int]], vocab_size: int, discount: float = 0.75
    ) -> None:
        self.vocab_size, self.discount = vocab_size, discount
        highest: Counts = defaultdict(lambda: defaultdict(int))
        for row in sentences:
            padded = [int(row[0])] * (ORDER - 2) + [int(token) for token in row]
            for end in range(ORDER - 1, len(padded)):
                highest[tuple(padded[end - ORDER + 1 : end])][padded[end]] += 1
        self._counts: list[Counts] = [highest]
        while len(self._counts) < ORDER:  # of lower orders: how many words come before
            lower: Counts = defaultdict(lambda: defaultdict(int))
            for context, words in self._counts[-1].items():
                for word in words:
                    lower[context[1:]][word] += 1
            self._counts.append(lower)
        self._totals = [
            {context: sum(words.values()) for context, words in counts.items()}
            for counts in self._counts
        ]

    def probability(self, context: Sequence[int], word: int) -> float:
        """p(word | the last two words of ``context``)."""
        value = 1 / self.vocab_size
        for level, history in self._levels(context):
            words, total = self._counts[level][history], self._totals[level][history]
            seen = max(words.get(word, 0) - self.discount, 0)
            value = (seen + self.discount * len(words) * value) / total
        return value

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """p(w | the last two words of ``context``) of all words, (V,)."""
        value = np.full(self.vocab_size, 1 / self.vocab_size)
        for level, history in self._levels(context):
            words, total = self._counts[level][history], self._totals[level][history]
            value *= self.discount * len(words) / total
            known = np.fromiter(words, dtype=np.int64)
            counts = np.fromiter(words.values(), dtype=np.float64)
            value[known] += np.maximum(counts - self.discount, 0) / total
        return value

    def _levels(self, context: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        """(level, history) of what was seen, the shortest history first."""
        history = tuple(int(token) for token in context[-(ORDER - 1) :])
        levels = []
        for length in range(min(ORDER - 1, len(history)) + 1):
            suffix = history[len(history) - length :]
            level = ORDER - 1 - length
            if suffix in self._totals[level]:
                levels.append((level, suffix))
        return levels

    def fill(
        self,
        row: Sequence[int],
        gaps: Sequence[bool],
        never: Sequence[int],
        unknown: int,
        beam: int,
    ) -> list[int]:
        """The row with its gaps filled so that all of it is most probable, by a beam search.

        Args:
            row: BOS to EOS.
            gaps: which tokens are missing.
            never: tokens that fill no gap.
            unknown: id of the unknown word, which says nothing of its neighbours.
            beam: hypotheses that are kept; with one, a gap does not see what follows it.
        """
        padding = ORDER - 2
        hypotheses = [(0.0, [int(row[0])] * (padding + 1))]
        for token, gap in zip(row[1:], gaps[1:], strict=True):
            if gap:
                hypotheses = self._branch(hypotheses, never, beam)
            elif token == unknown:
                hypotheses = [(score, [*words, unknown]) for score, words in hypotheses]
            else:
                hypotheses = [
                    (score + math.log(self.probability(words, int(token))), [*words, int(token)])
                    for score, words in hypotheses
                ]
        return max(hypotheses, key=lambda item: item[0])[1][padding:]

    def _branch(
        self, hypotheses: list[Hypothesis], never: Sequence[int], beam: int
    ) -> list[Hypothesis]:
        """The best of what continues hypotheses by one word."""
        longer: list[Hypothesis] = []
        for score, words in hypotheses:
            share = self.distribution(words)
            share[list(never)] = 0
            best = np.argpartition(-share, min(beam, len(share) - 1))[:beam]
            longer += [
                (score + math.log(share[word]), [*words, int(word)]) for word in best if share[word]
            ]
        return sorted(longer, key=lambda item: (-item[0], item[1]))[:beam]
