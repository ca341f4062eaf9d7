"""Language models: they learn what is learnable, score it right and repeat themselves."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ldebm.errors import UsageError
from ldebm.nn.lm import (
    AWDConfig,
    AWDLanguageModel,
    GRULanguageModel,
    perplexity,
    train_language_model,
)
from ldebm.nn.lm import _stalled as stalled
from ldebm.seeding import generator, numpy_generator

VOCABULARY = 14
SMALL: dict[str, dict[str, Any]] = {
    "gru": {"hidden": 24, "batch": 8, "dropout": 0.0, "lr": 1e-2},
    "awd_lstm": {
        "embed": 16,
        "hidden": 24,
        "layers": 2,
        "streams": 4,
        "window": 12,
        "lr": 2.0,
        "dropout": 0.0,
        "dropout_input": 0.0,
        "dropout_hidden": 0.0,
        "dropout_embedding": 0.0,
        "dropout_weight": 0.0,
        "activation_weight": 0.0,
        "slowness_weight": 0.0,
    },
}
KINDS: Any = pytest.mark.parametrize("kind", ["gru", "awd_lstm"])


def corpus(rows: int, seed: int = 0) -> list[list[int]]:
    """Three words a sentence: one of ten, its successor, the successor's successor."""
    first = numpy_generator(seed, "corpus").integers(4, VOCABULARY, rows)
    return [[4 + (int(word) - 4 + k) % 10 for k in range(3)] for word in first]


@KINDS
def test_perplexity_comes_down_to_the_entropy_of_the_source(kind: Any) -> None:
    epochs = 12 if kind == "gru" else 60
    model = train_language_model(corpus(200), VOCABULARY, kind, epochs, **SMALL[kind])
    ideal = 10 ** (1 / 4)  # one choice among ten in four tokens
    assert ideal - 0.05 < perplexity(model, corpus(100, seed=1)) < ideal * 1.15


@KINDS
def test_text_of_another_kind_is_scored_worse_than_by_chance(kind: Any) -> None:
    epochs = 12 if kind == "gru" else 30
    model = train_language_model(corpus(200), VOCABULARY, kind, epochs, **SMALL[kind])
    assert perplexity(model, [row[::-1] for row in corpus(100)]) > VOCABULARY


@KINDS
def test_the_same_seed_gives_the_same_model_and_another_seed_another(kind: Any) -> None:
    options = SMALL[kind] | {"dropout": 0.2}
    weights = []
    for seed in (0, 0, 1):
        model = train_language_model(corpus(40), VOCABULARY, kind, 2, seed, **options)
        weights.append(model.embedding.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_score_of_the_gru_counts_every_word_and_the_end_once() -> None:
    model = train_language_model(corpus(20), VOCABULARY, "gru", 1, **SMALL["gru"])
    assert isinstance(model, GRULanguageModel)
    sentences = [[5, 6, 7], [], [9]]
    total = 0.0
    for words in sentences:
        h = torch.zeros(1, 24)
        row = [2, *words, 3]
        for word, target in pairwise(row):
            h = torch.gru_cell(model.embedding[word][None], h, *model.gru.weights())
            total -= float(F.log_softmax(h @ model.embedding.t(), -1)[0, target].detach())
    nats, tokens = model.total_nll(sentences)
    assert tokens == 7
    assert nats == pytest.approx(total, rel=1e-5)
    assert perplexity(model, sentences) == pytest.approx(math.exp(total / 7), rel=1e-5)


def test_the_score_of_the_lstm_counts_every_word_and_end_of_uneven_streams() -> None:
    model = train_language_model(corpus(20), VOCABULARY, "awd_lstm", 1, **SMALL["awd_lstm"])
    assert isinstance(model, AWDLanguageModel)
    sentences = [[5, 6, 7], [], [9]]  # fewer than ten: a stream each
    total = 0.0
    for words in sentences:
        row = torch.tensor([3, *words, 3])
        logits, _, _, _ = model(row[:-1, None], model.initial_state(1), None)
        total += float(F.cross_entropy(logits[:, 0], row[1:], reduction="sum").detach())
    nats, tokens = model.total_nll(sentences)
    assert tokens == 7
    assert nats == pytest.approx(total, rel=1e-5)


def test_the_model_of_the_best_epoch_is_kept_when_there_is_a_validation_set() -> None:
    train, options = corpus(40), SMALL["gru"]
    backwards = [row[::-1] for row in train]  # the better the model, the worse their score
    last = train_language_model(train, VOCABULARY, "gru", 40, **options)
    first = train_language_model(train, VOCABULARY, "gru", 40, valid=backwards, **options)
    assert perplexity(first, backwards) < 0.8 * perplexity(last, backwards)


def test_averaging_starts_when_the_loss_is_no_better_than_some_epochs_ago() -> None:
    assert not stalled([5.0, 4.0, 3.0], 5)
    assert not stalled([5.0, 4.0, 3.0, 2.0], 2)
    assert stalled([3.0, 3.5, 3.4, 3.3], 2)


def test_averaged_weights_are_scored_once_the_trigger_fires() -> None:
    options = SMALL["awd_lstm"] | {"lr": 20.0, "patience": 1}
    train, valid = corpus(60), corpus(60, seed=5)
    model = train_language_model(train, VOCABULARY, "awd_lstm", 25, valid=valid, **options)
    assert perplexity(model, valid) < VOCABULARY


def test_locked_dropout_is_the_same_at_every_step_and_words_are_dropped_whole() -> None:
    config = AWDConfig(**SMALL["awd_lstm"] | {"dropout": 0.5})
    model = AWDLanguageModel(VOCABULARY, config, seed=0)
    tokens = torch.randint(4, VOCABULARY, (6, 3), generator=generator(0, "tokens"))
    _, dropped, raw, _ = model(tokens, model.initial_state(3), generator(0, "drop"))
    zero = dropped == 0
    assert torch.equal(zero.all(0), zero.any(0))
    assert 0.2 < float(zero.double().mean()) < 0.8
    torch.testing.assert_close(dropped[~zero], 2 * raw[~zero])


def test_the_published_sizes_are_the_default() -> None:
    config = AWDConfig()
    assert (config.embed, config.hidden, config.layers, config.window) == (400, 1150, 3, 70)
    assert (config.dropout, config.dropout_hidden, config.dropout_input) == (0.4, 0.25, 0.4)
    assert (config.streams, config.lr, config.clip) == (20, 30.0, 0.25)


def test_an_empty_corpus_and_an_unknown_kind_are_named() -> None:
    with pytest.raises(UsageError, match="no sentences"):
        train_language_model([], VOCABULARY)
    with pytest.raises(UsageError, match="'lstm'"):
        train_language_model(corpus(3), VOCABULARY, kind="lstm")  # type: ignore[arg-type]
