"""The compiled kernels as differentiable functions of torch.

Shapes: B rows, N tokens of all rows in time-major order, U rows of ``values``, H hidden size,
D size of the hidden vectors, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["clip_adam", "linear_nll", "run_gru", "run_lstm"]

KEPT_ERRORS = 1 << 28  # tokens times words of which the errors are kept from the forward pass


def run_gru(
    values: Tensor,
    index_N: Tensor | None,
    row_B3H: Tensor | None,
    weight_hh: Tensor,
    bias_hn: Tensor,
    initial_BH: Tensor,
    batch_sizes: Sequence[int],
    *,
    reverse: bool,
    outputs: bool,
) -> tuple[Tensor | None, Tensor]:
    """:func:`ldebm.nn.gru.run_gates` with products in bfloat16.

    Sums of products, gates and state are in float32; what a product gives is not rounded.
    """
    sizes = list(batch_sizes)
    inputs = (values, row_B3H, weight_hh, bias_hn, initial_BH)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return _GRU.apply(*inputs, index_N, sizes, reverse)  # type: ignore[no-any-return,no-untyped-call]
    with torch.no_grad():
        out, last, _, _ = torch.ops.ldebm.gru_forward(
            values, index_N, row_B3H, weight_hh, bias_hn, initial_BH, sizes, reverse, False, outputs
        )
    return out if outputs else None, last


class _GRU(torch.autograd.Function):
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
        sizes: list[int],
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        outputs, last, saved, before = torch.ops.ldebm.gru_forward(
            values, index_N, row_B3H, weight_hh, bias_hn, initial_BH, sizes, reverse, True, True
        )
        ctx.save_for_backward(weight_hh, index_N, outputs, saved, before)
        ctx.steps = sizes, reverse
        ctx.rows = len(values)
        ctx.set_materialize_grads(False)
        return outputs, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_outputs_NH: Tensor | None, d_last_BH: Tensor | None) -> Any:
        weight_hh, index_N, outputs, saved, before = ctx.saved_tensors
        recurrent, d_values, d_row, d_bias, d_initial = torch.ops.ldebm.gru_backward(
            d_outputs_NH, d_last_BH, weight_hh, outputs, saved, *ctx.steps
        )
        needs = ctx.needs_input_grad
        if index_N is not None and needs[0]:
            d_values = torch.ops.ldebm.sum_rows(d_values, index_N, ctx.rows)
        d_weight = _of_weight(recurrent, before) if needs[2] else None
        return (
            d_values if needs[0] else None,
            d_row if needs[1] else None,
            d_weight,
            d_bias.sum(0) if needs[3] else None,
            d_initial if needs[4] else None,
            None,
            None,
            None,
        )


def _of_weight(d_pre_NG: Tensor, before_NH: Tensor) -> Tensor:
    """d_pre^T before, (G, H) in float32; in this order the product is faster where tiles are."""
    transposed = torch.mm(before_NH.t(), d_pre_NG).t()
    return transposed.to(torch.float32, memory_format=torch.contiguous_format)


def run_lstm(
    values_N4H: Tensor,
    weight_hh: Tensor,
    first: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`ldebm.nn.lstm.run_lstm`: outputs (N, H), last h and last c."""
    return _LSTM.apply(  # type: ignore[no-any-return,no-untyped-call]
        values_N4H, weight_hh, *first, list(batch_sizes), reverse
    )


class _LSTM(torch.autograd.Function):
    """Outputs (N, H) and last states (B, H) and (B, H) of one direction."""

    @staticmethod
    def forward(
        ctx: Any,
        values_N4H: Tensor,
        weight_hh: Tensor,
        first_h: Tensor,
        first_c: Tensor,
        sizes: list[int],
        reverse: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs, h, c, saved, before = torch.ops.ldebm.lstm_forward(
            values_N4H, weight_hh, first_h, first_c, sizes, reverse
        )
        ctx.save_for_backward(weight_hh, saved, before)
        ctx.steps = sizes, reverse
        ctx.set_materialize_grads(False)
        return outputs, h, c

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None, d_c: Tensor | None) -> Any:
        weight_hh, saved, before = ctx.saved_tensors
        d_pre, *d_first = torch.ops.ldebm.lstm_backward(
            d_outputs, d_h, d_c, weight_hh, saved, *ctx.steps
        )
        needs = ctx.needs_input_grad
        d_weight = _of_weight(d_pre, before) if needs[1] else None
        first = [d if need else None for d, need in zip(d_first, needs[2:4], strict=True)]
        return d_pre if needs[0] else None, d_weight, *first, None, None


def linear_nll(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """:func:`ldebm.nn.functional.linear_nll` with products in bfloat16, in float32 (N,)."""
    if torch.is_grad_enabled() and (h_ND.requires_grad or weight_VD.requires_grad):
        return _LinearNLL.apply(h_ND, weight_VD, targets_N)  # type: ignore[no-any-return,no-untyped-call]
    with torch.no_grad():
        nll_N, _, _ = torch.ops.ldebm.nll_forward(h_ND, weight_VD, targets_N, False, False)
    return nll_N  # type: ignore[no-any-return]


class _LinearNLL(torch.autograd.Function):
    """Values; the gradient in h at once, that in W when the incoming gradient is there."""

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        need_h, need_weight = ctx.needs_input_grad[:2]
        keep = need_weight and len(h_ND) * len(weight_VD) <= KEPT_ERRORS
        nll_N, d_h, errors = torch.ops.ldebm.nll_forward(h_ND, weight_VD, targets_N, need_h, keep)
        ctx.save_for_backward(h_ND, weight_VD, targets_N, d_h, *errors)
        ctx.kept = keep
        return nll_N  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_nll_N: Tensor) -> Any:
        h_ND, weight_VD, targets_N, d_h, *errors = ctx.saved_tensors
        need_h, need_weight = ctx.needs_input_grad[:2]
        d_weight = None
        if need_weight and ctx.kept:
            d_weight = torch.ops.ldebm.nll_weight(h_ND, d_nll_N, errors, len(weight_VD))
        elif need_weight:  # too many to keep: a part at a time, from logits made again
            d_weight = torch.zeros_like(weight_VD)
            rows = max(1, KEPT_ERRORS // len(weight_VD))
            for first in range(0, len(h_ND), rows):
                part = slice(first, first + rows)
                _, _, errors = torch.ops.ldebm.nll_forward(
                    h_ND[part], weight_VD, targets_N[part], False, True
                )
                d_weight += torch.ops.ldebm.nll_weight(
                    h_ND[part], d_nll_N[part], errors, len(weight_VD)
                )
        return d_h * d_nll_N.unsqueeze(-1) if need_h else None, d_weight, None


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """x in the memory order of ``like``."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


@torch.no_grad()
def clip_adam(optimiser: torch.optim.Optimizer, clip: float | None) -> bool:
    """Clips gradients to a global norm and makes a step of Adam, in two passes over memory.

    Gradients are left as they are; the optimiser's state is that of ``torch.optim.Adam``.

    Args:
        optimiser: Adam with one group.
        clip: largest norm; None: no clipping.

    Returns:
        False: nothing was done, because a parameter has no gradient or no state yet.
    """
    group = optimiser.param_groups[0]
    values = group["params"]
    states = [optimiser.state.get(value, {}) for value in values]
    if not all(states) or any(value.grad is None for value in values):
        return False
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    torch.ops.ldebm.clip_adam(
        values,
        [laid_out(value.grad, value) for value in values],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        clip or 0.0,
        float(group["lr"]),
        *group["betas"],
        group["eps"],
        group["weight_decay"],
        int(steps[0]),
    )
    return True
