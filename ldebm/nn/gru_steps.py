"""The steps of a gated recurrent unit on packed rows, and their hand-written backward pass.

The equations and shapes are those of :mod:`ldebm.nn.gru`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm import kernels
from ldebm.kernels import functions

__all__ = ["Gates", "packed_spans", "product", "run_gates"]


def product(x: Tensor, weight: Tensor, bfloat16: bool) -> Tensor:
    """x weight^T, in bfloat16 (result too) or in the precision of ``x``."""
    if bfloat16:
        return F.linear(x.bfloat16(), weight.bfloat16())
    return F.linear(x, weight)


@dataclass(frozen=True)
class Gates:
    """Input part of the pre-activations of all steps, in the order r, u, n.

    Attributes:
        values: (N, 3H) in packed order, or (U, 3H) rows that ``index_N`` refers to.
        index_N: which row of ``values`` a token takes; None: the rows are the tokens.
        row_B3H: a part that is the same at every step of a row.
    """

    values: Tensor
    index_N: Tensor | None = None
    row_B3H: Tensor | None = None


def packed_spans(batch_sizes: Sequence[int], reverse: bool) -> list[tuple[int, int, int]]:
    """(start, stop, rows) of every step in the order in which it is computed."""
    spans, start = [], 0
    for rows in batch_sizes:
        spans.append((start, start + rows, rows))
        start += rows
    return spans[::-1] if reverse else spans


class _Buffers:
    """Where the steps write: one row per token when they are kept, else scratch for one step."""

    def __init__(self, tokens: int, rows: int, hidden: int, like: Tensor, all_steps: bool) -> None:
        size = tokens if all_steps else rows
        self.all_steps = all_steps
        self.gate = like.new_empty(size, 2 * hidden)  # r and u
        self.candidate = like.new_empty(size, hidden)  # n
        self.recurrent = like.new_empty(size, hidden)  # W_hn h + b_hn

    def at(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        span = slice(start, stop) if self.all_steps else slice(0, stop - start)
        return self.gate[span], self.candidate[span], self.recurrent[span]


def _forward(
    gates: Gates,
    weight_hh: Tensor,
    bias_hn: Tensor,
    h_BH: Tensor,
    spans: list[tuple[int, int, int]],
    *,
    bfloat16: bool,
    all_steps: bool,
    outputs_NH: Tensor | None,
) -> tuple[_Buffers, Tensor | None]:
    """Runs all steps; ``h_BH`` is updated in place. Returns what the backward pass needs."""
    rows, hidden = h_BH.shape
    tokens = sum(span[2] for span in spans)
    buffers = _Buffers(tokens, rows, hidden, h_BH, all_steps)
    weight = (weight_hh.bfloat16() if bfloat16 else weight_hh).t()
    before_NH = h_BH.new_empty(tokens, hidden, dtype=weight.dtype) if all_steps else None
    product_B3H = torch.empty(rows, 3 * hidden, dtype=weight.dtype, device=h_BH.device)
    gather_B3H = torch.empty(rows, 3 * hidden, dtype=gates.values.dtype, device=gates.values.device)
    for start, stop, n in spans:
        h = h_BH[:n]
        gate, candidate, recurrent = buffers.at(start, stop)
        before = h.to(weight.dtype) if before_NH is None else before_NH[start:stop].copy_(h)
        hw = torch.mm(before, weight, out=product_B3H[:n])
        if gates.index_N is None:
            x = gates.values[start:stop]
        else:
            x = torch.index_select(gates.values, 0, gates.index_N[start:stop], out=gather_B3H[:n])
        torch.add(x[:, : 2 * hidden], hw[:, : 2 * hidden], out=gate)
        torch.add(hw[:, 2 * hidden :], bias_hn, out=recurrent)
        if gates.row_B3H is not None:
            gate.add_(gates.row_B3H[:n, : 2 * hidden])
            torch.add(x[:, 2 * hidden :], gates.row_B3H[:n, 2 * hidden :], out=candidate)
        else:
            candidate.copy_(x[:, 2 * hidden :])
        gate.sigmoid_()
        candidate.addcmul_(gate[:, :hidden], recurrent).tanh_()
        torch.lerp(candidate, h, gate[:, hidden:], out=h)
        if outputs_NH is not None:
            outputs_NH[start:stop] = h
    return buffers, before_NH


class _PackedGRU(torch.autograd.Function):
    """Outputs (N, H) and last states (B, H) of one direction."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        row_B3H: Tensor | None,
        weight_hh: Tensor,
        bias_hn: Tensor,
        initial_BH: Tensor,
        index_N: Tensor | None,
        spans: list[tuple[int, int, int]],
        bfloat16: bool,
    ) -> tuple[Tensor, Tensor]:
        h_BH = initial_BH.clone(memory_format=torch.contiguous_format)
        tokens = sum(span[2] for span in spans)
        outputs_NH = h_BH.new_empty(tokens, h_BH.shape[1])
        buffers, before_NH = _forward(
            Gates(values, index_N, row_B3H),
            weight_hh,
            bias_hn,
            h_BH,
            spans,
            bfloat16=bfloat16,
            all_steps=True,
            outputs_NH=outputs_NH,
        )
        ctx.save_for_backward(
            weight_hh,
            index_N,
            outputs_NH,
            before_NH,
            buffers.gate,
            buffers.candidate,
            buffers.recurrent,
        )
        ctx.spans = spans
        ctx.values_like = (values.shape, values.dtype)
        ctx.set_materialize_grads(False)
        return outputs_NH, h_BH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_outputs_NH: Tensor | None, d_last_BH: Tensor | None) -> Any:
        weight_hh, index_N, outputs, before, gate, candidate, recurrent = ctx.saved_tensors
        hidden = weight_hh.shape[1]
        rows = max(span[2] for span in ctx.spans)
        reset, update = gate[:, :hidden], gate[:, hidden:]
        # Everything that does not depend on the incoming gradient is computed for all tokens at
        # once: d(pre-activations) = slope * dh, with u (h - n) = h' - n in the slope of u.
        keep_N = 1 - update
        slope_n = (1 - candidate.square()).mul_(keep_N)
        slope = torch.empty(len(gate), 3, hidden, dtype=gate.dtype, device=gate.device)
        torch.mul(slope_n, reset, out=slope[:, 2])
        torch.mul(slope[:, 2], recurrent, out=slope[:, 0]).mul_(1 - reset)
        torch.sub(outputs, candidate, out=slope[:, 1]).mul_(keep_N)

        weight = weight_hh.to(before.dtype)
        d_pre = torch.empty(slope.shape, dtype=before.dtype, device=gate.device)
        d_state_NH = torch.empty_like(candidate)
        dh_BH = candidate.new_zeros(rows, hidden) if d_last_BH is None else d_last_BH.clone()
        for start, stop, n in reversed(ctx.spans):
            dh, step = dh_BH[:n], slice(start, stop)
            if d_outputs_NH is not None:
                dh.add_(d_outputs_NH[step])
            d_state_NH[step] = dh
            torch.mul(dh.unsqueeze(1), slope[step], out=d_pre[step])
            dh.mul_(update[step])
            flat = d_pre[step].view(n, 3 * hidden)
            if weight.dtype == dh.dtype:
                dh.addmm_(flat, weight)
            else:
                dh.add_((flat @ weight).to(dh.dtype))

        flat_N3H = d_pre.view(-1, 3 * hidden)
        d_weight = d_bias = d_values = d_row = None
        if ctx.needs_input_grad[2]:
            d_weight = (flat_N3H.t() @ before).to(weight_hh.dtype)
        if ctx.needs_input_grad[3]:
            d_bias = flat_N3H[:, 2 * hidden :].sum(0, dtype=weight_hh.dtype)
        torch.mul(d_state_NH, slope_n, out=d_pre[:, 2])  # of the input part: without the reset gate
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.values_like
            if index_N is None:
                d_values = flat_N3H.to(dtype)
            else:
                total = candidate.new_zeros(shape)
                d_values = total.index_add_(0, index_N, flat_N3H.to(total.dtype)).to(dtype)
        if ctx.needs_input_grad[1]:
            d_row = candidate.new_zeros(rows, 3 * hidden)
            for start, stop, n in ctx.spans:
                d_row[:n] += flat_N3H[start:stop]
        d_initial = dh_BH if ctx.needs_input_grad[4] else None
        return d_values, d_row, d_weight, d_bias, d_initial, None, None, None


def run_gates(
    gates: Gates,
    weight_hh: Tensor,
    bias_hn: Tensor,
    initial_BH: Tensor,
    batch_sizes: Sequence[int],
    *,
    reverse: bool = False,
    bfloat16: bool = False,
    outputs: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Runs the recurrence over projected inputs.

    Args:
        gates: input parts of the pre-activations, with every bias but that of W_hn in them.
        weight_hh: (3H, H).
        bias_hn: (H).
        initial_BH: first states, of rows sorted by length.
        batch_sizes: n_t, falling.
        reverse: from each row's last token to its first.
        bfloat16: recurrent products in bfloat16; the state keeps its precision.
        outputs: whether the states of all steps are wanted when no gradient is.

    Returns:
        (outputs_NH, last_BH); the first is None where it is not wanted and nothing needs it.
    """
    if bfloat16 and kernels.usable(initial_BH):
        return functions.run_gru(
            gates.values,
            gates.index_N,
            gates.row_B3H,
            weight_hh,
            bias_hn,
            initial_BH,
            batch_sizes,
            reverse=reverse,
            outputs=outputs,
        )
    spans = packed_spans(batch_sizes, reverse)
    inputs = (gates.values, gates.row_B3H, weight_hh, bias_hn, initial_BH)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return _PackedGRU.apply(*inputs, gates.index_N, spans, bfloat16)  # type: ignore[no-any-return,no-untyped-call]
    h_BH = initial_BH.clone(memory_format=torch.contiguous_format)
    tokens = sum(batch_sizes)
    outputs_NH = h_BH.new_empty(tokens, h_BH.shape[1]) if outputs else None
    with torch.no_grad():
        _forward(
            gates,
            weight_hh,
            bias_hn,
            h_BH,
            spans,
            bfloat16=bfloat16,
            all_steps=False,
            outputs_NH=outputs_NH,
        )
    return outputs_NH, h_BH
