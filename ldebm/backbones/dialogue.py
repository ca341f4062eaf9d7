"""The VAE of a response given the turns before it.

Yu et al. (2022), appendix B.2; docs/method.md, section 6.4.

Context encoder: a bidirectional GRU over the words of every turn, additive attention over its real
tokens, a GRU over the turns from a learnt first state; its last state is c. With r the state of the
response encoder, q(z|x,c) has linear heads on g = ReLU(W [r; c]); the decoder reads [word; z] plus
a linear map of c. Response and context encoder share one embedding.

Shapes: B rows, M previous turns of all rows, N tokens in packed order, C context size, D latent
dimension, H hidden size, E embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.recurrent import RecurrentVAE
from ldebm.backbones.sentences import row_of_token
from ldebm.config import BackboneConfig, ContextConfig
from ldebm.data.batches import DialogueBatch, TextBatch
from ldebm.errors import UsageError
from ldebm.nn.cells import recurrent_cell

__all__ = ["DialogueVAE"]


class DialogueVAE(RecurrentVAE):
    """A variational auto-encoder of responses, all parts of which see the context.

    Args:
        config: as of :class:`RecurrentVAE`, and ``context``.
        meta: of the packed data.
        generator: initial weights.

    Raises:
        UsageError: the data were packed without previous turns.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        if not meta.get("context_turns"):
            raise UsageError(
                "backbone.arch 'dialogue': the data set has no previous turns; set its "
                "context_turns to 1 up, or use arch 'rnn'"
            )
        super().__init__(config, meta, generator)

    def _add_joint(self, features: int, config: BackboneConfig) -> int:
        section = config.context or ContextConfig()
        self.joined = nn.Linear(features + section.hidden, config.hidden)
        return config.hidden

    def _add_more(self, config: BackboneConfig) -> None:
        section = config.context or ContextConfig()
        width, self.context_size = section.utterance, section.hidden
        self.turn_encoder = recurrent_cell(
            "gru", config.embed, width, bidirectional=True, bfloat16=self.low_precision
        )
        self.attention = nn.Linear(2 * width, width)
        self.attention_score = nn.Linear(width, 1, bias=False)
        self.turns = recurrent_cell("gru", 2 * width, section.hidden, bfloat16=self.low_precision)
        self.no_turns = nn.Parameter(torch.empty(section.hidden))
        self._kept: tuple[TextBatch, tuple[Any, ...], Tensor] | None = None
        self.to_inputs = nn.Linear(section.hidden, config.embed + self.read_size(config))

    def context(self, batch: TextBatch) -> Tensor:
        """c of every row, (B, C), in the order the batch was asked for.

        Rows of a batch without turns begin a dialogue. That of the batch asked for last is kept
        until the parameters change: encoder and decoder both need it.
        """
        key = (torch.is_grad_enabled(), self.no_turns._version, self.no_turns.device)
        if self._kept is None or self._kept[0] is not batch or self._kept[1] != key:
            self._kept = (batch, key, self._context(batch))
        return self._kept[2]

    def _context(self, batch: TextBatch) -> Tensor:
        first_BC = self.no_turns.expand(len(batch), -1)
        if not isinstance(batch, DialogueBatch) or batch.turns is None:
            return first_BC
        turn_MX = batch.turns.restore(self._pooled(batch.turns))
        counts_B = torch.tensor(batch.counts_B)
        order_B = torch.argsort(-counts_B, stable=True)
        starts_B = counts_B.cumsum(0) - counts_B
        known = counts_B[order_B]
        sizes = [int((known > t).sum()) for t in range(int(known[0]))]
        index_N = torch.cat([starts_B[order_B[:n]] + t for t, n in enumerate(sizes)])
        inputs = turn_MX.index_select(0, index_N.to(turn_MX.device))
        start = self.no_turns.expand(1, sizes[0], -1).contiguous()
        _, (last,) = self.turns(inputs, sizes, (start,))
        read_BC = torch.cat([last[0], first_BC[sizes[0] :]])
        return read_BC.index_select(0, torch.argsort(order_B).to(read_BC.device))

    def _pooled(self, turns: TextBatch) -> Tensor:
        """One vector for every sorted turn, by attention over its tokens, (M, 2 U)."""
        words = F.embedding(turns.tokens_N, self.encoder_embedding)
        h_NX, _ = self.turn_encoder(words, turns.batch_sizes)
        score_N = self.attention_score(torch.tanh(self.attention(h_NX))).squeeze(-1)
        row_N = row_of_token(turns.batch_sizes, score_N.device)
        weight_N = (score_N - score_N.max().detach()).clamp(min=-60).exp()
        total_M = weight_N.new_zeros(len(turns)).index_add(0, row_N, weight_N)
        share_N = weight_N / total_M.index_select(0, row_N)
        pooled = h_NX.new_zeros(len(turns), h_NX.shape[1])
        turns_MX: Tensor = pooled.index_add(0, row_N, share_N.unsqueeze(-1) * h_NX)
        return turns_MX

    def _features(self, batch: TextBatch) -> Tensor:
        joined = torch.cat([super()._features(batch), self.context(batch)], -1)
        return F.relu(self.joined(joined))

    def _conditions(self, batch: TextBatch) -> Tensor | None:
        return self.context(batch)

    def _inputs(self, words_NE: Tensor, row_N: Tensor, z_BD: Tensor, c: Tensor | None) -> Tensor:
        if c is None:
            c = self.no_turns.expand(len(z_BD), -1)
        added = self.to_inputs(c).index_select(0, row_N)
        inputs: Tensor = super()._inputs(words_NE, row_N, z_BD, c) + added
        return inputs
