"""A GRU direction at fixed weights: what encoding, writing and scoring without gradients run.

The equations are those of :mod:`ldebm.nn.gru`. The inputs come from a table of projected words with
the biases in it, into which the recurrent product is accumulated, so that a step costs one product
and six passes over its rows. In bfloat16 the product and its inputs are rounded; the candidate and
the state keep their precision.

Shapes: B rows, N tokens of all rows in time-major order, U rows of a table, I input size, R row
input size, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm import kernels
from ldebm.kernels import functions
from ldebm.nn.gru import PackedGRU

__all__ = ["FrozenGRU", "GateTable"]


@dataclass(frozen=True)
class GateTable:
    """Parts of the pre-activations.

    Attributes:
        gates: of the reset gate, the update gate and the recurrent half of the candidate, (U, 3H).
        candidate: of the input half of the candidate, (U, H). Compiled kernels take the input parts
            of r, u and n as ``gates``, and none of these.
    """

    gates: Tensor
    candidate: Tensor


class FrozenGRU:
    """The layer's weights as they are now.

    Args:
        layer: whose weights are taken.
        bfloat16: round the recurrent product and what is added to it.
    """

    @torch.no_grad()
    def __init__(self, layer: PackedGRU, bfloat16: bool = False) -> None:
        self.layer, self.hidden = layer, layer.hidden_size
        self.dtype = torch.bfloat16 if bfloat16 else layer.weight_hh.dtype
        self.compiled = bfloat16 and kernels.usable(layer.weight_hh)
        self.weight = layer.weight_hh.detach().to(self.dtype).t().contiguous()

    @torch.no_grad()
    def table(self, x_UI: Tensor) -> GateTable:
        """Projected inputs; with the biases, unless :meth:`rows` has them."""
        layer = self.layer
        bias = None if layer.row_size else self._bias()
        weight = layer.weight_ih[:, : layer.input_size]
        if self.dtype != weight.dtype:
            x_UI, weight = x_UI.to(self.dtype), weight.to(self.dtype)
        if self.compiled:
            return GateTable(F.linear(x_UI, weight), layer.bias_hh.new_empty(0, self.hidden))
        return self._split(F.linear(x_UI, weight), bias)

    @torch.no_grad()
    def rows(self, row_BR: Tensor) -> GateTable:
        """What the inputs that all steps of a row share contribute, and the biases."""
        layer = self.layer
        if self.compiled:
            gates = layer.row_gates(row_BR, len(row_BR))
            return GateTable(gates, gates.new_empty(0, self.hidden))
        values = F.linear(row_BR, layer.weight_ih[:, layer.input_size :])
        return self._split(values, self._bias())

    def _bias(self) -> Tensor:
        layer = self.layer
        return layer.bias_ih + F.pad(layer.bias_hh[: 2 * self.hidden], (0, self.hidden))

    def _split(self, values: Tensor, bias: Tensor | None) -> GateTable:
        twice = 2 * self.hidden
        exact = self.layer.bias_hh.dtype
        gates = values.new_zeros(values.shape, dtype=exact)
        gates[:, :twice] = values[:, :twice]
        candidate = values[:, twice:].to(exact, copy=True)
        if bias is not None:
            gates[:, :twice] += bias[:twice]
            gates[:, twice:] = self.layer.bias_hh[twice:]
            candidate += bias[twice:]
        return GateTable(gates.to(self.dtype), candidate)

    @torch.no_grad()
    def run(
        self,
        table: GateTable,
        index_N: Tensor,
        batch_sizes: Sequence[int],
        *,
        initial_BH: Tensor | None = None,
        rows: GateTable | None = None,
        repeat: int = 1,
        reverse: bool = False,
        outputs_NH: Tensor | None = None,
    ) -> Tensor:
        """Runs rows sorted by length, and returns their last states (B, H).

        Args:
            table: of the words.
            index_N: which row of the table a token takes.
            batch_sizes: tokens n_t of every step, falling.
            initial_BH: first states, overwritten; zeros if not given.
            rows: parts of every row, (B, ...).
            repeat: copies of each row side by side that read the same tokens: every shape B above
                then is ``repeat`` times as large, ``index_N`` and ``batch_sizes`` are not.
            reverse: from each row's last token to its first.
            outputs_NH: where to leave the states after every token.
        """
        rows_B = batch_sizes[0] * repeat
        like = table.candidate
        if self.compiled:
            first = like.new_zeros(rows_B, self.hidden) if initial_BH is None else initial_BH
            index_N = index_N.repeat_interleave(repeat)
            sizes = [n * repeat for n in batch_sizes]
            return self._run_compiled(table, index_N, sizes, first, rows, reverse, outputs_NH)
        h_BH = like.new_zeros(rows_B, self.hidden) if initial_BH is None else initial_BH
        gates = like.new_empty(rows_B, 3 * self.hidden, dtype=self.dtype)
        candidate = torch.empty_like(h_BH)
        ends = torch.tensor(batch_sizes).cumsum(0).tolist()
        spans = [(end - n, end, n) for end, n in zip(ends, batch_sizes, strict=True)]
        still = initial_BH is None  # every state is 0 until its first step
        for count, (start, stop, n) in enumerate(reversed(spans) if reverse else spans):
            index = index_N[start:stop]
            parts = h_BH[: n * repeat], gates[: n * repeat], candidate[: n * repeat]
            # Rows that join a reverse pass late start from zero too, so the rest does not matter.
            self._step(table, index, rows, repeat, parts, skip=still and count == 0)
            if outputs_NH is not None:
                outputs_NH[start * repeat : stop * repeat] = parts[0]
        return h_BH

    def _run_compiled(
        self,
        table: GateTable,
        index_N: Tensor,
        sizes: list[int],
        first_BH: Tensor,
        rows: GateTable | None,
        reverse: bool,
        outputs_NH: Tensor | None,
    ) -> Tensor:
        row_B3H = self.layer.row_gates(None, sizes[0]) if rows is None else rows.gates
        outputs, last = functions.run_gru(
            table.gates,
            index_N,
            row_B3H,
            self.layer.weight_hh,
            self.layer.bias_hh[2 * self.hidden :],
            first_BH,
            sizes,
            reverse=reverse,
            outputs=outputs_NH is not None,
        )
        if outputs is not None and outputs_NH is not None:
            outputs_NH.copy_(outputs)
        return last

    def _step(
        self,
        table: GateTable,
        index: Tensor,
        rows: GateTable | None,
        repeat: int,
        parts: tuple[Tensor, Tensor, Tensor],
        skip: bool,
    ) -> None:
        h, gates, candidate = parts
        hidden = self.hidden
        _gather(table.gates, index, None if rows is None else rows.gates, repeat, gates)
        if not skip:
            gates.addmm_(h if h.dtype == self.dtype else h.to(self.dtype), self.weight)
        exact = gates if gates.dtype == h.dtype else gates.to(h.dtype)
        _gather(table.candidate, index, None if rows is None else rows.candidate, repeat, candidate)
        exact[:, : 2 * hidden].sigmoid_()
        candidate.addcmul_(exact[:, :hidden], exact[:, 2 * hidden :]).tanh_()
        torch.lerp(candidate, h, exact[:, hidden : 2 * hidden], out=h)


def _gather(
    table_U: Tensor, index: Tensor, rows_B: Tensor | None, repeat: int, out: Tensor
) -> None:
    """out = table[index], each row ``repeat`` times, plus the rows' own parts."""
    if rows_B is None and repeat == 1:
        torch.index_select(table_U, 0, index, out=out)
        return
    taken = table_U.index_select(0, index).unsqueeze(1)
    shape = (len(index), repeat, table_U.shape[1])
    if rows_B is None:
        out.view(shape).copy_(taken.expand(shape))
    else:
        torch.add(rows_B[: len(out)].view(shape), taken, out=out.view(shape))
