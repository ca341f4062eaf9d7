"""Sentence completion, scored: words at masked places against the simplest guesses.

docs/method.md, section 5.9.

Half of the known words of test rows are masked. A place counts as right when the word is the one
that stood there; intervals are Wilson's over all places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ldebm.completion import complete_rows, hide, mask_words, train_completer
from ldebm.config import CompletionConfig
from ldebm.data.packed import Packed
from ldebm.evaluate.control import wilson
from ldebm.evaluate.ngram import KneserNey
from ldebm.evaluate.report import Report, subset
from ldebm.model import Model
from ldebm.seeding import numpy_generator
from ldebm.training.progress import Progress

__all__ = ["evaluate_completion"]

SHOWN = 30


def evaluate_completion(
    report: Report, model: Model, packed: Packed, config: CompletionConfig
) -> None:
    """Adds accuracy of the model, of Kneser-Ney trigrams and of the most frequent word.

    The network that was trained is kept as ``completion.safetensors``.
    """
    assert model.tokenizer is not None
    tokenizer, seed = model.tokenizer, model.seed
    train, test = packed.split("train"), packed.split("test")
    with Progress("completion", config.updates) as bar:
        completer, losses = train_completer(model, train, config, seed, bar.show)
    tensors: dict[str, Tensor] = {k: v.detach().cpu() for k, v in completer.state_dict().items()}
    about = {"observed": completer.observed, "seed": seed, "model": model.fingerprint}
    report.weights["completion"] = (tensors, about)
    report.tables["completion_curve"] = (["update", "loss"], _curve(losses))

    draws = numpy_generator(seed, "completion-test")
    chosen = subset(test.n, config.rows, seed, "completion-rows")
    pairs = [mask_words(test.row(int(i)), config.share, draws, tokenizer.eos_id) for i in chosen]
    rows, gaps = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ours = complete_rows(model, completer, rows, gaps, config, seed)
    counts = np.bincount(np.asarray(train.ids), minlength=tokenizer.vocab_size)
    counts[: tokenizer.eos_id + 1] = 0
    trigrams = KneserNey((train.row(i).tolist() for i in range(train.n)), tokenizer.vocab_size)
    never = range(tokenizer.eos_id + 1)
    hidden = hide(rows, gaps, tokenizer.unk_id)
    theirs = [
        trigrams.fill(row, gap, never, tokenizer.unk_id, config.beam)
        for row, gap in zip(hidden, gaps, strict=True)
    ]
    frequent = [[int(counts.argmax())] * len(row) for row in rows]
    report.metrics["completion_places"] = float(sum(map(sum, gaps)))
    for name, filled in (("", ours), ("_ngram", theirs), ("_frequent", frequent)):
        right, places = _right(rows, filled, gaps)
        low, high = wilson(right, places)
        report.metrics[f"completion{name}"] = right / max(places, 1)
        report.metrics[f"completion{name}_low"] = low
        report.metrics[f"completion{name}_high"] = high
    report.samples += [
        {
            "kind": "completion",
            "text": tokenizer.decode(rows[i]),
            "masked": tokenizer.decode(hidden[i]),
            "completed": tokenizer.decode(ours[i]),
            "ngram": tokenizer.decode(theirs[i]),
        }
        for i in range(min(SHOWN, len(rows)))
    ]


def _curve(losses: list[float]) -> list[list[float]]:
    """Means of about a hundred spans of the losses."""
    every = max(1, len(losses) // 100)
    starts = range(0, len(losses), every)
    return [[i + 1, round(float(np.mean(losses[i : i + every])), 4)] for i in starts]


def _right(
    rows: Sequence[list[int]], filled: Sequence[list[int]], gaps: Sequence[list[bool]]
) -> tuple[int, int]:
    """Places filled with the word that stood there, and all places."""
    hits = [
        ours == theirs
        for row, answer, mask in zip(rows, filled, gaps, strict=True)
        for theirs, ours, gap in zip(row, answer, mask, strict=True)
        if gap
    ]
    return sum(hits), len(hits)
