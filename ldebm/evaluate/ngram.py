"""Interpolated Kneser-Ney trigrams (Chen and Goodman 1999, eq. 2.25), and filling gaps with them.

Sentences are token ids from BOS to EOS; V is the vocabulary.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["KneserNey"]

ORDER = 3
CANDIDATES = 100  # of a gap: by the words before it; those after choose among them
Counts = dict[tuple[int, ...], dict[int, int]]


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
        found = []
        for length in range(min(ORDER - 1, len(history)) + 1):
            suffix = history[len(history) - length :]
            level = ORDER - 1 - length
            if suffix in self._totals[level]:
                found.append((level, suffix))
        return found

    def fill(
        self, row: Sequence[int], gaps: Sequence[bool], never: Sequence[int], unknown: int
    ) -> list[int]:
        """The row with its gaps filled from left to right.

        A gap takes the word that makes it and what follows, as far as that is known, most probable.

        Args:
            row: BOS to EOS.
            gaps: which tokens are missing.
            never: tokens that fill no gap.
            unknown: id of the unknown word, which says nothing of its neighbours.
        """
        filled = [int(token) for token in row]
        start = [filled[0]] * (ORDER - 2)
        for place in range(1, len(filled)):
            if not gaps[place]:
                continue
            before = start + filled[:place]
            share = self.distribution(before)
            share[list(never)] = 0
            best = np.argpartition(-share, min(CANDIDATES, len(share) - 1))[:CANDIDATES]
            best = best[np.lexsort((best, -share[best]))]
            after: list[int] = []
            for token, gap in zip(
                filled[place + 1 : place + ORDER], gaps[place + 1 :], strict=False
            ):
                if gap or token == unknown:
                    break
                after.append(token)
            scores = [self._score(before, int(word), float(share[word]), after) for word in best]
            filled[place] = int(best[int(np.argmax(scores))])
        return filled

    def _score(self, before: list[int], word: int, share: float, after: list[int]) -> float:
        if share == 0:
            return -math.inf
        score, history = math.log(share), [*before, word]
        for token in after:
            score += math.log(self.probability(history, token))
            history = [*history, token]
        return score
