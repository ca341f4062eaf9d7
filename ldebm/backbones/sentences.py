"""What the VAEs of sentences share: the vocabulary's sizes, dropout, draws of words, packed rows.

Shapes: B rows of the batch, L written words, N tokens of all rows in packed order, R of what the
decoder reads of a latent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig
from ldebm.data.batches import TextBatch

__all__ = ["LOGVAR_LIMIT", "ROWS_AT_ONCE", "SentenceVAE", "row_of_token", "shifted"]

LOGVAR_LIMIT = 12.0
ROWS_AT_ONCE = 512  # of decoding and of likelihoods of many samples: more would leave the cache


class SentenceVAE(Backbone):
    """A variational auto-encoder of token sequences, without its layers.

    Args:
        config: ``latent``, ``dropout``, ``word_dropout``, ``posterior_activation``.
        meta: of the packed data: ``max_len`` and the ids of the control tokens.

    Attributes:
        stream: source of the dropout masks; the trainer sets it before each update.
        low_precision: whether training computes products in bfloat16.
    """

    adapter: nn.Linear | None

    def __init__(self, config: BackboneConfig, meta: Mapping[str, Any]) -> None:
        super().__init__()
        self.latent, self.dropout = config.latent, config.dropout
        self.word_dropout = config.word_dropout
        self.posterior_activation = config.posterior_activation
        self.max_len = int(meta["max_len"])
        self.pad_id, self.unk_id = int(meta["pad_id"]), int(meta["unk_id"])
        self.bos_id, self.eos_id = int(meta["bos_id"]), int(meta["eos_id"])
        self.low_precision = config.training.precision == "bfloat16"

    def _add_heads(self, features: int, config: BackboneConfig) -> None:
        """The layers that give q(z|x)."""
        self.mean = nn.Linear(features, config.latent)
        self.logvar = nn.Linear(features, config.latent)

    def encode(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D), in the order the batch was asked for."""
        state = self.encoder_state(batch)
        logvar = self.logvar(state).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
        return self.mean(state), logvar

    @abstractmethod
    def encoder_state(self, batch: TextBatch) -> Tensor:
        """What the heads read, (B, features), in the order the batch was asked for."""

    def read_size(self, config: BackboneConfig) -> int:
        """Size of the vector that the decoder reads of a latent."""
        return config.latent

    def read(self, latent: Tensor) -> Tensor:
        """What the decoder reads of latents: here these themselves."""
        return latent

    @abstractmethod
    def nll_of_read(self, batch: TextBatch, read_BR: Tensor) -> Tensor:
        """-log p(x) in nats per row, given what the decoder reads, such as relaxed codes: (B,)."""

    def reconstruction_nll(self, batch: TextBatch, z_BD: Tensor) -> Tensor:
        """-log p(x|z), given the context where there is one: nats per row, shape (B,)."""
        return self.nll_of_read(batch, self.read(z_BD))

    @abstractmethod
    def nll_matrix(self, batch: TextBatch, z_SBD: Tensor, *, bfloat16: bool = False) -> Tensor:
        """-log p(x_b | z_sb) of samples of every row, without dropout, shape (S, B)."""

    def _rounded(self) -> bool:
        return self.low_precision and self.training

    def _to_output(self, h_NH: Tensor) -> Tensor:
        return h_NH if self.adapter is None else self.adapter(h_NH)

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout with a mask from ``stream``; the identity in evaluation."""
        if not (self.training and self.dropout):
            return x
        keep = 1 - self.dropout
        return x * _keep_mask(x, keep, self.dropout_noise()).mul_(1 / keep)

    def _drop_words(self, tokens_N: Tensor) -> Tensor:
        """Replaces words of the decoder's input by the unknown word."""
        if not (self.training and self.word_dropout):
            return tokens_N
        chosen = torch.empty(tokens_N.shape, device=tokens_N.device, dtype=torch.bool)
        chosen.bernoulli_(self.word_dropout, generator=self.dropout_noise())
        control = (tokens_N == self.bos_id) | (tokens_N == self.eos_id) | (tokens_N == self.pad_id)
        return torch.where(chosen & ~control, self.unk_id, tokens_N)

    def _word_draws(
        self, mode: str, rows: int, steps: int, generator: torch.Generator | None, like: Tensor
    ) -> Tensor | None:
        """Uniform numbers (B, L) by which words are drawn, on the device of ``like``.

        Returns:
            ``None`` for the mode ``greedy``.

        Raises:
            ValueError: the mode is unknown, or sampling has no generator.
        """
        if mode not in ("greedy", "sample"):
            raise ValueError(f"decode mode {mode!r}: expected 'greedy' or 'sample'")
        if mode == "greedy":
            return None
        if generator is None:
            raise ValueError("decode mode 'sample' needs a generator")
        draws_BL = torch.rand(rows, steps, generator=generator, device=generator.device)
        return draws_BL.to(like.device)


def _keep_mask(x: Tensor, keep: float, generator: torch.Generator) -> Tensor:
    """Ones with probability ``keep`` (to 1/65536), else zeros, in the shape of ``x``.

    Four 16-bit numbers of each 64-bit draw: seven times as fast as ``bernoulli_`` on a CPU.
    """
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    draws.random_(-(2**63), None, generator=generator)
    short = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return (short < round(keep * 65536) - 32768).to(x.dtype)


def shifted(batch: TextBatch) -> tuple[Tensor, Tensor]:
    """The decoder's inputs (all but each row's last token) and targets (all but its first)."""
    sizes = batch.batch_sizes
    steps = torch.split(batch.tokens_N, sizes)
    inputs = [tokens[:n] for tokens, n in zip(steps[:-1], sizes[1:], strict=True)]
    return torch.cat(inputs), batch.tokens_N[sizes[0] :]


def row_of_token(sizes: list[int], device: torch.device) -> Tensor:
    """Sorted row of every packed token, (N,)."""
    rows = torch.arange(sizes[0], device=device)
    return torch.cat([rows[:n] for n in sizes])
