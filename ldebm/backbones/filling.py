"""Writes the missing words of sentences whose other words are given.

Shapes: S samples of z, B rows, K hypotheses of each, L tokens of the longest row, D latent
dimension, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldebm.backbones.text import TextVAE
from ldebm.nn.gru import FrozenGRU, GateTable

__all__ = ["fill"]

STATES = 2048  # decoder states at once: bounds the memory of their logits


@torch.no_grad()
def fill(
    model: TextVAE,
    rows: Sequence[Sequence[int]],
    gaps: Sequence[Sequence[bool]],
    z_SBD: Tensor,
    beam: int,
) -> list[list[int]]:
    """The rows with their gaps filled so that the whole row is most probable, by a beam search.

    A row's probability is the mean over its samples of z of p(row | z), so that words after a gap
    count as much as those before it, and samples count by the known words that they explain. A gap
    is never left unknown, nor ends a row.

    Args:
        model: the decoder.
        rows: token ids, BOS to EOS; what stands at a gap is not read.
        gaps: which tokens are missing.
        z_SBD: samples of every row's latent.
        beam: K, hypotheses that are kept; with one, a gap does not see what follows it.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    filled: dict[int, list[int]] = {}
    at_once = max(1, STATES // (beam * len(z_SBD)))
    for start in range(0, len(order), at_once):
        part = order[start : start + at_once]
        search = _Search(model, [rows[i] for i in part], [gaps[i] for i in part], beam)
        filled |= dict(zip(part, search.run(z_SBD[:, part]), strict=True))
    return [filled[index] for index in range(len(rows))]


class _Search:
    """Beam search over rows that are sorted by length, the longest first."""

    def __init__(
        self,
        model: TextVAE,
        rows: Sequence[Sequence[int]],
        gaps: Sequence[Sequence[bool]],
        beam: int,
    ) -> None:
        self.model, self.beam = model, beam
        self.lengths = [len(row) for row in rows]
        device = model.decoder_embedding.device
        self.known_BL = torch.full((len(rows), self.lengths[0]), model.pad_id, device=device)
        self.missing_BL = torch.zeros(self.known_BL.shape, dtype=torch.bool, device=device)
        for index, (row, gap) in enumerate(zip(rows, gaps, strict=True)):
            self.known_BL[index, : len(row)] = torch.tensor(list(row), device=device)
            self.missing_BL[index, : len(row)] = torch.tensor(list(gap), device=device)
        self.forbidden = [model.pad_id, model.unk_id, model.bos_id, model.eos_id]
        self.gru = FrozenGRU(model.decoder)

    def run(self, z_SBD: Tensor) -> list[list[int]]:
        """The best hypothesis of every row."""
        samples, count, _ = z_SBD.shape
        beam, words_BKL = self.beam, self.known_BL.unsqueeze(1).repeat(1, self.beam, 1)
        # Row by row, then hypotheses, then samples: rows that have ended are a suffix.
        z_ND = z_SBD.transpose(0, 1).unsqueeze(1).expand(-1, beam, -1, -1).flatten(0, 2)
        own, h_NH = self.gru.rows(z_ND), self.model.initial(z_ND)
        log_p_BKS = h_NH.new_zeros(count, beam, samples, dtype=torch.float64)
        log_p_BKS[:, 1:] = -math.inf  # at first all hypotheses are the same
        for step in range(1, self.lengths[0]):
            active = sum(length > step for length in self.lengths)
            size = active * beam * samples
            words = words_BKL[:active, :, step - 1].flatten().repeat_interleave(samples)
            rows = GateTable(own.gates[:size], own.candidate[:size])
            h_NH = self._advance(words, h_NH[:size], rows)
            missing_B = self.missing_BL[:active, step]
            logits = self._logits(h_NH).view(active, beam, samples, -1)
            logits -= torch.logsumexp(logits, -1, keepdim=True)
            self._known(logits, words_BKL, log_p_BKS, ~missing_B, step)
            if bool(missing_B.any()):
                h_NH = self._branch(logits, words_BKL, log_p_BKS, missing_B, step, h_NH)
        best_B = torch.logsumexp(log_p_BKS, -1).argmax(-1)
        chosen = words_BKL[torch.arange(count, device=best_B.device), best_B].tolist()
        return [row[:length] for row, length in zip(chosen, self.lengths, strict=True)]

    def _advance(self, words_N: Tensor, h_NH: Tensor, rows: GateTable) -> Tensor:
        types, index_N = torch.unique(words_N, return_inverse=True)
        table = self.gru.table(self.model.decoder_embedding[types])
        return self.gru.run(table, index_N, [len(h_NH)], initial_BH=h_NH, rows=rows)

    def _logits(self, h_NH: Tensor) -> Tensor:
        adapter, weight = self.model.adapter, self.model.decoder_embedding
        return (h_NH if adapter is None else adapter(h_NH)) @ weight.t()

    def _known(
        self,
        share_BKSV: Tensor,
        words_BKL: Tensor,
        log_p_BKS: Tensor,
        known_B: Tensor,
        step: int,
    ) -> None:
        """Adds the log-probability of the words that are given at ``step``."""
        index = known_B.nonzero().squeeze(-1)
        shape = (*share_BKSV.shape[1:3], 1)
        word = words_BKL[index, 0, step].view(-1, 1, 1, 1).expand(-1, *shape)
        log_p_BKS[index] += share_BKSV[index].gather(-1, word).squeeze(-1).double()

    def _branch(
        self,
        share_BKSV: Tensor,
        words_BKL: Tensor,
        log_p_BKS: Tensor,
        missing_B: Tensor,
        step: int,
        h_NH: Tensor,
    ) -> Tensor:
        """Puts the best words at the gaps of ``step``; the states of what they continue."""
        index, (active, beam, samples, size) = missing_B.nonzero().squeeze(-1), share_BKSV.shape
        share, log_p = share_BKSV[index], log_p_BKS[index]
        weight = (log_p - log_p.amax((1, 2), keepdim=True)).exp().float()
        total_BKV = (weight.unsqueeze(2) @ share.exp()).squeeze(2)
        total_BKV[..., self.forbidden] = -1.0
        best_BK = total_BKV.flatten(1).topk(beam, -1).indices
        parent, word = best_BK // size, best_BK % size
        row = torch.arange(len(index), device=index.device).unsqueeze(-1)
        log_p_BKS[index] = log_p[row, parent] + share[row, parent, :, word].double()
        words_BKL[index] = words_BKL[index.unsqueeze(-1), parent]
        words_BKL[index, :, step] = word
        h = h_NH.view(active, beam, samples, -1)
        h[index] = h[index.unsqueeze(-1), parent]
        return h.flatten(0, 2)
