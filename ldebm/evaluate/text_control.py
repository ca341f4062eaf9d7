"""Control over a label, scored by an evaluation classifier, and diversity beside it.

docs/method.md, section 5.6.

As many samples of every class are asked for, classified, and counted together. A model that writes
the same few sentences would score well, so that diversity stands beside it, of real text as well.

Shapes: N rows, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Packed
from ldebm.evaluate.control import wilson
from ldebm.evaluate.language import diversity
from ldebm.evaluate.report import Report, subset
from ldebm.evaluate.text_classifier import TextClassifier
from ldebm.modalities.self_filtered import self_filtered
from ldebm.model import Model

if TYPE_CHECKING:
    from ldebm.modalities.sentences import TextModel

__all__ = ["classified", "evaluate_control"]

REAL_ROWS = 2000
Classify = Callable[[Sequence[str]], "list[str | None]"]


@torch.no_grad()
def evaluate_control(
    report: Report,
    model: TextModel,
    packed: Packed,
    config: EvaluateConfig,
    folder: Path,
    mu_ND: Tensor,
) -> None:
    """Adds accuracy by class, overall and of the classifier itself, diversity, and p(y|mu).

    Args:
        report: they are added to.
        model: trained with given labels.
        packed: its data.
        config: ``per_label`` samples are drawn of every class, decoded as ``decode`` says; with
            ``control_draws`` each is one that the model itself recognises, and the scores of
            those that were not chosen so are added as ``plain_*``.
        folder: of the evaluation classifier.
        mu_ND: posterior means of the test rows.
    """
    column = model.config.cluster.column
    if model.class_names is None or column is None:
        return
    classifier = TextClassifier.load(folder)
    classifier.require(column)
    classify = partial(classifier.labels_of, column=column)
    metrics = report.metrics
    metrics["classifier_accuracy"] = classifier.accuracy[column]
    train = packed.split("train")
    rows = subset(train.n, REAL_ROWS, model.seed, "real-diversity")
    real = [packed.tokenizer.decode(train.row(int(row))) for row in rows]
    plain: dict[str, list[str]] = {}
    for number, name in enumerate(model.class_names):
        z = model.sample_latents(config.per_label, number, model.seed)
        texts = [str(text) for text in model.decode(z, config.decode, model.seed + number)]
        plain[name] = texts
    scores = _scores(plain, classify, real, model.seed)
    if config.control_draws > 1:
        metrics |= {f"plain_{name}": value for name, value in scores.items()}
        kept = {
            name: self_filtered(
                model, config.per_label, name, config.control_draws, config.decode, model.seed
            )
            for name in model.class_names
        }
        texts_of = {name: item.texts for name, item in kept.items()}
        scores = _scores(texts_of, classify, real, model.seed)
        metrics["control_recognised"] = float(np.mean([i.agreed.mean() for i in kept.values()]))
        metrics["control_mean_draws"] = float(np.mean([i.draws.mean() for i in kept.values()]))
    metrics |= scores
    classified(report, model, packed, mu_ND)


def _scores(
    by_label: dict[str, list[str]], classify: Classify, real: list[str], seed: int
) -> dict[str, float]:
    """Accuracy by class and overall with intervals, and diversity, of what was generated."""
    metrics: dict[str, float] = {}
    predicted = {name: classify(texts) for name, texts in by_label.items()}
    right = {name: sum(item == name for item in items) for name, items in predicted.items()}
    for name, count in right.items():
        low, high = wilson(count, len(predicted[name]))
        metrics |= {
            f"classified_{name}": count / len(predicted[name]),
            f"classified_{name}_low": low,
            f"classified_{name}_high": high,
        }
    total = sum(map(len, predicted.values()))
    low, high = wilson(sum(right.values()), total)
    metrics |= {
        "classified_accuracy": sum(right.values()) / total,
        "classified_low": low,
        "classified_high": high,
        "classified_samples": float(total),
    }
    generated = [text for texts in by_label.values() for text in texts]
    diverse = diversity(generated, real, seed)
    return metrics | {f"control_{name}": value for name, value in diverse.items()}


def classified(report: Report, model: Model, packed: Packed, mu_ND: Tensor) -> None:
    """Adds how often the class of largest p(y|mu) is the label of a test row, with its interval."""
    assert model.config.cluster.column is not None
    label = torch.from_numpy(
        packed.split("test").labels(model.config.cluster.column).astype("int64")
    )
    guess = model.prior.class_logits(mu_ND).argmax(-1).cpu()
    known = label >= 0
    right, rows = int((guess == label)[known].sum()), int(known.sum())
    low, high = wilson(right, rows)
    report.metrics |= {
        "accuracy": right / max(rows, 1),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_rows": float(rows),
        "accuracy_majority": float(torch.bincount(label[known]).max()) / max(rows, 1),
    }
