"""The AWD-LSTM: three LSTM layers with dropped recurrent weights, locked and embedding dropout.

Merity et al. (2018); docs/method.md, section 5.3.

Shapes: B rows or streams, L steps, N tokens in packed order, V vocabulary, E embedding, H hidden.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.data.tokenizer import EOS_ID
from ldebm.seeding import generator

__all__ = ["AWDConfig", "AWDLanguageModel", "dropped", "stream_of"]


@dataclass(frozen=True)
class AWDConfig:
    """The published configuration for generated text (docs/method.md, section 5.3)."""

    embed: int = 400
    hidden: int = 1150
    layers: int = 3
    dropout: float = 0.4  # of the last layer's output
    dropout_hidden: float = 0.25  # between layers
    dropout_input: float = 0.4
    dropout_embedding: float = 0.1  # of whole words
    dropout_weight: float = 0.5  # of recurrent weights
    activation_weight: float = 2.0  # penalty on the size of the outputs
    slowness_weight: float = 1.0  # penalty on their change
    streams: int = 20
    window: int = 70
    lr: float = 30.0
    clip: float = 0.25
    weight_decay: float = 1.2e-6
    patience: int = 5  # epochs without a new best before averaging starts


class AWDLanguageModel(nn.Module):
    """Stacked LSTMs over one stream of sentences, whose ends are words.

    Args:
        vocab_size: V.
        config: sizes and dropout rates.
        seed: of the initial weights.
    """

    def __init__(self, vocab_size: int, config: AWDConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(vocab_size, config.embed))
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        sizes = [config.embed] + [config.hidden] * (config.layers - 1) + [config.embed]
        self.layers = nn.ModuleList(nn.LSTM(size, out) for size, out in pairwise(sizes))
        stream = generator(seed, "lm-init")
        with torch.no_grad():
            self.embedding.uniform_(-0.1, 0.1, generator=stream)
            for layer, size in zip(self.layers, sizes[1:], strict=True):
                for parameter in layer.parameters():
                    parameter.uniform_(-(size**-0.5), size**-0.5, generator=stream)

    def initial_state(self, streams: int) -> list[tuple[Tensor, Tensor]]:
        """Zero states of every layer."""
        return [
            (self.embedding.new_zeros(1, streams, size), self.embedding.new_zeros(1, streams, size))
            for size in (int(layer.hidden_size) for layer in self.layers)  # type: ignore[arg-type]
        ]

    def forward(
        self,
        tokens_LB: Tensor,
        state: list[tuple[Tensor, Tensor]],
        stream: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits (L, B, V), outputs with and without dropout (L, B, E), and the states after."""
        config = self.config
        table: Tensor = self.embedding
        if stream is not None:
            ones = torch.ones(len(table), 1, device=table.device)
            table = table * dropped(ones, config.dropout_embedding, stream)
        x = _locked(F.embedding(tokens_LB, table), config.dropout_input, stream)
        after: list[tuple[Tensor, Tensor]] = []
        for index, layer in enumerate(self.layers):
            weights: dict[str, Tensor] = dict(layer.named_parameters())
            recurrent = weights["weight_hh_l0"]
            weights["weight_hh_l0"] = dropped(recurrent, config.dropout_weight, stream)
            with warnings.catch_warnings():  # dropped weights cannot lie in cuDNN's one block
                warnings.filterwarnings("ignore", message="RNN module weights")
                x, last = torch.func.functional_call(layer, weights, (x, state[index]))
            after.append((last[0].detach(), last[1].detach()))
            raw = x
            inner = index < len(self.layers) - 1
            x = _locked(x, config.dropout_hidden if inner else config.dropout, stream)
        return F.linear(x, self.embedding, self.bias), x, raw, after

    def loss(
        self, tokens_LB: Tensor, state: list[tuple[Tensor, Tensor]], stream: torch.Generator
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Mean nats a word plus the two penalties on the outputs, and the states after."""
        logits, dropped, raw, state = self(tokens_LB[:-1], state, stream)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens_LB[1:].flatten())
        loss = loss + self.config.activation_weight * dropped.square().mean()
        if len(raw) > 1:
            loss = loss + self.config.slowness_weight * (raw[1:] - raw[:-1]).square().mean()
        return loss, state

    @torch.no_grad()
    def total_nll(self, sentences: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Nats of all sentences and the number of their words with EOS, read as ten streams."""
        total, tokens = 0.0, 0
        shares = [part for part in np.array_split(np.arange(len(sentences)), 10) if len(part)]
        flat = [stream_of([sentences[row] for row in part]) for part in shares]
        longest = max(map(len, flat))
        # Streams end at different places: what follows an end is not counted.
        padded = torch.full((longest, len(flat)), -1)
        for column, row in enumerate(flat):
            padded[: len(row), column] = row
        padded = padded.to(self.embedding.device)
        state = self.initial_state(len(flat))
        for start in range(0, longest - 1, self.config.window):
            part = padded[start : start + self.config.window + 1]
            logits, _, _, state = self(part[:-1].clamp(min=0), state, None)
            targets = part[1:].flatten()
            nll = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1, reduction="sum")
            total, tokens = total + float(nll), tokens + int((targets >= 0).sum())
        return total, tokens


def dropped(x: Tensor, rate: float, stream: torch.Generator | None) -> Tensor:
    if stream is None or rate == 0:
        return x
    return x * _mask(x.shape, rate, stream)


def _locked(x_LBE: Tensor, rate: float, stream: torch.Generator | None) -> Tensor:
    """Dropout with one mask for all steps of a stream."""
    if stream is None or rate == 0:
        return x_LBE
    return x_LBE * _mask(x_LBE.shape[1:], rate, stream)


def _mask(shape: torch.Size, rate: float, stream: torch.Generator) -> Tensor:
    kept = torch.rand(shape, generator=stream, device=stream.device) >= rate
    return kept.float() / (1 - rate)


def stream_of(sentences: Sequence[Sequence[int]]) -> Tensor:
    """EOS, then every sentence with its EOS: int64 (N)."""
    flat = [EOS_ID]
    for words in sentences:
        flat.extend(words)
        flat.append(EOS_ID)
    return torch.tensor(flat)
