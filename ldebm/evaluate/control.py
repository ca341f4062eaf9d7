"""Does a sample asked for a label have it? Pooled counts, every class, an interval.

docs/method.md, section 5.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ldebm.data.packed import Packed
from ldebm.evaluate.language import distinct

__all__ = ["EXACT", "Classifier", "Control", "classifiers_for", "control_accuracy", "wilson"]

Classifier = Callable[[str], "str | None"]
EXACT = "exact "  # before a column's name: the classifier that knows only perfect sentences


@dataclass(frozen=True)
class Control:
    """Accuracy of label-conditional generation.

    Attributes:
        accuracy: pooled over all samples.
        low: lower end of the 95 % Wilson interval.
        high: upper end.
        undecided: share of samples that the classifier gives no label.
        distinct: share of samples that differ from all others of their label.
        per_label: accuracy of every label asked for.
    """

    accuracy: float
    low: float
    high: float
    undecided: float
    distinct: float
    per_label: dict[str, float]


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson interval of a share.

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]
    """
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, z * z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    half = z * spread / (1 + square / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def control_accuracy(
    samples: Mapping[str, Sequence[str]], classify: Callable[[str], str | None]
) -> Control:
    """Classifies what was generated for every label.

    Args:
        samples: label -> generated texts.
        classify: text -> label, or ``None`` where it cannot tell (which counts as wrong).

    Raises:
        ValueError: there is no sample.
    """
    right = undecided = total = 0
    per_label, distinct_total = {}, 0.0
    for label, texts in samples.items():
        if not texts:
            continue
        predicted = [classify(text) for text in texts]
        hits = sum(item == label for item in predicted)
        right, total = right + hits, total + len(texts)
        undecided += sum(item is None for item in predicted)
        per_label[label] = hits / len(texts)
        distinct_total += distinct(texts) * len(texts)
    if total == 0:
        raise ValueError("control accuracy needs at least one sample")
    low, high = wilson(right, total)
    return Control(right / total, low, high, undecided / total, distinct_total / total, per_label)


def classifiers_for(packed: Packed) -> dict[str, Classifier]:
    """label column -> what names the label of a text.

    For the grammar of ``chatter`` its oracle: by cue words, and under "exact <column>" the strict
    one that knows only sentences of the grammar. Otherwise naive Bayes on the training words.
    """
    if packed.meta.get("source") == "chatter":
        from ldebm.data.chatter import classify, classify_soft

        return {
            "intent": lambda text: classify_soft(text)[0],
            "sentiment": lambda text: classify_soft(text)[1],
            EXACT + "intent": lambda text: (classify(text) or (None, None))[0],
            EXACT + "sentiment": lambda text: (classify(text) or (None, None))[1],
        }
    return {column: _word_classifier(packed, column) for column in packed.meta.get("labels", {})}


def _word_classifier(packed: Packed, column: str) -> Classifier:
    """Multinomial naive Bayes on token counts with add-one smoothing (no oracle exists)."""
    split, tokenizer = packed.split("train"), packed.tokenizer
    names = [str(name) for name in packed.meta["labels"][column]]
    label = torch.from_numpy(np.array(split.labels(column), dtype=np.int64))
    vocabulary = tokenizer.vocab_size
    counts = torch.ones(len(names), vocabulary, dtype=torch.float64)
    row_N = torch.repeat_interleave(torch.arange(split.n), torch.as_tensor(split.lengths).long())
    known = label[row_N] >= 0
    tokens = torch.as_tensor(split.ids[: len(row_N)].astype("int64"))
    index = label[row_N][known] * vocabulary + tokens[known]
    counts += torch.bincount(index, minlength=len(names) * vocabulary).reshape(counts.shape)
    prior = torch.bincount(label[label >= 0], minlength=len(names)).double() + 1
    log_word = (counts / counts.sum(1, keepdim=True)).log()
    log_prior = (prior / prior.sum()).log()

    def classify(text: str) -> str | None:
        ids = tokenizer.encode(text)[1:-1]
        return names[int((log_prior + log_word[:, ids].sum(1)).argmax())] if ids else None

    return classify
