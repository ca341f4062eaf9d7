"""How good responses are: against the true ones, and against those to other contexts.

docs/method.md, section 5.5.

Every score stands beside a control: the same model's responses to the contexts of other rows. What
a model gains over that, it gains by reading the context.

How near a response is to the true one in the space of word vectors is by average, extrema and
greedy matching (Liu et al., How NOT To Evaluate Your Dialogue System, 2016), as the public code
computes them: tags and unknown words are dropped, pairs where either side is then empty are left
out, and the mean over the others is multiplied by 100.

Shapes: N test rows, C context size, n and m tokens of two texts, E dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Packed
from ldebm.evaluate import language
from ldebm.evaluate.report import Report
from ldebm.evaluate.word_vectors import WordVectors, word_vectors
from ldebm.seeding import numpy_generator

if TYPE_CHECKING:
    from ldebm.modalities.dialogues import ResponseModel

__all__ = [
    "average",
    "evaluate_responses",
    "extrema",
    "greedy",
    "response_metrics",
    "response_scores",
]

SHOWN = 50


@torch.no_grad()
def evaluate_responses(
    report: Report,
    model: ResponseModel,
    packed: Packed,
    texts: list[str],
    generated: list[str],
    config: EvaluateConfig,
) -> None:
    """Adds the scores of one response to every test row, and of the control.

    As published, words are the most probable ones given the latent.

    Args:
        report: they are added to.
        model: given the contexts of the test rows.
        packed: its data.
        texts: the true responses, N.
        generated: samples already drawn; row i has the context of test row i modulo N.
        config: ``decode`` says whether these were greedy.
    """
    assert model.context_BC is not None
    rows = len(texts)
    if config.decode == "greedy" and len(generated) >= rows:
        responses = generated[:rows]
    else:
        responses = _responses(model, rows)
    order = _deranged(rows, model.seed)
    others = _responses(model.conditioned_on(model.context_BC[torch.from_numpy(order)]), rows)
    metrics, train, tokenizer = report.metrics, packed.split("train"), packed.tokenizer
    train_texts = [tokenizer.decode(train.row(i)) for i in range(train.n)]
    vectors = word_vectors(train_texts, config.word_vectors, model.seed)
    for name, replies in (("response", responses), ("response_shuffled", others)):
        scores = response_scores(replies, texts)
        scores |= response_metrics(replies, texts, vectors)
        metrics |= {f"{name}_{key}": value for key, value in scores.items()}
    report.details["word_vectors"] = vectors.origin
    test = packed.split("test")
    for i in range(min(SHOWN, rows)):
        turns = _turns(test.context(i), tokenizer.eos_id)
        before = [tokenizer.decode(turn) for turn in turns]
        report.samples.append(
            {"kind": "response", "context": before, "text": texts[i], "decoded": responses[i]}
        )


def _responses(model: ResponseModel, rows: int) -> list[str]:
    z = model.sample_latents(rows, seed=model.seed)
    return [str(text) for text in model.decode(z, "greedy", model.seed)]


def _deranged(rows: int, seed: int) -> np.ndarray:
    """A permutation that leaves no row where it is (of one row: the row)."""
    order = numpy_generator(seed, "other-contexts", rows).permutation(rows)
    place = np.empty(rows, dtype=np.int64)
    place[order] = np.roll(order, 1)
    return place


def _turns(flat: np.ndarray, eos: int) -> list[list[int]]:
    """The turns of one context, each from BOS to EOS."""
    ends = np.flatnonzero(flat == eos) + 1
    return [part.tolist() for part in np.split(flat, ends[:-1])] if len(ends) else []


def response_scores(responses: list[str], references: list[str]) -> dict[str, float]:
    """BLEU by both definitions, and distinct-n.

    Args:
        responses: one a row.
        references: the true ones.
    """
    return {
        "bleu": language.bleu_moses(responses, references),
        "bleu_2": language.bleu_moses(responses, references, order=2),
        "bleu_sacrebleu": language.bleu(responses, references)[0],
        "distinct_1": language.distinct_n(responses, 1),
        "distinct_2": language.distinct_n(responses, 2),
    }


def response_metrics(
    responses: Sequence[str], references: Sequence[str], vectors: WordVectors
) -> dict[str, float]:
    """``embedding_average``, ``_extrema``, ``_greedy`` (per cent); the share of pairs they cover.

    Args:
        responses: generated, one a context.
        references: the true ones, in the same order.
        vectors: of words.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(responses) != len(references) or not responses:
        raise ValueError(
            f"responses: {len(responses)}, references: {len(references)}; expected as many of "
            "both, and at least one"
        )
    scores = []
    for response, reference in zip(responses, references, strict=True):
        ours, theirs = vectors.of(response), vectors.of(reference)
        if len(ours) and len(theirs):
            scores.append((average(ours, theirs), extrema(ours, theirs), greedy(ours, theirs)))
    names = ("embedding_average", "embedding_extrema", "embedding_greedy")
    means = 100 * np.mean(scores, axis=0) if scores else [math.nan] * len(names)
    result = {name: float(value) for name, value in zip(names, means, strict=True)}
    result["embedding_pairs"] = len(scores) / len(responses)
    return result


def _unit(vectors: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norm, 1e-12))


def average(ours_nE: np.ndarray, theirs_mE: np.ndarray) -> float:
    """Cosine of the mean vectors."""
    return float(_unit(ours_nE.mean(0)) @ _unit(theirs_mE.mean(0)))


def extrema(ours_nE: np.ndarray, theirs_mE: np.ndarray) -> float:
    """Cosine of the vectors of the values that are largest by magnitude in each dimension."""
    return float(_unit(_extreme(ours_nE)) @ _unit(_extreme(theirs_mE)))


def _extreme(vectors_nE: np.ndarray) -> np.ndarray:
    """The signed value of the largest magnitude of every dimension; the lower one of equals."""
    low, high = vectors_nE.min(0), vectors_nE.max(0)
    return np.asarray(np.where(high > np.abs(low), high, low))


def greedy(ours_nE: np.ndarray, theirs_mE: np.ndarray) -> float:
    """Mean cosine of every word with the nearest of the other text, both ways."""
    cosine_nm = _unit(ours_nE) @ _unit(theirs_mE).T
    return float((cosine_nm.max(1).mean() + cosine_nm.max(0).mean()) / 2)
