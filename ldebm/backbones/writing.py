"""Writing sentences: the decoder run word by word, and the choice of each word.

The most probable word is found by a screening product in bfloat16 where the processor has one. It
bounds every logit from above by what rounding can have hidden (u = 2^-9 for each factor, so that
|h.e - rounded| <= (2u + u^2) |h||e|, summed by Cauchy-Schwarz); the exact logits of the few words
that may still be the largest decide. So the words are those of the float32 product, at half the
cost.

Shapes: B rows, L steps, V vocabulary, E embedding size, H hidden size, C candidates, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm.nn.gru import FrozenGRU, GateTable

__all__ = ["OutputLayer", "argmax", "draw_words", "screens", "write"]

GROUP = 128  # columns whose maximum is looked at first
UNIT = 2.0**-9  # rounding of bfloat16
PROBES = 2  # groups whose best words bound the maximum from below
CANDIDATES = 16  # more on average, and the whole product is less


def screens(like: Tensor) -> bool:
    """Whether products in bfloat16 are fast enough here for screening to pay."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return not like.is_cuda and like.dtype == torch.float32 and bool(supported())


def argmax(logits_BV: Tensor) -> Tensor:
    """``logits_BV.argmax(-1)``, group maxima first: four times as fast on a CPU.

    Example:
        >>> argmax(torch.tensor([[0.0, 3.0, 1.0], [5.0, 5.0, 0.0]])).tolist()
        [1, 0]
    """
    if logits_BV.shape[1] < 2 * GROUP:
        return logits_BV.argmax(-1)
    best_B1 = _group_maxima(logits_BV).argmax(-1, keepdim=True)
    values, columns = _groups(logits_BV, best_B1)
    return columns.gather(-1, values.argmax(-1, keepdim=True)).flatten()


def _group_maxima(x_BV: Tensor) -> Tensor:
    """Largest values of consecutive columns, (B, G); the last group may be smaller."""
    whole = x_BV.shape[1] // GROUP
    maxima = x_BV[:, : whole * GROUP].view(len(x_BV), whole, GROUP).amax(-1)
    if whole * GROUP == x_BV.shape[1]:
        return maxima
    return torch.cat([maxima, x_BV[:, whole * GROUP :].amax(-1, keepdim=True)], 1)


def _groups(x_BV: Tensor, group_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Values and columns of some groups, (B, C, GROUP); beyond the end: the last column again."""
    columns = group_BC.unsqueeze(-1) * GROUP + torch.arange(GROUP, device=x_BV.device)
    columns = columns.clamp_(max=x_BV.shape[1] - 1)
    return x_BV.gather(1, columns.flatten(1)).view(columns.shape), columns


class OutputLayer:
    """The output layer h -> h E^T without the words that are never written.

    Args:
        weight_VE: output embedding.
        forbidden: these words.
        screen: whether to screen in bfloat16.
    """

    def __init__(self, weight_VE: Tensor, forbidden: tuple[int, ...], screen: bool) -> None:
        self.weight, self.forbidden = weight_VE, list(forbidden)
        self.rounded: Tensor | None = None
        if screen:
            size = weight_VE.shape[1]
            rounded = weight_VE.new_zeros(len(weight_VE), -(-(size + 1) // 16) * 16)
            rounded[:, :size] = weight_VE
            rounded[:, size] = weight_VE.norm(dim=-1) * (1 + 4 * UNIT)
            self.rounded = rounded.bfloat16()

    def logits(self, h_BE: Tensor) -> Tensor:
        """Logits (B, V), -inf for the forbidden words."""
        return self._without_forbidden(F.linear(h_BE, self.weight))

    def _without_forbidden(self, logits_BV: Tensor) -> Tensor:
        for word in self.forbidden:
            logits_BV[:, word].fill_(-torch.inf)
        return logits_BV

    def best(self, h_BE: Tensor) -> Tensor:
        """The most probable word of every row, (B,)."""
        if self.rounded is not None:
            words = self._screened(h_BE)
            if words is not None:
                return words
        return argmax(self.logits(h_BE))

    def _screened(self, h_BE: Tensor) -> Tensor | None:
        """The same by screening; ``None`` if too many words are left."""
        assert self.rounded is not None
        rows, size = h_BE.shape
        padded = h_BE.new_zeros(rows, self.rounded.shape[1])
        padded[:, :size] = h_BE
        padded[:, size] = h_BE.norm(dim=-1) * (2.5 * UNIT)
        upper = self._without_forbidden(F.linear(padded.bfloat16(), self.rounded).float())
        maxima = _group_maxima(upper)
        groups = maxima.topk(min(PROBES, maxima.shape[1]), -1).indices
        values, columns = _groups(upper, groups)
        probes = columns.gather(-1, values.argmax(-1, keepdim=True)).squeeze(-1)
        taken = self.weight.index_select(0, probes.flatten()).view(rows, -1, size)
        exact = torch.bmm(taken, h_BE.unsqueeze(-1)).squeeze(-1)
        lowest_B = exact.masked_fill(values.amax(-1) == -torch.inf, -torch.inf).amax(-1)
        # The result of the product is rounded too: in proportion to itself.
        floor_B = lowest_B - (lowest_B.abs() * 2 + 1e-3) * UNIT
        row, group = (maxima >= floor_B.unsqueeze(-1)).nonzero(as_tuple=True)
        if len(row) > CANDIDATES * rows:
            return None
        whole = torch.arange(GROUP, device=group.device)
        columns = (group.unsqueeze(-1) * GROUP + whole).clamp_(max=upper.shape[1] - 1)
        values = upper.view(-1).take(row.unsqueeze(-1) * upper.shape[1] + columns)
        at, inside = (values >= floor_B[row].unsqueeze(-1)).nonzero(as_tuple=True)
        if len(at) > CANDIDATES * rows:
            return None
        row, word = row[at], columns[at, inside]
        logit = (self.weight.index_select(0, word) * h_BE.index_select(0, row)).sum(-1)
        best_B = logit.new_full((rows,), -torch.inf).scatter_reduce_(0, row, logit, "amax")
        winner = torch.where(logit == best_B[row], word, len(self.weight))
        last = torch.full((rows,), len(self.weight), device=word.device)
        return last.scatter_reduce_(0, row, winner, "amin")


def write(
    gru: FrozenGRU,
    embedding_VE: Tensor,
    table: GateTable | None,
    output: OutputLayer,
    adapter: torch.nn.Linear | None,
    start: tuple[Tensor, GateTable],
    control: tuple[int, int],
    steps: int,
    uniform_BL: Tensor | None,
) -> list[list[int]]:
    """Decodes rows together; those that have written EOS leave the batch.

    Args:
        gru: the decoder.
        embedding_VE: of its inputs.
        table: of the whole vocabulary; ``None``: words are projected as they are written.
        output: the output layer.
        adapter: between states and output.
        start: first states and the rows' own gates.
        control: ids of BOS and EOS.
        steps: longest sentence, without BOS and EOS.
        uniform_BL: draws from (0, 1) for sampling; ``None``: the most probable words.

    Returns:
        Token ids of every row without BOS and EOS.
    """
    h, rows = start
    bos, eos = control
    out_BL = torch.full((len(h), steps), eos, device=h.device)
    alive = torch.arange(len(h), device=h.device)
    tokens = torch.full_like(alive, bos)
    for step in range(steps):
        index, words = (tokens, table) if table else (None, gru.table(embedding_VE[tokens]))
        if index is None:
            index = torch.arange(len(tokens), device=h.device)
        h = gru.run(words, index, [len(h)], initial_BH=h, rows=rows)
        hidden = h if adapter is None else adapter(h)
        if uniform_BL is None:
            tokens = output.best(hidden)
        else:
            tokens = draw_words(output.logits(hidden), uniform_BL[alive, step])
        out_BL[alive, step] = tokens
        going = (tokens != eos).nonzero().squeeze(-1)
        if len(going) < len(tokens):
            alive, tokens, h = (part.index_select(0, going) for part in (alive, tokens, h))
            kept = (part.index_select(0, going) for part in (rows.gates, rows.candidate))
            rows = GateTable(*kept)
        if not len(alive):
            break
    lengths = (out_BL != eos).sum(-1).tolist()
    return [ids[:n] for ids, n in zip(out_BL.tolist(), lengths, strict=True)]


def draw_words(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Words by inversion of the cumulative softmax."""
    cumulative = torch.softmax(logits_BV, -1).cumsum(-1, dtype=torch.float64)
    wanted = (uniform_B.double() * cumulative[:, -1]).unsqueeze(-1)
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(-1)
