"""The VAE of sentences (LDEBM section 4.2, MR 3.2): GRU encoder and decoder on real tokens only.

Encoder: embedding, one bidirectional GRU layer, its last states, LeakyReLU, two linear heads.
Decoder: its own embedding, a GRU that reads [word; z] from h_0 = W z, and logits by the same
embedding (tied); dropout on its inputs and outputs.

Shapes: B rows of the batch, L tokens of its longest row, N tokens of all its rows in packed order,
U distinct tokens, D latent dimension, H hidden size, E embedding size, V vocabulary, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.config import BackboneConfig
from ldebm.data.batches import TextBatch
from ldebm.nn.backbone import Backbone
from ldebm.nn.frozen_gru import FrozenGRU, GateTable
from ldebm.nn.gru import PackedGRU, bidirectional_last
from ldebm.nn.softmax import linear_nll
from ldebm.nn.writing import Output, screens, write

__all__ = ["LOGVAR_LIMIT", "ROWS_AT_ONCE", "TextVAE", "keep_mask", "row_of_token", "shifted"]

LOGVAR_LIMIT = 12.0
ROWS_AT_ONCE = 512  # of decoding and of likelihoods of many samples: more would leave the cache


@dataclass
class _Frozen:
    """What :meth:`TextVAE.tables` keeps: both encoder directions, and the decoder once it wrote."""

    encoder: list[tuple[FrozenGRU, GateTable]] = field(default_factory=list)
    writer: tuple[FrozenGRU, GateTable | None, Output] | None = None


class TextVAE(Backbone):
    """A GRU variational auto-encoder of token sequences.

    Args:
        config: ``latent``, ``hidden``, ``embed``, ``dropout``, ``word_dropout``,
            ``posterior_activation``, ``init``; ``training.precision`` bfloat16 concerns the
            products of the GRU and the output layer while training.
        meta: of the packed data: ``vocab_size``, ``max_len`` and the ids of the control tokens.
        generator: initial weights.

    Attributes:
        stream: source of the dropout masks; the trainer sets it before each update.
        low_precision: whether training computes those products in bfloat16.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.dropout = config.latent, config.dropout
        self.word_dropout = config.word_dropout
        self.posterior_activation = config.posterior_activation
        self.low_precision = config.training.precision == "bfloat16"
        self.max_len = int(meta["max_len"])
        self.pad_id, self.unk_id = int(meta["pad_id"]), int(meta["unk_id"])
        self.bos_id, self.eos_id = int(meta["bos_id"]), int(meta["eos_id"])
        vocabulary, hidden, embed = int(meta["vocab_size"]), config.hidden, config.embed

        self.encoder_embedding = nn.Parameter(torch.empty(vocabulary, embed))
        self.encoder_forward = PackedGRU(embed, hidden)
        self.encoder_backward = PackedGRU(embed, hidden)
        self.mean = nn.Linear(2 * hidden, config.latent)
        self.logvar = nn.Linear(2 * hidden, config.latent)
        self.decoder_embedding = nn.Parameter(torch.empty(vocabulary, embed))
        self.decoder = PackedGRU(embed, hidden, row_size=config.latent)
        self.initial = nn.Linear(config.latent, hidden, bias=False)
        # The output embedding is tied, so that hidden vectors of another size need a map to it.
        self.adapter = nn.Linear(hidden, embed, bias=False) if hidden != embed else None
        self._frozen: _Frozen | None = None
        self._initialise(config.init, generator)

    @torch.no_grad()
    def _initialise(self, init: str, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, PackedGRU):
                module.reset_parameters(generator)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                for parameter in module.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
        chosen: list[Tensor] = [self.encoder_embedding, self.decoder_embedding]
        if init == "uniform":
            chosen = list(self.parameters())
        for weight in chosen:
            weight.uniform_(-0.1, 0.1, generator=generator)

    # Encoder

    def encode(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D), in the order the batch was asked for."""
        if self._frozen is not None and self._frozen.encoder and not torch.is_grad_enabled():
            state = torch.cat(
                [
                    gru.run(table, batch.tokens_N, batch.batch_sizes, reverse=bool(direction))
                    for direction, (gru, table) in enumerate(self._frozen.encoder)
                ],
                -1,
            )
        else:  # no dropout here: a word is projected once, however often it occurs
            types, index_N = torch.unique(batch.tokens_N, return_inverse=True)
            state = bidirectional_last(
                self.encoder_forward,
                self.encoder_backward,
                F.embedding(types, self.encoder_embedding),
                batch.batch_sizes,
                index_N=index_N,
                bfloat16=self._rounded(),
            )
        if self.posterior_activation:
            state = F.leaky_relu(state, 0.01)
        state = batch.restore(state)
        logvar = self.logvar(state).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
        return self.mean(state), logvar

    @contextmanager
    def tables(self, *, bfloat16: bool = False) -> Iterator[None]:
        """Within this block, encoding without gradients and writing look projected words up.

        For a pass over a whole data set: the vocabulary is projected once, not each batch's words.
        The parameters must not change inside.

        Args:
            bfloat16: the encoder's products in bfloat16.
        """
        layers = (self.encoder_forward, self.encoder_backward)
        self._frozen = _Frozen()
        if not any(layer.uses_torch() for layer in layers):
            for layer in layers:
                gru = FrozenGRU(layer, bfloat16)
                self._frozen.encoder.append((gru, gru.table(self.encoder_embedding)))
        try:
            yield
        finally:
            self._frozen = None

    def _rounded(self) -> bool:
        return self.low_precision and self.training

    # Decoder with given tokens

    def reconstruction_nll(self, batch: TextBatch, z_BD: Tensor) -> Tensor:
        """-log p(x|z) in nats: the sum over a row's tokens after BOS, shape (B,)."""
        sizes = batch.batch_sizes[1:]
        rows = len(batch)
        if not sizes:
            return z_BD.sum(-1) * 0.0
        inputs_N, targets_N = shifted(batch)
        z_sorted = z_BD.index_select(0, batch.order_B)[: sizes[0]]
        h_NH, _ = self._decode_states(inputs_N, sizes, z_sorted)
        h_NE = self._to_output(self._drop(h_NH))
        nll_N = linear_nll(h_NE, self.decoder_embedding, targets_N, bfloat16=self._rounded())
        row_N = row_of_token(sizes, nll_N.device)
        nll_B = nll_N.new_zeros(rows).index_add(0, row_N, nll_N)
        return batch.restore(nll_B)

    def _decode_states(
        self, inputs_N: Tensor, sizes: list[int], z_BD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States after each input token (N, H) and the last of each row (B, H)."""
        index_N: Tensor | None = None
        inputs_N = self._drop_words(inputs_N)
        if self.training and self.dropout:
            words = self._drop(F.embedding(inputs_N, self.decoder_embedding))
        else:
            types, index_N = torch.unique(inputs_N, return_inverse=True)
            words = F.embedding(types, self.decoder_embedding)
        outputs, last = self.decoder(
            words,
            sizes,
            index_N=index_N,
            row_BR=z_BD,
            initial_BH=self.initial(z_BD),
            bfloat16=self._rounded(),
        )
        return outputs, last

    def _to_output(self, h_NH: Tensor) -> Tensor:
        return h_NH if self.adapter is None else self.adapter(h_NH)

    def _noise(self) -> torch.Generator:
        if self.stream is None:
            raise ValueError("set `stream` to a generator before training with dropout")
        return self.stream

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout with a mask from ``stream``; the identity in evaluation."""
        if not (self.training and self.dropout):
            return x
        keep = 1 - self.dropout
        return x * keep_mask(x, keep, self._noise()).mul_(1 / keep)

    def _drop_words(self, tokens_N: Tensor) -> Tensor:
        """Replaces words of the decoder's input by the unknown word (MR 1.4)."""
        if not (self.training and self.word_dropout):
            return tokens_N
        chosen = torch.empty(tokens_N.shape, device=tokens_N.device, dtype=torch.bool)
        chosen.bernoulli_(self.word_dropout, generator=self._noise())
        control = (tokens_N == self.bos_id) | (tokens_N == self.eos_id) | (tokens_N == self.pad_id)
        return torch.where(chosen & ~control, self.unk_id, tokens_N)

    # Many samples of z per row

    @torch.no_grad()
    def nll_matrix(self, batch: TextBatch, z_SBD: Tensor, *, bfloat16: bool = False) -> Tensor:
        """-log p(x_b | z_sb) without dropout, shape (S, B).

        The words of a row are projected once for all its samples, and z once per sample.

        Args:
            batch: the rows.
            z_SBD: samples of each.
            bfloat16: recurrent and output products in bfloat16, else in the weights' precision.
        """
        samples, rows, _ = z_SBD.shape
        nll_BS = z_SBD.new_zeros(rows, samples)
        sizes = batch.batch_sizes[1:]
        if not sizes:
            return nll_BS.t()
        inputs_N, targets_N = shifted(batch)
        types, index_N = torch.unique(inputs_N, return_inverse=True)
        gru = FrozenGRU(self.decoder, bfloat16)
        table = gru.table(F.embedding(types, self.decoder_embedding))
        row_N = row_of_token(sizes, inputs_N.device)
        z_BSD = z_SBD.index_select(1, batch.order_B).transpose(0, 1)
        width = min(samples, ROWS_AT_ONCE)
        height = max(1, ROWS_AT_ONCE // samples)
        for top in range(0, sizes[0], height):
            mine = (row_N >= top) & (row_N < top + height)
            counts = [n for n in (min(n - top, height) for n in sizes) if n > 0]
            block = slice(top, top + counts[0])
            for left in range(0, samples, width):
                z = z_BSD[block, left : left + width]
                copies, flat = z.shape[1], z.reshape(-1, self.latent)
                h_NH = flat.new_empty(int(mine.sum()) * copies, self.decoder.hidden_size)
                gru.run(
                    table,
                    index_N[mine],
                    counts,
                    initial_BH=self.initial(flat),
                    rows=gru.rows(flat),
                    repeat=copies,
                    outputs_NH=h_NH,
                )
                targets = targets_N[mine].repeat_interleave(copies)
                nll_N = linear_nll(
                    self._to_output(h_NH), self.decoder_embedding, targets, bfloat16=bfloat16
                )
                nll_BS[block, left : left + width].index_add_(
                    0, row_N[mine] - top, nll_N.view(-1, copies)
                )
        return batch.restore(nll_BS).t()

    # Decoder that writes

    @torch.no_grad()
    def decode(
        self,
        z_BD: Tensor,
        mode: Literal["greedy", "sample"] = "greedy",
        generator: torch.Generator | None = None,
        max_len: int | None = None,
    ) -> list[list[int]]:
        """Writes one sentence per latent; PAD and BOS are never written.

        Args:
            z_BD: latents.
            mode: the most probable word at each step, or a draw from the softmax.
            generator: source of the draws; each row has its own, so that a sentence does not depend
                on the others of its batch.
            max_len: longest sentence with BOS and EOS; by default that of the data.

        Returns:
            Token ids without BOS and EOS.

        Raises:
            ValueError: the mode is unknown, or sampling has no generator.
        """
        if mode not in ("greedy", "sample"):
            raise ValueError(f"decode mode {mode!r}: expected 'greedy' or 'sample'")
        steps = (max_len or self.max_len) - 2
        uniform_BL: Tensor | None = None
        if mode == "sample":
            if generator is None:
                raise ValueError("decode mode 'sample' needs a generator")
            uniform_BL = torch.rand(len(z_BD), steps, generator=generator, device=generator.device)
            uniform_BL = uniform_BL.to(z_BD.device)
        gru, table, output = self._writer(len(z_BD) * steps, screen=mode == "greedy")
        written: list[list[int]] = []
        for first in range(0, len(z_BD), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            z = z_BD[part]
            written += write(
                gru,
                self.decoder_embedding,
                table,
                output,
                self.adapter,
                (self.initial(z), gru.rows(z)),
                (self.bos_id, self.eos_id),
                steps,
                None if uniform_BL is None else uniform_BL[part],
            )
        return written

    def _writer(self, words: int, *, screen: bool) -> tuple[FrozenGRU, GateTable | None, Output]:
        """The decoder at its weights, with a table of the vocabulary if ``words`` make it pay."""
        kept, embedding = self._frozen, self.decoder_embedding
        if kept is not None and kept.writer is not None:
            return kept.writer
        gru = FrozenGRU(self.decoder)
        pays = words > 2 * len(embedding)  # else projecting as it goes is less
        table = gru.table(embedding) if pays or kept is not None else None
        screen = (screen and pays) or kept is not None
        output = Output(embedding, (self.pad_id, self.bos_id), screen and screens(embedding))
        if kept is not None:
            kept.writer = gru, table, output
        return gru, table, output


def keep_mask(x: Tensor, keep: float, generator: torch.Generator) -> Tensor:
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
