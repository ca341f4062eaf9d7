"""Evaluates a trained model with everything its kind of data allows, and writes the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Measure, Packed
from ldebm.evaluate.on_images import evaluate_images
from ldebm.evaluate.on_points import evaluate_points
from ldebm.evaluate.on_text import EXACT, Classifier, evaluate_text
from ldebm.evaluate.report import Report
from ldebm.evaluate.views import add_views
from ldebm.files import read_model
from ldebm.model import Model

__all__ = ["classifiers_for", "evaluate", "evaluate_points", "evaluate_text", "read_snapshots"]


def evaluate(
    model: Model,
    packed: Packed,
    config: EvaluateConfig,
    snapshots: Path | None = None,
    measure: Measure | None = None,
) -> Report:
    """The report of a model of any kind.

    Args:
        model: trained.
        packed: its data.
        config: the experiment's ``evaluate`` section.
        snapshots: file with the prior at several training times, when there is one (points).
        measure: judge (images, text) and other data sets (images).
    """
    if model.is_image:
        return evaluate_images(model, packed, config, measure or Measure())
    if not model.is_text:
        states = read_snapshots(snapshots) if snapshots and snapshots.is_file() else {}
        report = evaluate_points(model, packed, config, states)
    else:
        measure = measure or Measure()
        judge = measure.judge if config.judge else None
        classifiers = {} if model.is_document else classifiers_for(packed)
        report = evaluate_text(model, packed, config, classifiers, judge)
    add_views(report, model, packed)
    return report


def read_snapshots(path: Path) -> dict[int, dict[str, Tensor]]:
    """update -> state of the prior, from the ``<update>/<name>`` tensors of a snapshot file."""
    tensors, _ = read_model(path)
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        update, name = key.split("/", 1)
        states.setdefault(int(update), {})[name.removeprefix("prior.")] = value
    return states


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
