"""The packed GRU is ``torch.nn.GRU``: same values, same gradients, on real tokens only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ldebm.nn.gru import PackedGRU, bidirectional_last
from ldebm.nn.gru_steps import Gates, run_gates
from ldebm.seeding import generator

SIZES = [5, 5, 3, 2, 2, 1]  # rows of 6, 5, 3, 2, 2 tokens
TOKENS, ROWS, INPUT, HIDDEN, ROW = sum(SIZES), SIZES[0], 7, 6, 3


def normal(*shape: int, name: str = "x", dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(0, name, *shape), dtype=dtype)


def layer(name: str = "layer", row: int = 0, dtype: torch.dtype = torch.float32) -> PackedGRU:
    made = PackedGRU(INPUT, HIDDEN, row, backend="packed")
    made.reset_parameters(generator(1, name))
    return made.to(dtype)


def reference(layers: list[PackedGRU]) -> nn.GRU:
    first = layers[0]
    gru = nn.GRU(INPUT + first.row_size, HIDDEN, bidirectional=len(layers) == 2)
    with torch.no_grad():
        for own, suffix in zip(layers, ("", "_reverse"), strict=False):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(gru, f"{name}_l0{suffix}").copy_(getattr(own, name))
    return gru.to(first.weight_ih.dtype)


def repeated(row: Tensor) -> Tensor:
    return torch.cat([row[:n] for n in SIZES])


def assert_same_gradients(own: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    assert len(own) == len(theirs)
    for left, right in zip(own, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_values_and_all_gradients_are_those_of_nn_gru_on_packed_sequences() -> None:
    own = layer(row=ROW)
    gru = reference([own])
    x, row = normal(TOKENS, INPUT).requires_grad_(), normal(ROWS, ROW).requires_grad_()
    h0 = normal(ROWS, HIDDEN).requires_grad_()
    out, last = own(x, SIZES, row_BR=row, initial_BH=h0)
    packed = PackedSequence(torch.cat([x, repeated(row)], -1), torch.tensor(SIZES))
    want, want_last = gru(packed, h0[None])
    torch.testing.assert_close(out, want.data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, want_last[0], rtol=1e-5, atol=1e-6)
    weigh, weigh_last = normal(TOKENS, HIDDEN, name="w"), normal(ROWS, HIDDEN, name="v")
    loss = (out * weigh).sum() + (last * weigh_last).sum()
    want_loss = (want.data * weigh).sum() + (want_last[0] * weigh_last).sum()
    assert_same_gradients(
        list(torch.autograd.grad(loss, [x, row, h0, *own.weights()])),
        list(torch.autograd.grad(want_loss, [x, row, h0, *gru.parameters()])),
        1e-5,
    )


def test_both_directions_end_in_the_last_states_of_a_bidirectional_nn_gru() -> None:
    layers = [layer("forward"), layer("backward")]
    gru = reference(layers)
    x = normal(TOKENS, INPUT).requires_grad_()
    state = bidirectional_last(*layers, x, SIZES)
    _, want = gru(PackedSequence(x, torch.tensor(SIZES)))
    want = torch.cat([want[0], want[1]], -1)
    torch.testing.assert_close(state, want, rtol=1e-5, atol=1e-6)
    weigh = normal(ROWS, 2 * HIDDEN, name="w")
    own_weights = [weight for one in layers for weight in one.weights()]
    assert_same_gradients(
        list(torch.autograd.grad((state * weigh).sum(), [x, *own_weights])),
        list(torch.autograd.grad((want * weigh).sum(), [x, *gru.parameters()])),
        1e-5,
    )


def test_the_two_backends_give_the_same() -> None:
    own = layer(row=ROW)
    x, row = normal(TOKENS, INPUT), normal(ROWS, ROW)
    out, last = own(x, SIZES, row_BR=row)
    own.backend = "torch"
    want, want_last = own(x, SIZES, row_BR=row)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, want_last, rtol=1e-5, atol=1e-6)
    layers = [layer("forward"), layer("backward")]
    packed = bidirectional_last(*layers, x, SIZES)
    for one in layers:
        one.backend = "torch"
    torch.testing.assert_close(packed, bidirectional_last(*layers, x, SIZES), rtol=1e-5, atol=1e-6)


def test_distinct_inputs_with_an_index_give_values_and_gradients_of_the_tokens() -> None:
    own = layer()
    types = normal(4, INPUT).requires_grad_()
    index = torch.randint(0, 4, (TOKENS,), generator=generator(0, "index"))
    weigh = normal(TOKENS, HIDDEN, name="w")
    parameters = [types, *own.weights()]
    by_token, _ = own(types[index], SIZES)
    by_type, _ = own(types, SIZES, index_N=index)
    torch.testing.assert_close(by_type, by_token, rtol=1e-5, atol=1e-6)
    assert_same_gradients(
        list(torch.autograd.grad((by_type * weigh).sum(), parameters)),
        list(torch.autograd.grad((by_token * weigh).sum(), parameters)),
        1e-5,
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_the_derivatives_of_the_values(reverse: bool) -> None:
    values = normal(4, 3 * HIDDEN, dtype=torch.float64).requires_grad_()
    row = normal(ROWS, 3 * HIDDEN, dtype=torch.float64).requires_grad_()
    weight = normal(3 * HIDDEN, HIDDEN, dtype=torch.float64).requires_grad_()
    bias = normal(HIDDEN, dtype=torch.float64).requires_grad_()
    h0 = normal(ROWS, HIDDEN, dtype=torch.float64).requires_grad_()
    index = torch.randint(0, 4, (TOKENS,), generator=generator(0, "index"))

    def run(*inputs: Tensor) -> tuple[Tensor | None, Tensor]:
        gates = Gates(inputs[0], index, inputs[1])
        return run_gates(gates, *inputs[2:], SIZES, reverse=reverse)  # type: ignore[misc]

    assert torch.autograd.gradcheck(run, (values, row, weight, bias, h0), fast_mode=True)


@pytest.mark.parametrize("reverse", [False, True])
def test_without_gradients_the_values_are_the_same(reverse: bool) -> None:
    own = layer(row=ROW)
    x, row = normal(TOKENS, INPUT), normal(ROWS, ROW)
    out, last = own(x, SIZES, row_BR=row, reverse=reverse)
    with torch.no_grad():
        again, last_again = own(x, SIZES, row_BR=row, reverse=reverse)
        none, only_last = own(x, SIZES, row_BR=row, reverse=reverse, outputs=False)
    torch.testing.assert_close(again, out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last_again, last, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(only_last, last, rtol=1e-5, atol=1e-6)
    assert none is None


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    own = layer().double()
    x = normal(TOKENS, INPUT, dtype=torch.float64)
    starts = torch.tensor([0, *SIZES]).cumsum(0)
    third = x[[int(starts[t]) + 2 for t in range(3)]]  # the row of three tokens
    for reverse in (False, True):
        _, last = own(x, SIZES, reverse=reverse)
        _, alone = own(third, [1, 1, 1], reverse=reverse)
        torch.testing.assert_close(last[2:3], alone, rtol=1e-12, atol=1e-12)


def test_bfloat16_products_keep_values_and_gradients_within_a_percent() -> None:
    own = PackedGRU(64, 64, backend="packed")
    own.reset_parameters(generator(2, "bf16"))
    x = normal(TOKENS, 64).requires_grad_()
    weigh = normal(TOKENS, 64, name="w")
    results = []
    for bfloat16 in (False, True):
        out, last = own(x, SIZES, bfloat16=bfloat16)
        assert out is not None
        assert out.dtype == last.dtype == torch.float32
        gradients = torch.autograd.grad((out * weigh).sum(), [x, *own.weights()])
        results.append([out.detach(), *gradients])
    for exact, rounded in zip(*results, strict=True):
        assert float((exact - rounded).norm() / exact.norm()) < 0.012


def test_the_torch_backend_refuses_a_lone_reverse_direction() -> None:
    own = layer()
    own.backend = "torch"
    with pytest.raises(ValueError, match="bidirectional_last"):
        own(normal(TOKENS, INPUT), SIZES, reverse=True)
