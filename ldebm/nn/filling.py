"""Writes the missing words of sentences whose other words are given.

Shapes: S samples of z, B rows, L tokens of the longest row, D latent dimension, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldebm.nn.frozen_gru import FrozenGRU
from ldebm.nn.text import TextVAE
from ldebm.nn.writing import Output

__all__ = ["fill"]


@torch.no_grad()
def fill(
    model: TextVAE,
    rows: Sequence[Sequence[int]],
    gaps: Sequence[Sequence[bool]],
    z_SBD: Tensor,
    weight_SB: Tensor,
) -> list[list[int]]:
    """The rows with every gap filled, from left to right, by the most probable word.

    A word's probability is the mean over the samples of z, weighted; all samples read the words
    that were given and those that were filled in. A gap is never left unknown, nor ends a row.

    Args:
        model: the decoder.
        rows: token ids, BOS to EOS; what stands at a gap is not read.
        gaps: which tokens are missing.
        z_SBD: samples of every row's latent.
        weight_SB: their weights, which add up to one over the samples.
    """
    samples, count, _ = z_SBD.shape
    longest, device = max(map(len, rows)), z_SBD.device
    known = torch.full((count, longest), model.pad_id, device=device)
    missing = torch.zeros(known.shape, dtype=torch.bool, device=device)
    for index, (row, gap) in enumerate(zip(rows, gaps, strict=True)):
        known[index, : len(row)] = torch.tensor(list(row), device=device)
        missing[index, : len(row)] = torch.tensor(list(gap), device=device)
    gru, flat = FrozenGRU(model.decoder), z_SBD.flatten(0, 1)
    forbidden = (model.pad_id, model.unk_id, model.bos_id, model.eos_id)
    output = Output(model.decoder_embedding, forbidden, screen=False)
    h, parts = model.initial(flat), gru.rows(flat)
    every = torch.arange(len(flat), device=device)
    for step in range(1, longest):
        words = gru.table(model.decoder_embedding[known[:, step - 1].repeat(samples)])
        h = gru.run(words, every, [len(flat)], initial_BH=h, rows=parts)
        asked = missing[:, step]
        if not bool(asked.any()):
            continue
        states = h.view(samples, count, -1)[:, asked].flatten(0, 1)
        states = states if model.adapter is None else model.adapter(states)
        p = torch.softmax(output.logits(states), -1).view(samples, int(asked.sum()), -1)
        known[asked, step] = (p * weight_SB[:, asked].unsqueeze(-1)).sum(0).argmax(-1)
    return [known[index, : len(row)].tolist() for index, row in enumerate(rows)]
