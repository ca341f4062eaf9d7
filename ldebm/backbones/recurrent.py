"""The VAE of sentences with the cell and sizes of the dialogue experiments.

docs/method.md, section 6.3.

Encoder: embedding, one LSTM or GRU layer (one or both directions), the states after the last token
and before the first, two linear heads. Decoder: its own embedding, a layer that reads [word; z]
from states linear in z, an output layer of its own or tied to the embedding; dropout on its inputs
and outputs. :mod:`ldebm.backbones.text` is the faster model with GRUs alone.

Shapes: B rows of the batch, N tokens of all its rows in packed order, D latent dimension, H hidden
size, E embedding size, V vocabulary, S samples, C context size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.sentences import ROWS_AT_ONCE, SentenceVAE, row_of_token, shifted
from ldebm.backbones.writing import OutputLayer, draw_words
from ldebm.config import BackboneConfig
from ldebm.data.batches import TextBatch
from ldebm.nn.cells import RecurrentCell, State, recurrent_cell
from ldebm.nn.functional import linear_nll
from ldebm.nn.linear import draw_linear

__all__ = ["RecurrentVAE"]


class RecurrentVAE(SentenceVAE):
    """A variational auto-encoder of token sequences with recurrent layers of torch.

    Args:
        config: ``cell``, ``latent``, ``hidden``, ``encoder_hidden``, ``bidirectional``, ``embed``,
            ``tied``, ``dropout``, ``word_dropout``, ``posterior_activation``, ``init``;
            ``training.precision`` bfloat16 concerns the products of the cells and the output
            layer while training on a CPU.
        meta: of the packed data: ``vocab_size``, ``max_len`` and the ids of the control tokens.
        generator: initial weights.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, meta)
        vocabulary, hidden, embed = int(meta["vocab_size"]), config.hidden, config.embed
        read = self.read_size(config)
        self._add_encoder(config, vocabulary)
        self.decoder_embedding = nn.Parameter(torch.empty(vocabulary, embed))
        self.decoder = recurrent_cell(
            config.cell, embed + read, hidden, bfloat16=self.low_precision
        )
        self.start = nn.Linear(read, hidden * self.decoder.states)
        adapt = config.tied and hidden != embed
        self.adapter = nn.Linear(hidden, embed, bias=False) if adapt else None
        self.output = None if config.tied else nn.Parameter(torch.empty(vocabulary, hidden))
        self._add_more(config)
        self._initialise(config.init, generator)

    def _add_encoder(self, config: BackboneConfig, vocabulary: int) -> None:
        """Makes the encoder and its heads."""
        self.encoder_embedding = nn.Parameter(torch.empty(vocabulary, config.embed))
        self.encoder = recurrent_cell(
            config.cell,
            config.embed,
            config.encoder_hidden or config.hidden,
            bidirectional=config.bidirectional,
            bfloat16=self.low_precision,
        )
        features = self.encoder.hidden * self.encoder.directions
        self._add_heads(self._add_joint(features, config), config)

    def _add_joint(self, features: int, config: BackboneConfig) -> int:
        """Layers between the encoder's features and the heads; the number of their outputs."""
        return features

    def _add_more(self, config: BackboneConfig) -> None:
        """Further layers of a model that builds on this one."""

    @torch.no_grad()
    def _initialise(self, init: str, generator: torch.Generator | None) -> None:
        if init == "uniform":
            for parameter in self.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)
            return
        for module in self.modules():
            if isinstance(module, RecurrentCell):
                module.reset_parameters(generator)
            draw_linear(module, generator)
        for parameter in self.parameters(recurse=False):
            parameter.uniform_(-0.1, 0.1, generator=generator)

    # Encoder

    def encoder_state(self, batch: TextBatch) -> Tensor:
        features = self._features(batch)
        return F.leaky_relu(features, 0.01) if self.posterior_activation else features

    def _features(self, batch: TextBatch) -> Tensor:
        """What the encoder reads off every row, (B, features), in the order asked for."""
        words = F.embedding(batch.tokens_N, self.encoder_embedding)
        return batch.restore(self.encoder.last(words, batch.batch_sizes))

    # Decoder

    def _conditions(self, batch: TextBatch) -> Tensor | None:
        """Contexts (B, C) of the rows, in the order asked for; None: the model reads none."""
        return None

    def _inputs(self, words_NE: Tensor, row_N: Tensor, z_BD: Tensor, c: Tensor | None) -> Tensor:
        """What the decoder reads at every token: [word; z], (N, E + D)."""
        return torch.cat([words_NE, z_BD.index_select(0, row_N)], -1)

    def _first(self, z_BD: Tensor) -> State:
        """The decoder's first states."""
        return tuple(
            part.contiguous()[None] for part in self.start(z_BD).chunk(self.decoder.states, -1)
        )

    def _weight(self) -> Tensor:
        """The output layer's weight, (V, E) where tied, else (V, H)."""
        return self.decoder_embedding if self.output is None else self.output

    def nll_of_read(self, batch: TextBatch, read_BR: Tensor) -> Tensor:
        sizes = batch.batch_sizes[1:]
        if not sizes:
            return read_BR.sum(-1) * 0.0
        inputs_N, targets_N = shifted(batch)
        z, c = read_BR.index_select(0, batch.order_B), self._conditions(batch)
        c = None if c is None else c.index_select(0, batch.order_B)
        row_N = row_of_token(sizes, z.device)
        words = self._drop(F.embedding(self._drop_words(inputs_N), self.decoder_embedding))
        first = self._first(z[: sizes[0]])
        h_NH, _ = self.decoder(self._inputs(words, row_N, z, c), sizes, first)
        hidden = self._to_output(self._drop(h_NH))
        nll_N = linear_nll(hidden, self._weight(), targets_N, bfloat16=self._rounded())
        return batch.restore(nll_N.new_zeros(len(batch)).index_add(0, row_N, nll_N))

    @torch.no_grad()
    def nll_matrix(self, batch: TextBatch, z_SBD: Tensor, *, bfloat16: bool = False) -> Tensor:
        """-log p(x_b | z_sb) without dropout, shape (S, B).

        Args:
            batch: the rows.
            z_SBD: samples.
            bfloat16: the output layer's products in bfloat16.
        """
        z_SBD = self.read(z_SBD)
        samples, rows, _ = z_SBD.shape
        sizes = batch.batch_sizes[1:]
        nll_BS = z_SBD.new_zeros(rows, samples)
        if not sizes:
            return nll_BS.t()
        inputs_N, targets_N = shifted(batch)
        words_NE = F.embedding(inputs_N, self.decoder_embedding)
        row_N = row_of_token(sizes, words_NE.device)
        z_BSD = z_SBD.index_select(1, batch.order_B).transpose(0, 1)
        c = self._conditions(batch)
        c = None if c is None else c.index_select(0, batch.order_B)
        width = max(1, ROWS_AT_ONCE // rows)
        for left in range(0, samples, width):
            z = z_BSD[:, left : left + width]
            copies = z.shape[1]
            flat = z.reshape(-1, z.shape[-1])
            copy_N = torch.arange(copies, device=row_N.device).repeat(len(row_N))
            flat_N = row_N.repeat_interleave(copies) * copies + copy_N
            words = words_NE.repeat_interleave(copies, 0)
            many = None if c is None else c.repeat_interleave(copies, 0)
            first = self._first(flat[: sizes[0] * copies])
            inputs = self._inputs(words, flat_N, flat, many)
            h_NH, _ = self.decoder(inputs, [n * copies for n in sizes], first)
            targets = targets_N.repeat_interleave(copies)
            nll_N = linear_nll(self._to_output(h_NH), self._weight(), targets, bfloat16=bfloat16)
            nll_BS[:, left : left + width].index_add_(0, row_N, nll_N.view(-1, copies))
        return batch.restore(nll_BS).t()

    @torch.no_grad()
    def decode(
        self,
        z_BD: Tensor,
        mode: Literal["greedy", "sample"] = "greedy",
        generator: torch.Generator | None = None,
        max_len: int | None = None,
        context_BC: Tensor | None = None,
    ) -> list[list[int]]:
        """Writes one sentence per latent; PAD and BOS are never written.

        Args:
            z_BD: latents.
            mode: the most probable word at each step, or a draw from the softmax.
            generator: source of the draws; each row has its own.
            max_len: longest sentence with BOS and EOS; by default that of the data.
            context_BC: contexts of the rows, for a model that reads them.

        Returns:
            Token ids without BOS and EOS.

        Raises:
            ValueError: the mode is unknown, or sampling has no generator.
        """
        z_BD, steps = self.read(z_BD), (max_len or self.max_len) - 2
        uniform_BL = self._word_draws(mode, len(z_BD), steps, generator, z_BD)
        written: list[list[int]] = []
        for first in range(0, len(z_BD), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            context = None if context_BC is None else context_BC[part]
            uniform = None if uniform_BL is None else uniform_BL[part]
            written += self._write(z_BD[part], context, steps, uniform)
        return written

    def _write(
        self, z_BD: Tensor, context_BC: Tensor | None, steps: int, uniform_BL: Tensor | None
    ) -> list[list[int]]:
        """Decodes rows together; those that have written EOS leave the batch."""
        output = OutputLayer(self._weight(), (self.pad_id, self.bos_id), screen=False)
        rows = torch.arange(len(z_BD), device=z_BD.device)
        out_BL = torch.full((len(rows), steps), self.eos_id, device=rows.device)
        alive, tokens, state = rows, torch.full_like(rows, self.bos_id), self._first(z_BD)
        for step in range(steps):
            words = F.embedding(tokens, self.decoder_embedding)
            inputs = self._inputs(words, alive, z_BD, context_BC)
            h, state = self.decoder(inputs, [len(alive)], state)
            hidden = self._to_output(h)
            if uniform_BL is None:
                tokens = output.best(hidden)
            else:
                tokens = draw_words(output.logits(hidden), uniform_BL[alive, step])
            out_BL[alive, step] = tokens
            going = (tokens != self.eos_id).nonzero().squeeze(-1)
            alive, tokens = alive[going], tokens[going]
            state = tuple(part.index_select(1, going) for part in state)
            if not len(alive):
                break
        lengths = (out_BL != self.eos_id).sum(-1).tolist()
        return [ids[:n] for ids, n in zip(out_BL.tolist(), lengths, strict=True)]
