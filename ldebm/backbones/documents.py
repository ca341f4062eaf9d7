"""The VAE of documents as bags of words.

Pang and Wu (2021), section 3.5; docs/method.md, section 6.6.

Encoder: an MLP with ReLU and dropout on the counts. Decoder: an MLP with LeakyReLU(0.2) to one
logit a word, batch normalisation of these with its scale frozen at 1, plus the log background
frequencies b of the training words:

    log p(x|z) = sum_v x_v log softmax(decoder(z) + b)_v

Documents are sparse: the first product gathers the rows of the words that are there.

Shapes: B documents, N different words of all of them, V vocabulary, D latent dimension, H hidden
size, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig
from ldebm.data.batches import BagBatch
from ldebm.nn.linear import draw_linear

__all__ = ["BagVAE"]

LOGVAR_LIMIT = 12.0
SLOPE = 0.2
EPSILON, MOMENTUM = 1e-3, 0.01  # of the normalisation; published: momentum 1e-3, 115,000 updates
TOPIC_WORDS = 12
ROWS_AT_ONCE = 512  # logits of a vocabulary: 60 MB


class BagVAE(Backbone):
    """A variational auto-encoder of word counts.

    Args:
        config: ``latent``, ``hidden``, ``layers`` (of the encoder; the decoder has one more),
            ``dropout`` (of the encoder).
        meta: of the packed data: ``vocab_size``.
        generator: initial weights.

    Attributes:
        background_V: log frequencies of the training words; :meth:`prepare` takes them.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.dropout = config.latent, config.dropout
        vocabulary, hidden = int(meta["vocab_size"]), config.hidden
        self.words = nn.Parameter(torch.empty(vocabulary, hidden))
        self.words_bias = nn.Parameter(torch.zeros(hidden))
        self.encoder = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(config.layers - 1))
        self.mean = nn.Linear(hidden, config.latent)
        self.logvar = nn.Linear(hidden, config.latent)
        sizes = [config.latent, *[hidden] * (config.layers + 1), vocabulary]
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.normalise = nn.BatchNorm1d(vocabulary, EPSILON, MOMENTUM)
        self.normalise.weight.requires_grad_(False)
        self.register_buffer("background_V", torch.zeros(vocabulary))
        self.background_V: Tensor
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        bound = math.sqrt(6 / (len(self.words) + self.words.shape[1]))
        self.words.uniform_(-bound, bound, generator=generator)
        for module in self.modules():
            draw_linear(module, generator)

    def prepare(self, packed: Any) -> None:
        """Takes the background frequencies."""
        self.background_V.copy_(torch.tensor(packed.background))

    def encode(self, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D)."""
        counts_N = batch.counts_N.to(self.words.dtype)
        h = F.embedding_bag(
            batch.words_N, self.words, batch.starts_B, mode="sum", per_sample_weights=counts_N
        )
        h = self._drop(torch.relu(h + self.words_bias))
        for layer in self.encoder:
            h = self._drop(torch.relu(layer(h)))
        return self.mean(h), self.logvar(h).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout with a mask from ``stream``; the identity in evaluation."""
        if not (self.training and self.dropout):
            return x
        keep = 1 - self.dropout
        mask = torch.empty_like(x).bernoulli_(keep, generator=self.dropout_noise())
        return x * mask.mul_(1 / keep)

    def logits(self, z_BD: Tensor) -> Tensor:
        """Unnormalised log p(word|z), shape (B, V)."""
        h = z_BD
        for index, layer in enumerate(self.decoder):
            h = layer(F.leaky_relu(h, SLOPE) if index else h)
        normalised: Tensor = self.normalise(h)
        return normalised + self.background_V

    def reconstruction_nll(self, batch: BagBatch, z_BD: Tensor) -> Tensor:
        """-log p(x|z) in nats per document, shape (B,)."""
        return self._nll(batch, torch.log_softmax(self.logits(z_BD), -1))

    def _nll(self, batch: BagBatch, log_p_BV: Tensor) -> Tensor:
        row_N = batch.rows_N()
        nll_N = -batch.counts_N * log_p_BV[row_N, batch.words_N]
        return nll_N.new_zeros(len(batch)).index_add(0, row_N, nll_N)

    @torch.no_grad()
    def nll_matrix(self, batch: BagBatch, z_SBD: Tensor, *, bfloat16: bool = False) -> Tensor:
        """-log p(x_b | z_sb), shape (S, B)."""
        samples, rows, _ = z_SBD.shape
        width = max(1, ROWS_AT_ONCE // rows)
        parts = []
        for first in range(0, samples, width):
            z_SB = z_SBD[first : first + width]
            log_p = torch.log_softmax(self.logits(z_SB.reshape(-1, self.latent)), -1)
            parts += [self._nll(batch, log_p_BV) for log_p_BV in torch.split(log_p, rows)]
        return torch.stack(parts)

    @torch.no_grad()
    def decode(
        self,
        z_BD: Tensor,
        mode: Literal["greedy", "sample"] = "greedy",
        generator: torch.Generator | None = None,
        max_len: int | None = None,
    ) -> list[list[int]]:
        """Words of one topic per latent: those that gain most over the background, or draws.

        Args:
            z_BD: latents.
            mode: ``greedy``: by log p(word|z) - b weighted with p(word|z); ``sample``: draws.
            generator: source of the draws.
            max_len: how many words at most.
        """
        count = min(TOPIC_WORDS, max_len or TOPIC_WORDS)
        words: list[list[int]] = []
        for part in torch.split(z_BD, ROWS_AT_ONCE):
            log_p = torch.log_softmax(self.logits(part), -1)
            if mode == "sample":
                drawn = torch.multinomial(log_p.exp(), count, generator=generator)
            else:
                drawn = (log_p.exp() * (log_p - self.background_V)).topk(count, -1).indices
            words += drawn.tolist()
        return words
