"""Recurrent layers on packed, time-major rows by torch's own kernels: LSTM and GRU alike.

:mod:`ldebm.nn.gru` is the faster GRU of the sentence models; here the cell is a parameter, as the
dialogue models need it, and a layer can also be taken one step at a time.

Shapes: B rows, N tokens of all rows in time-major order, I input size, H hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ldebm.nn.gru_steps import Gates, product, run_gates
from ldebm.nn.lstm import run_lstm

__all__ = ["RecurrentCell", "State", "recurrent_cell"]

State = tuple[Tensor, ...]
"""(h,) of a GRU, (h, c) of an LSTM; each (directions, B, H)."""


class _Side(NamedTuple):
    """A direction with its weights, over packed rows from their first states."""

    x_NI: Tensor
    batch_sizes: Sequence[int]
    first: State
    reverse: bool
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor


class RecurrentCell(nn.Module, ABC):
    """One layer, in one direction or both.

    Args:
        inputs: I.
        hidden: H, of each direction.
        bidirectional: whether a second direction reads from each row's last token to its first.
        bfloat16: products in bfloat16 while training on a CPU; the state stays in float32.

    Attributes:
        layer: torch's class of it.
        states: tensors of the state.
    """

    layer: ClassVar[type[nn.GRU | nn.LSTM]]
    states: ClassVar[int]

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        bidirectional: bool = False,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.hidden, self.low_precision = hidden, bfloat16
        self.directions = 2 if bidirectional else 1
        self.rnn = self.layer(inputs, hidden, bidirectional=bidirectional)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """U(-1/sqrt(H), 1/sqrt(H)) as torch does."""
        bound = self.hidden**-0.5
        for parameter in self.rnn.parameters():
            parameter.uniform_(-bound, bound, generator=generator)

    @abstractmethod
    def _run(self, packed: PackedSequence, start: State | None) -> tuple[PackedSequence, State]:
        """torch's own layer."""

    def forward(
        self, x_NI: Tensor, batch_sizes: Sequence[int], start: State | None = None
    ) -> tuple[Tensor, State]:
        """Outputs of all tokens, (N, directions * H), and the last states of sorted rows.

        Args:
            x_NI: inputs in packed order.
            batch_sizes: rows of every step, falling.
            start: first states; zeros if not given.
        """
        if self.low_precision and self.training and not x_NI.is_cuda:
            return self._rounded(x_NI, batch_sizes, start)
        packed = PackedSequence(x_NI, torch.tensor(batch_sizes, dtype=torch.int64))
        out, last = self._run(packed, start)
        return out.data, last

    def _rounded(
        self, x_NI: Tensor, batch_sizes: Sequence[int], start: State | None
    ) -> tuple[Tensor, State]:
        """The same with products in bfloat16, one direction after the other."""
        zeros = x_NI.new_zeros(self.directions, batch_sizes[0], self.hidden)
        first = start or (zeros,) * self.states
        sides = [
            self._one_direction(x_NI, batch_sizes, tuple(part[side] for part in first), side)
            for side in range(self.directions)
        ]
        out = torch.cat([out for out, _ in sides], -1) if len(sides) > 1 else sides[0][0]
        return out, tuple(torch.stack(parts) for parts in zip(*(s for _, s in sides), strict=True))

    def _one_direction(
        self, x_NI: Tensor, batch_sizes: Sequence[int], first: State, side: int
    ) -> tuple[Tensor, State]:
        """Outputs (N, H) and last states, each (B, H)."""
        end = "_l0_reverse" if side else "_l0"
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.rnn, name + end) for name in names]
        return self._rounded_side(_Side(x_NI, batch_sizes, first, bool(side), *weights))

    @abstractmethod
    def _rounded_side(self, side: _Side) -> tuple[Tensor, State]:
        """One direction with products in bfloat16."""

    def last(self, x_NI: Tensor, batch_sizes: Sequence[int]) -> Tensor:
        """Hidden states after each row's last token, and before its first: (B, directions * H)."""
        _, state = self(x_NI, batch_sizes)
        return torch.cat(list(state[0]), -1)


class _GRU(RecurrentCell):
    layer, states = nn.GRU, 1

    def _run(self, packed: PackedSequence, start: State | None) -> tuple[PackedSequence, State]:
        out, last = self.rnn(packed, None if start is None else start[0])
        return out, (last,)

    def _rounded_side(self, side: _Side) -> tuple[Tensor, State]:
        gates_in, new = side.bias_hh[: 2 * self.hidden], side.bias_hh[2 * self.hidden :]
        row = (side.bias_ih + F.pad(gates_in, (0, self.hidden))).expand(side.batch_sizes[0], -1)
        gates = Gates(product(side.x_NI, side.weight_ih, True), row_B3H=row)
        out, last = run_gates(
            gates,
            side.weight_hh,
            new,
            side.first[0],
            side.batch_sizes,
            reverse=side.reverse,
            bfloat16=True,
        )
        assert out is not None
        return out, (last,)


class _LSTM(RecurrentCell):
    layer, states = nn.LSTM, 2

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """As of the others, and 1 more on the forget gates.

        Without it (Jozefowicz et al. 2015) an encoder's last state at first holds the last two or
        three words, and a variational model settles on ignoring it.
        """
        super().reset_parameters(generator)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias_ih"):
                parameter[self.hidden : 2 * self.hidden] += 1

    def _run(self, packed: PackedSequence, start: State | None) -> tuple[PackedSequence, State]:
        out, last = self.rnn(packed, start)
        return out, tuple(last)

    def _rounded_side(self, side: _Side) -> tuple[Tensor, State]:
        bias = (side.bias_ih + side.bias_hh).bfloat16()
        values = F.linear(side.x_NI.bfloat16(), side.weight_ih.bfloat16(), bias)
        return run_lstm(
            values,
            side.weight_hh,
            (side.first[0], side.first[1]),
            side.batch_sizes,
            reverse=side.reverse,
        )


CELLS: dict[str, type[RecurrentCell]] = {"gru": _GRU, "lstm": _LSTM}


def recurrent_cell(name: str, inputs: int, hidden: int, **options: Any) -> RecurrentCell:
    """The cell called ``gru`` or ``lstm``; arguments as of :class:`RecurrentCell`."""
    return CELLS[name](inputs, hidden, **options)
