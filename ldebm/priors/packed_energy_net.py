"""F(z, t) and its gradient for chains: the residual network as few, large operations.

Yu et al. (2022), table A1.

A chain evaluates the network hundreds of times at fixed weights, so its cost should be that of the
matrix products. Here the biases are a row of the products, the residual sum is the product's own
accumulation, and each layer needs one activation forward and two passes backward. Hidden vectors
have a column that is 1, which the bias row needs, and lie in rows of a multiple of 16 columns,
which vector units like; the products leave both out. Against the plain operations of
:mod:`ldebm.priors.energy_net` only the order of the roundings differs.

Shapes: B batch, D latent dimension, H hidden size, P padded hidden size, K classes, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["SLOPE", "PackedEnergy"]

SLOPE = 0.2  # of LeakyReLU, table A1
ROWS_AT_ONCE = 1024  # more would only leave the cache
# Values of the activations at 1, the input that carries the biases.
AT_ONE = {"leaky_relu": 1.0, "silu": 1 / (1 + math.exp(-1)), "gelu": 0.5 + 0.5 * math.erf(0.5**0.5)}

Layers = tuple[tuple[Tensor, Tensor], ...]
Rows = tuple[Tensor, Tensor]
"""Hidden vectors, (B, P), and the view of them that the products read or write, (B, H)."""


class PackedEnergy:
    """The network's weights, detached and laid out for products without separate biases.

    Args:
        activation: name of the activation.
        layers: (weight, bias) of input-1, input-2, the residual blocks, output.
        merge: weight on the z half of the merge layer, (H, H).
        time_TH: what time adds before the first block, per level.
    """

    @torch.no_grad()
    def __init__(self, activation: str, layers: Layers, merge: Tensor, time_TH: Tensor) -> None:
        self.activation, self.hidden = activation, merge.shape[0]
        width = _padded(self.hidden + 1)
        at_one = AT_ONE[activation]
        (first, bias), (second, bias2), *blocks, (output, bias_out) = layers
        self.latent = first.shape[1]
        self.first = _with_bias(first, bias)
        self.second = _with_bias(second, bias2 / at_one)
        self.merge = merge.t().contiguous()
        self.tail = time_TH.new_zeros(width - self.hidden)
        self.tail[0] = 1.0  # the column that carries the biases
        self.time_TP = torch.cat([time_TH, self.tail.expand(len(time_TH), -1)], 1)
        self.blocks = [_with_bias(weight, b / at_one) for weight, b in blocks]
        self.output = _with_bias(output, bias_out / at_one)
        self.back_output = output.clone()
        self.back_blocks = [weight.clone() for weight, _ in blocks]
        self.back_merge = merge.clone(memory_format=torch.contiguous_format)
        self.back_second, self.back_first = second.clone(), first.clone()

    def tensors(self) -> list[Tensor]:
        """All the weights, always in the same order."""
        layers = [self.first, self.second, self.merge, self.time_TP, self.output]
        back = [self.back_first, self.back_second, self.back_merge, self.back_output]
        return [*layers, *self.blocks, *back, *self.back_blocks]

    @torch.no_grad()
    def value_and_gradient(
        self, z_BD: Tensor, t_B: Tensor | int, context_BH: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """F(z, t) = logsumexp f and dF/dz, shapes (B,) and (B, D).

        Args:
            z_BD: where.
            t_B: levels.
            context_BH: what the context of every row adds before the first block.
        """
        if len(z_BD) <= ROWS_AT_ONCE:
            return self._rows(z_BD, t_B, context_BH)
        parts = [self._rows(*part) for part in _parts(z_BD, t_B, context_BH)]
        return torch.cat([value for value, _ in parts]), torch.cat([slope for _, slope in parts])

    @torch.no_grad()
    def value(self, z_BD: Tensor, t_B: Tensor | int, context_BH: Tensor | None = None) -> Tensor:
        """F(z, t) alone, (B,); arguments as for :meth:`value_and_gradient`."""
        parts = _parts(z_BD, t_B, context_BH)
        return torch.cat([torch.logsumexp(self._forward(*part)[0], -1) for part in parts])

    def _forward(
        self, z_BD: Tensor, t_B: Tensor | int, context_BH: Tensor | None
    ) -> tuple[Tensor, list[Rows], tuple[Rows, Rows]]:
        """Logits; the inputs of all activations; two buffers to work in."""
        rows, hidden = len(z_BD), self.hidden
        room = z_BD.new_empty(4 + len(self.blocks), rows, hidden + len(self.tail))
        room[:, :, hidden:] = self.tail
        pairs = zip(room.unbind(), room[:, :, :hidden].unbind(), strict=True)
        act, spare, first, second, *later = pairs
        biased = act[0][:, : hidden + 1]
        inputs = z_BD.new_ones(rows, _padded(self.latent + 1))
        inputs[:, : self.latent] = z_BD
        torch.mm(inputs[:, : self.latent + 1], self.first, out=first[1])
        self._activate(first[0], act[0])
        torch.mm(biased, self.second, out=second[1])
        self._activate(second[0], act[0])
        if isinstance(t_B, int):
            h = self.time_TP[t_B].repeat(rows, 1)
        else:
            h = self.time_TP.index_select(0, t_B)
        state = h, h[:, :hidden]
        if context_BH is not None:
            state[1].add_(context_BH)
        state[1].addmm_(act[1], self.merge)
        states = [state, *later]
        for weight, before, after in zip(self.blocks, states, later, strict=False):
            self._activate(before[0], act[0])
            torch.addmm(before[1], biased, weight, out=after[1])
        self._activate(states[-1][0], act[0])
        return biased @ self.output, [first, second, *states], (act, spare)

    def _rows(
        self, z_BD: Tensor, t_B: Tensor | int, context_BH: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits, (first, second, *states), (back, slope) = self._forward(z_BD, t_B, context_BH)
        value = torch.logsumexp(logits, -1)
        share = logits.sub_(value.unsqueeze(-1)).exp_()

        torch.mm(share, self.back_output, out=slope[1])
        self._scale_back(slope[0], states[-1][0])
        for weight, (h, _) in zip(reversed(self.back_blocks), states[-2::-1], strict=True):
            torch.mm(slope[1], weight, out=back[1])
            slope[0].add_(self._scale_back(back[0], h))
        torch.mm(slope[1], self.back_merge, out=back[1])
        self._scale_back(back[0], second[0])
        torch.mm(back[1], self.back_second, out=slope[1])
        self._scale_back(slope[0], first[0])
        return value, slope[1] @ self.back_first

    def _activate(self, x: Tensor, out: Tensor) -> Tensor:
        if self.activation == "leaky_relu":
            return torch.ops.aten.leaky_relu.out(x, SLOPE, out=out)  # type: ignore[no-any-return]
        if self.activation == "silu":
            return torch.ops.aten.silu.out(x, out=out)  # type: ignore[no-any-return]
        return torch.ops.aten.gelu.out(x, out=out)  # type: ignore[no-any-return]

    def _scale_back(self, back: Tensor, x: Tensor) -> Tensor:
        """``back`` times the activation's derivative at ``x``, in place."""
        aten = torch.ops.aten
        if self.activation == "leaky_relu":
            aten.leaky_relu_backward.grad_input(back, x, SLOPE, False, grad_input=back)
        elif self.activation == "silu":
            aten.silu_backward.grad_input(back, x, grad_input=back)
        else:
            aten.gelu_backward.grad_input(back, x, grad_input=back)
        return back


def _parts(
    z_BD: Tensor, t_B: Tensor | int, context_BH: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | int, Tensor | None]]:
    """The rows in parts that fit into the cache; without rows one empty part."""
    for start in range(0, max(1, len(z_BD)), ROWS_AT_ONCE):
        span = slice(start, start + ROWS_AT_ONCE)
        context = None if context_BH is None else context_BH[span]
        yield z_BD[span], t_B if isinstance(t_B, int) else t_B[span], context


def _padded(size: int) -> int:
    return -(-size // 16) * 16


def _with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """[weight^T; bias], which [x, 1] is multiplied by from the left."""
    return torch.cat([weight.t(), bias.unsqueeze(0)])
