"""Long short-term memory on packed, time-major rows with bfloat16 products and a float32 state.

The equations are those of ``torch.nn.LSTM``, the gates in the order i, f, g, o::

    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')

It is for training on a CPU, where torch's own kernel in bfloat16 would round the state at every
step and accumulate the gradient of the recurrent weight step by step in bfloat16. Here that
gradient is one product after the loop, and all that does not depend on the incoming gradient is
computed for all tokens at once, as in :mod:`ldebm.nn.gru`.

Shapes: B rows, L steps, N tokens of all rows in time-major order, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldebm import kernels
from ldebm.kernels import functions
from ldebm.nn.gru_steps import packed_spans

__all__ = ["run_lstm"]


class _PackedLSTM(torch.autograd.Function):
    """Outputs (N, H) and last states (B, H) and (B, H) of one direction."""

    @staticmethod
    def forward(
        ctx: Any,
        values_N4H: Tensor,
        weight_hh: Tensor,
        first_h: Tensor,
        first_c: Tensor,
        spans: list[tuple[int, int, int]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden = weight_hh.shape[1]
        h_BH = first_h.clone(memory_format=torch.contiguous_format)
        c_BH = first_c.clone(memory_format=torch.contiguous_format)
        tokens = len(values_N4H)
        outputs, before_c, squashed = (h_BH.new_empty(tokens, hidden) for _ in range(3))
        gates = h_BH.new_empty(tokens, 4, hidden)
        weight = weight_hh.to(values_N4H.dtype).t()
        before_h = values_N4H.new_empty(tokens, hidden)
        for start, stop, n in spans:
            h, c, step = h_BH[:n], c_BH[:n], slice(start, stop)
            before_h[step] = h
            before_c[step] = c
            gate = gates[step]
            torch.add(values_N4H[step], before_h[step] @ weight, out=gate.view(n, 4 * hidden))
            gate[:, :2].sigmoid_()
            gate[:, 2].tanh_()
            gate[:, 3].sigmoid_()
            c.mul_(gate[:, 1]).addcmul_(gate[:, 0], gate[:, 2])
            torch.tanh(c, out=squashed[step])
            torch.mul(gate[:, 3], squashed[step], out=h)
            outputs[step] = h
        ctx.save_for_backward(weight_hh, before_h, before_c, gates, squashed)
        ctx.spans = spans
        ctx.set_materialize_grads(False)
        return outputs, h_BH, c_BH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None, d_c: Tensor | None) -> Any:
        weight_hh, before_h, before_c, gates, squashed = ctx.saved_tensors
        hidden, rows = weight_hh.shape[1], max(span[2] for span in ctx.spans)
        slope = gates.new_empty(gates.shape)  # d(pre-activations) over dc (i, f, g) and dh (o)
        i, f, g, o = gates.unbind(1)
        torch.mul(i * g, 1 - i, out=slope[:, 0])
        torch.mul(before_c * f, 1 - f, out=slope[:, 1])
        torch.mul(i, 1 - g.square(), out=slope[:, 2])
        torch.mul(squashed * o, 1 - o, out=slope[:, 3])
        slope_c = (1 - squashed.square()).mul_(o)

        weight = weight_hh.to(before_h.dtype)
        d_pre = torch.empty(gates.shape, dtype=before_h.dtype, device=gates.device)
        dh_BH = gates.new_zeros(rows, hidden) if d_h is None else d_h.clone()
        dc_BH = gates.new_zeros(rows, hidden) if d_c is None else d_c.clone()
        for start, stop, n in reversed(ctx.spans):
            dh, dc, step = dh_BH[:n], dc_BH[:n], slice(start, stop)
            if d_outputs is not None:
                dh.add_(d_outputs[step])
            dc.addcmul_(dh, slope_c[step])
            torch.mul(dc.unsqueeze(1), slope[step, :3], out=d_pre[step, :3])
            torch.mul(dh, slope[step, 3], out=d_pre[step, 3])
            dc.mul_(gates[step, 1])
            dh.copy_(d_pre[step].view(n, 4 * hidden) @ weight)
        flat = d_pre.view(-1, 4 * hidden)
        d_weight = (flat.t() @ before_h).to(weight_hh.dtype) if ctx.needs_input_grad[1] else None
        first = [d if needed else None for d, needed in
                 zip((dh_BH, dc_BH), ctx.needs_input_grad[2:4], strict=True)]  # fmt: skip
        return flat if ctx.needs_input_grad[0] else None, d_weight, *first, None


def run_lstm(
    values_N4H: Tensor,
    weight_hh: Tensor,
    first: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    *,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Runs the recurrence over projected inputs.

    Args:
        values_N4H: input parts of the pre-activations with both biases; their type is that of the
            recurrent products.
        weight_hh: (4H, H).
        first: h and c, (B, H) each, of rows sorted by length; their type is that of the state.
        batch_sizes: rows of every step, falling.
        reverse: from each row's last token to its first.

    Returns:
        (outputs of all tokens (N, H), (last h, last c)).
    """
    if values_N4H.dtype == torch.bfloat16 and kernels.usable(first[0]):
        out, h, c = functions.run_lstm(values_N4H, weight_hh, first, batch_sizes, reverse)
        return out, (h, c)
    spans = packed_spans(batch_sizes, reverse)
    out, h, c = _PackedLSTM.apply(values_N4H, weight_hh, *first, spans)  # type: ignore[no-untyped-call]
    return out, (h, c)
