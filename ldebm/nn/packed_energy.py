"""F(z, t) and its gradient for chains: the residual network of Table A1 as few, large operations.

A chain evaluates the network hundreds of times at fixed weights, so its cost should be that of the
matrix products. Here the biases are a row of the products, the residual sum is the product's own
accumulation, and each layer needs one activation forward and two passes backward; the padding to a
multiple of 16 columns is what the bias row needs, and what vector units like. Against the plain
operations of :mod:`ldebm.nn.energy` only the order of the roundings differs.

Shapes: B batch, D latent dimension, H hidden size, P padded hidden size, K classes, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["SLOPE", "PackedEnergy"]

SLOPE = 0.2  # of LeakyReLU, Table A1
ROWS_AT_ONCE = 1024  # more would only leave the cache
# Values of the activations at 1, the input that carries the biases.
AT_ONE = {"leaky_relu": 1.0, "silu": 1 / (1 + math.exp(-1)), "gelu": 0.5 + 0.5 * math.erf(0.5**0.5)}

Layers = tuple[tuple[Tensor, Tensor], ...]


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
        self.activation = activation
        hidden = merge.shape[0]
        self.one = hidden  # the column that is 1 in every hidden vector
        width = _padded(hidden + 1)
        at_one = AT_ONE[activation]
        (first, bias), (second, bias2), *blocks, (output, bias_out) = layers
        self.latent = first.shape[1]
        self.first = _packed(first, bias, _padded(self.latent + 1), width)
        self.first[self.latent, self.one] = 1.0
        self.second = _packed(second, bias2 / at_one, width, width)
        self.second[self.one, self.one] = 1.0 / at_one
        self.merge = _packed(merge, torch.zeros_like(bias), width, width)
        self.time_TP = time_TH.new_zeros(len(time_TH), width)
        self.time_TP[:, :hidden] = time_TH
        self.time_TP[:, self.one] = 1.0
        self.blocks = [_packed(weight, b / at_one, width, width) for weight, b in blocks]
        self.output = _packed(output, bias_out / at_one, width, len(output))
        self.back_output = _extended(output, len(output), width)
        self.back_blocks = [_extended(weight, width, width) for weight, _ in blocks]
        self.back_merge = _extended(merge, width, width)
        self.back_second = _extended(second, width, width)
        self.back_first = _extended(first, width, self.latent)

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
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
        """Logits; inputs of the stem's activations and of the others; a buffer to work in."""
        inputs = z_BD.new_zeros(len(z_BD), len(self.first))
        inputs[:, : self.latent] = z_BD
        inputs[:, self.latent] = 1.0
        first = inputs @ self.first
        act = torch.empty_like(first)
        second = self._activate(first, act) @ self.second
        time = self.time_TP[t_B].expand(len(z_BD), -1) if isinstance(t_B, int) else None
        h = self.time_TP.index_select(0, t_B) if time is None else time  # type: ignore[arg-type]
        if context_BH is not None:
            h = h.clone()
            h[:, : context_BH.shape[1]] += context_BH
        h = torch.addmm(h, self._activate(second, act), self.merge)
        states = [h]
        for weight in self.blocks:
            h = torch.addmm(h, self._activate(h, act), weight)
            states.append(h)
        return self._activate(h, act) @ self.output, first, second, states, act

    def _rows(
        self, z_BD: Tensor, t_B: Tensor | int, context_BH: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits, first, second, states, act = self._forward(z_BD, t_B, context_BH)
        value = torch.logsumexp(logits, -1)
        share = logits.sub_(value.unsqueeze(-1)).exp_()

        slope = self._scale_back(share @ self.back_output, states[-1])
        for weight, h in zip(reversed(self.back_blocks), states[-2::-1], strict=True):
            back = torch.mm(slope, weight, out=act)
            slope += self._scale_back(back, h)
        back = self._scale_back(torch.mm(slope, self.back_merge, out=act), second)
        back = self._scale_back(torch.mm(back, self.back_second, out=slope), first)
        return value, back @ self.back_first

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


def _packed(weight: Tensor, bias: Tensor, rows: int, columns: int) -> Tensor:
    """[weight^T; bias; 0], which [x, 1, 0] is multiplied by from the left."""
    packed = weight.new_zeros(rows, columns)
    outputs, inputs = weight.shape
    packed[:inputs, :outputs] = weight.t()
    packed[inputs, :outputs] = bias
    return packed


def _extended(weight: Tensor, rows: int, columns: int) -> Tensor:
    """``weight`` with zeros to the right and below."""
    packed = weight.new_zeros(rows, columns)
    packed[: weight.shape[0], : weight.shape[1]] = weight
    return packed
