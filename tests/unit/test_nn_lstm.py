"""The packed LSTM is ``torch.nn.LSTM``, and cells in bfloat16 stay close to those in float32."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ldebm.nn.cells import recurrent_cell
from ldebm.nn.lstm import run_lstm
from ldebm.seeding import generator

SIZES = [5, 5, 3, 2, 2, 1]  # rows of 6, 5, 3, 2, 2 tokens
TOKENS, ROWS, INPUT, HIDDEN = sum(SIZES), SIZES[0], 7, 6


def normal(*shape: int, name: str = "x", dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(0, name, *shape), dtype=dtype)


def weighed(out: Tensor, last: tuple[Tensor, ...]) -> Tensor:
    parts = [out, *last]
    return sum(((part * normal(*part.shape, name=f"w{i}").to(part.dtype)).sum()
                for i, part in enumerate(parts)), torch.zeros(()))  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_all_gradients_are_those_of_nn_lstm(reverse: bool) -> None:
    lstm = nn.LSTM(INPUT, HIDDEN, bidirectional=True).double()
    end = "_l0_reverse" if reverse else "_l0"
    weights = [getattr(lstm, name + end) for name in
               ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
    x = normal(TOKENS, INPUT).requires_grad_()
    first = tuple(normal(2, ROWS, HIDDEN, name=name).requires_grad_() for name in "hc")
    side = int(reverse)
    values = nn.functional.linear(x, weights[0], weights[2] + weights[3])
    begin = first[0][side], first[1][side]
    out, last = run_lstm(values, weights[1], begin, SIZES, reverse=reverse)
    want, want_last = lstm(PackedSequence(x, torch.tensor(SIZES)), (first[0], first[1]))
    part = want.data[:, side * HIDDEN : (side + 1) * HIDDEN]
    torch.testing.assert_close(out, part)
    ends = tuple(state[side] for state in want_last)
    torch.testing.assert_close(last, ends)
    asked = [x, *first, *weights]
    own = torch.autograd.grad(weighed(out, last), asked)
    theirs = torch.autograd.grad(weighed(part, ends), asked)
    for left, right in zip(own, theirs, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("both", [False, True])
def test_a_rounded_cell_is_near_the_exact_one_and_only_in_training(
    kind: Literal["gru", "lstm"], both: bool
) -> None:
    cell = recurrent_cell(kind, INPUT, HIDDEN, bidirectional=both, bfloat16=True)
    cell.reset_parameters(generator(0, "cell"))
    x = normal(TOKENS, INPUT, dtype=torch.float32).requires_grad_()
    first = tuple(normal(cell.directions, ROWS, HIDDEN, name=name, dtype=torch.float32)
                  for name in "hc"[: cell.states])  # fmt: skip
    results = []
    for rounded in (True, False):
        cell.train(rounded)
        for start in (None, first):
            out, last = cell(x, SIZES, start)
            gradients = torch.autograd.grad(weighed(out, last), [x, *cell.parameters()])
            results.append([out, *last, *gradients])
    for left, right in zip(results[0] + results[1], results[2] + results[3], strict=True):
        assert left.dtype == right.dtype == torch.float32
        assert float((left - right).detach().abs().max()) < 0.03 * float(right.detach().abs().max())
    assert not torch.equal(results[0][0], results[2][0])
