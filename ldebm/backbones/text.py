"""The VAE of sentences: GRU encoder and decoder on real tokens only.

Pang and Wu (2021), eq. 6; Yu et al. (2022), appendix B.1; docs/method.md, section 6.2.

Encoder: embedding, one bidirectional GRU layer, its last states, LeakyReLU, two linear heads.
Decoder: its own embedding, a GRU that reads [word; z] from h_0 = W z, and logits by the same
embedding (tied); dropout on its inputs and outputs.

Shapes: B rows of the batch, L tokens of its longest row, N tokens of all its rows in packed order,
U distinct tokens, D latent dimension, H hidden size, E embedding size, V vocabulary, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.sentences import ROWS_AT_ONCE, SentenceVAE, row_of_token, shifted
from ldebm.backbones.writing import OutputLayer, screens, write
from ldebm.config import BackboneConfig
from ldebm.data.batches import TextBatch
from ldebm.nn.functional import linear_nll
from ldebm.nn.gru import FrozenGRU, GateTable, PackedGRU, bidirectional_last
from ldebm.nn.linear import draw_linear

__all__ = ["TextVAE"]


@dataclass
class _Frozen:
    """What :meth:`TextVAE.tables` keeps: both encoder directions, and the decoder once it wrote."""

    encoder: list[tuple[FrozenGRU, GateTable]] = field(default_factory=list)
    writer: tuple[FrozenGRU, GateTable | None, OutputLayer] | None = None


class TextVAE(SentenceVAE):
    """A GRU variational auto-encoder of token sequences.

    Args:
        config: ``latent``, ``hidden``, ``embed``, ``dropout``, ``word_dropout``,
            ``posterior_activation``, ``init``; ``training.precision`` bfloat16 concerns the
            products of the GRU and the output layer while training.
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
        self.decoder = PackedGRU(embed, hidden, row_size=read)
        self.initial = nn.Linear(read, hidden, bias=False)
        # The output embedding is tied, so that hidden vectors of another size need a map to it.
        self.adapter = nn.Linear(hidden, embed, bias=False) if hidden != embed else None
        self._frozen: _Frozen | None = None
        self._initialise(config.init, generator)

    def _add_encoder(self, config: BackboneConfig, vocabulary: int) -> None:
        """Makes the encoder and its heads."""
        self.encoder_embedding = nn.Parameter(torch.empty(vocabulary, config.embed))
        self.encoder_forward = PackedGRU(config.embed, config.hidden)
        self.encoder_backward = PackedGRU(config.embed, config.hidden)
        self._add_heads(2 * config.hidden, config)

    @torch.no_grad()
    def _initialise(self, init: str, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, PackedGRU):
                module.reset_parameters(generator)
            draw_linear(module, generator)
        for name, weight in self.named_parameters():
            if init == "uniform" or name in ("encoder_embedding", "decoder_embedding"):
                weight.uniform_(-0.1, 0.1, generator=generator)

    # Encoder

    def encoder_state(self, batch: TextBatch) -> Tensor:
        """What the heads read, (B, 2H): the last states of both directions."""
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
        return batch.restore(state)

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

    # Decoder with given tokens

    def nll_of_read(self, batch: TextBatch, read_BR: Tensor) -> Tensor:
        """-log p(x) in nats: the sum over a row's tokens after BOS, shape (B,)."""
        if len(batch.batch_sizes) == 1:
            return read_BR.sum(-1) * 0.0
        nll_N, row_N = self.token_nll(batch, read_BR)
        nll_B = nll_N.new_zeros(len(batch)).index_add(0, row_N, nll_N)
        return batch.restore(nll_B)

    def token_nll(self, batch: TextBatch, z_BD: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(token | those before it, z) of all tokens after BOS, and their sorted rows, (N,).

        Args:
            batch: rows of at least two tokens.
            z_BD: latents in the order the batch was asked for.
        """
        sizes = batch.batch_sizes[1:]
        inputs_N, targets_N = shifted(batch)
        z_sorted = z_BD.index_select(0, batch.order_B)[: sizes[0]]
        h_NH, _ = self._decode_states(inputs_N, sizes, z_sorted)
        h_NE = self._to_output(self._drop(h_NH))
        # - log p(x^(t) | x^(<t), z): a factor of Pang and Wu (2021), eq. 6
        nll_N = linear_nll(h_NE, self.decoder_embedding, targets_N, bfloat16=self._rounded())
        return nll_N, row_of_token(sizes, nll_N.device)

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
        z_SBD = self.read(z_SBD)
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
                copies, flat = z.shape[1], z.reshape(-1, z.shape[-1])
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
        z_BD, steps = self.read(z_BD), (max_len or self.max_len) - 2
        uniform_BL = self._word_draws(mode, len(z_BD), steps, generator, z_BD)
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

    def _writer(
        self, words: int, *, screen: bool
    ) -> tuple[FrozenGRU, GateTable | None, OutputLayer]:
        """The decoder at its weights, with a table of the vocabulary if ``words`` make it pay."""
        kept, embedding = self._frozen, self.decoder_embedding
        if kept is not None and kept.writer is not None:
            return kept.writer
        gru = FrozenGRU(self.decoder)
        pays = words > 2 * len(embedding)  # else projecting as it goes is less
        table = gru.table(embedding) if pays or kept is not None else None
        screen = (screen and pays) or kept is not None
        output = OutputLayer(embedding, (self.pad_id, self.bos_id), screen and screens(embedding))
        if kept is not None:
            kept.writer = gru, table, output
        return gru, table, output
