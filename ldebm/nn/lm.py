"""Language models for reverse perplexity: trained on generated sentences, scored on real ones.

``gru`` is a small model for quick comparisons; ``awd_lstm`` the one behind the published numbers
(Merity et al. 2018, "Regularizing and Optimizing LSTM Language Models"): three LSTM layers,
dropped recurrent weights, locked and embedding dropout, SGD that turns into averaged SGD once the
validation loss stops falling.

Shapes: B rows or streams, L steps, N tokens in packed order, V vocabulary, E embedding, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm import kernels
from ldebm.data.batches import batch_rows, collate_ids, epoch_order, steps_per_epoch
from ldebm.data.tokenizer import BOS_ID, EOS_ID
from ldebm.errors import UsageError
from ldebm.nn.awd_lstm import AWDConfig, AWDLanguageModel, dropped, stream_of
from ldebm.nn.functional import linear_nll
from ldebm.nn.gru import PackedGRU
from ldebm.optimisers import untraced
from ldebm.seeding import generator, numpy_generator

__all__ = [
    "AWDConfig",
    "AWDLanguageModel",
    "GRUConfig",
    "GRULanguageModel",
    "perplexity",
    "train_language_model",
]


@dataclass(frozen=True)
class GRUConfig:
    """Sizes and optimiser of the small model."""

    hidden: int = 256
    dropout: float = 0.2
    batch: int = 64
    lr: float = 3e-3
    clip: float = 1.0
    bfloat16: bool = True  # products while training


class GRULanguageModel(nn.Module):
    """One GRU layer with tied embeddings; sentences are independent of one another.

    Args:
        vocab_size: V.
        config: sizes.
        seed: of the initial weights.
    """

    def __init__(self, vocab_size: int, config: GRUConfig, seed: int) -> None:
        super().__init__()
        stream = generator(seed, "lm-init")
        self.config = config
        self.embedding = nn.Parameter(torch.empty(vocab_size, config.hidden))
        self.gru = PackedGRU(config.hidden, config.hidden)
        with torch.no_grad():
            self.embedding.uniform_(-0.1, 0.1, generator=stream)
        self.gru.reset_parameters(stream)

    def nll(self, sentences: Sequence[Sequence[int]], stream: torch.Generator | None) -> Tensor:
        """-log p of every word and end of sentence, packed (N,); with dropout if ``stream``."""
        batch = collate_ids(
            [[BOS_ID, *words, EOS_ID] for words in sentences], self.embedding.device
        )
        sizes = batch.batch_sizes[1:]
        steps = torch.split(batch.tokens_N, batch.batch_sizes)
        inputs = torch.cat([tokens[:n] for tokens, n in zip(steps[:-1], sizes, strict=True)])
        rounded = self.config.bfloat16 and stream is not None
        words = dropped(F.embedding(inputs, self.embedding), self.config.dropout, stream)
        states, _ = self.gru(words, sizes, bfloat16=rounded)
        states = dropped(states, self.config.dropout, stream)
        targets = batch.tokens_N[len(batch) :]
        return linear_nll(states, self.embedding, targets, bfloat16=rounded)

    @torch.no_grad()
    def total_nll(self, sentences: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Nats of all sentences and the number of their words with EOS."""
        order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
        total, tokens = 0.0, 0
        for start in range(0, len(order), 256):
            nll_N = self.nll([sentences[row] for row in order[start : start + 256]], None)
            total, tokens = total + float(nll_N.double().sum()), tokens + len(nll_N)
        return total, tokens


LanguageModel = GRULanguageModel | AWDLanguageModel


def train_language_model(
    sentences: Sequence[Sequence[int]],
    vocab_size: int,
    kind: Literal["gru", "awd_lstm"] = "gru",
    epochs: int = 4,
    seed: int = 0,
    threads: int = 1,
    valid: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
    **overrides: Any,
) -> LanguageModel:
    """Trains a language model; the same arguments give the same model.

    Args:
        sentences: token ids without BOS and EOS.
        vocab_size: V, of the tokenizer and not of what was generated.
        kind: ``gru`` or ``awd_lstm``.
        epochs: passes over the sentences.
        seed: of weights, order and dropout.
        threads: of the products while training and after.
        valid: the model of the epoch with the least validation loss is kept; the published
            switch to averaging needs it too. None: the last epoch's.
        device: where to train.
        overrides: fields of :class:`GRUConfig` or :class:`AWDConfig`.

    Raises:
        UsageError: there are no sentences, or the kind is unknown.
    """
    if not sentences:
        raise UsageError("language model: there are no sentences to train on; generate some first")
    if kind not in MODELS:
        raise UsageError(f"language model {kind!r}: expected 'gru' or 'awd_lstm'")
    build, sizes, fit = MODELS[kind]
    with _threads(threads):
        model = build(vocab_size, replace(sizes, **overrides), seed).to(device)
        fit(model, sentences, epochs, seed, valid)
        trained: LanguageModel = model.eval()
        return trained


def perplexity(model: LanguageModel, sentences: Sequence[Sequence[int]]) -> float:
    """exp of the mean nats a token, the ends of sentences included.

    Args:
        model: of :func:`train_language_model`.
        sentences: token ids without BOS and EOS.
    """
    total, tokens = model.total_nll(sentences)
    return math.exp(min(total / tokens, 700.0))


class _Best:
    """Keeps the weights with the least validation loss, where there is a validation set."""

    def __init__(self, model: LanguageModel, valid: Sequence[Sequence[int]] | None) -> None:
        self.model, self.valid = model, valid
        self.losses: list[float] = []
        self.weights: dict[str, Tensor] | None = None

    def observe(self) -> None:
        if self.valid:
            total, tokens = self.model.total_nll(self.valid)
            self.losses.append(total / tokens)
            if self.losses[-1] == min(self.losses):
                state = self.model.state_dict()
                self.weights = {name: value.clone() for name, value in state.items()}

    def restore(self) -> None:
        if self.weights is not None:
            self.model.load_state_dict(self.weights)


@kernels.plain()  # what it measures does not depend on a compiler
def _train_gru(
    model: GRULanguageModel,
    sentences: Sequence[Sequence[int]],
    epochs: int,
    seed: int,
    valid: Sequence[Sequence[int]] | None,
) -> None:
    config, best = model.config, _Best(model, valid)
    optimiser = untraced(torch.optim.Adam)(model.parameters(), lr=config.lr, fused=True)
    per_epoch = steps_per_epoch(len(sentences), config.batch)
    for step in range(epochs * per_epoch):
        optimiser.param_groups[0]["lr"] = config.lr * (1 - 0.95 * step / (epochs * per_epoch))
        rows = batch_rows(len(sentences), config.batch, seed, step)
        stream = generator(seed, "lm-dropout", step, device=model.embedding.device)
        loss = model.nll([sentences[row] for row in rows], stream).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        if (step + 1) % per_epoch == 0:
            best.observe()
    best.restore()


def _train_awd(
    model: AWDLanguageModel,
    sentences: Sequence[Sequence[int]],
    epochs: int,
    seed: int,
    valid: Sequence[Sequence[int]] | None,
) -> None:
    config, best = model.config, _Best(model, valid)
    device = model.embedding.device
    optimiser = untraced(torch.optim.SGD)(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    averages: list[Tensor] | None = None
    count = 0
    for epoch in range(epochs):
        order = epoch_order(len(sentences), seed, epoch)
        flat = stream_of([sentences[row] for row in order])
        streams = max(1, min(config.streams, len(flat) // 4))
        length = len(flat) // streams
        tokens_LB = flat[: length * streams].view(streams, length).t().contiguous().to(device)
        state = model.initial_state(streams)
        draws = numpy_generator(seed, "lm-windows", epoch)
        start = 0
        while start < length - 1:
            window = _window(config.window, draws)
            stream = generator(seed, "lm-dropout", epoch, start, device=device)
            part = tokens_LB[start : start + window + 1]
            optimiser.param_groups[0]["lr"] = config.lr * (len(part) - 1) / config.window
            loss, state = model.loss(part, state, stream)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            if averages is not None:
                count += 1
                for average, parameter in zip(averages, model.parameters(), strict=True):
                    average.lerp_(parameter.detach(), 1 / count)
            start += window
        with _swapped(model, averages):
            best.observe()
        if averages is None and _stalled(best.losses, config.patience):
            averages, count = [parameter.detach().clone() for parameter in model.parameters()], 0
    if best.weights is not None:
        best.restore()
    elif averages is not None:
        _load(model, averages)


def _stalled(losses: list[float], patience: int) -> bool:
    """The non-monotonic trigger: the last loss is above the best of all but the last few."""
    earlier = losses[:-patience]
    return bool(earlier) and losses[-1] > min(earlier)


def _window(mean: int, draws: np.random.Generator) -> int:
    """Steps of the next back-propagation window, random so that no word is always at an edge."""
    centre = mean if draws.random() < 0.95 else mean / 2
    return max(5, int(draws.normal(centre, 5)))


@contextmanager
def _swapped(model: nn.Module, averages: list[Tensor] | None) -> Iterator[None]:
    """The model with averaged weights, for the time of the block."""
    if averages is None:
        yield
        return
    current = [parameter.detach().clone() for parameter in model.parameters()]
    _load(model, averages)
    yield
    _load(model, current)


@torch.no_grad()
def _load(model: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.copy_(value)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


MODELS: dict[str, tuple[Any, Any, Any]] = {  # class, sizes and training
    "gru": (GRULanguageModel, GRUConfig(), _train_gru),
    "awd_lstm": (AWDLanguageModel, AWDConfig(), _train_awd),
}
