"""Is generated text as diverse as real text? Measured on equally many texts of either.

Self-BLEU and distinct n-grams depend on how many texts are compared, so both sides get the same
number.
"""

from __future__ import annotations

from collections.abc import Sequence

from ldebm.evaluate.language import distinct, distinct_n, self_bleu
from ldebm.seeding import numpy_generator

__all__ = ["diversity"]

ROWS = 500


def diversity(
    generated: Sequence[str], real: Sequence[str], seed: int = 0, rows: int = ROWS
) -> dict[str, float]:
    """Self-BLEU, distinct 1- and 2-grams and the share of different texts, of both sides.

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
