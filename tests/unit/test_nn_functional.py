"""The fused output layer is a linear layer followed by cross entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm.nn.functional import _values, linear_nll
from ldebm.seeding import generator

TOKENS, SIZE, WORDS = 23, 8, 40


def problem(
    dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    stream = generator(0, "softmax")
    h = (scale * torch.randn(TOKENS, SIZE, generator=stream)).to(dtype)
    weight = torch.randn(WORDS, SIZE, generator=stream).to(dtype)
    targets = torch.randint(0, WORDS, (TOKENS,), generator=stream)
    return h.requires_grad_(), weight.requires_grad_(), targets


def plain(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, weight), targets, reduction="none")


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("uniform", [True, False])
def test_values_and_gradients_are_those_of_linear_and_cross_entropy(
    chunk: int, uniform: bool
) -> None:
    h, weight, targets = problem()
    scale = torch.full((TOKENS,), 0.3)
    if not uniform:
        scale = torch.rand(TOKENS, generator=generator(0, "scale")) - 0.3
    own, want = linear_nll(h, weight, targets, chunk=chunk), plain(h, weight, targets)
    torch.testing.assert_close(own, want, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad((own * scale).sum(), [h, weight])
    expected = torch.autograd.grad((want * scale).sum(), [h, weight])
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_gradients_are_the_derivatives_of_the_values() -> None:
    h, weight, targets = problem(torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: linear_nll(a, b, targets, chunk=7), (h, weight), fast_mode=True
    )


@pytest.mark.parametrize("bfloat16", [False, True])
def test_arrays_that_are_used_again_for_every_chunk_change_no_bit(bfloat16: bool) -> None:
    h, weight, targets = (x.detach() for x in problem())
    pieces = [
        _values(h[i : i + 5], weight, targets[i : i + 5], bfloat16, 5) for i in range(0, TOKENS, 5)
    ]
    assert torch.equal(_values(h, weight, targets, bfloat16, 5), torch.cat(pieces))


@pytest.mark.parametrize("words", [37, 211])
def test_rows_of_logits_that_begin_at_multiples_of_64_bytes_change_no_bit(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = generator(0, "aligned")
    weight = torch.randn(words, SIZE, generator=stream).requires_grad_()
    h = torch.randn(TOKENS, SIZE, generator=stream).requires_grad_()
    targets = torch.randint(0, words, (TOKENS,), generator=stream)
    scale = torch.rand(TOKENS, generator=stream)

    def results() -> list[Tensor]:
        with torch.no_grad():
            values = linear_nll(h, weight, targets, chunk=9)
        nll = linear_nll(h, weight, targets, chunk=9)
        return [values, nll, *torch.autograd.grad((nll * scale).sum(), [h, weight])]

    aligned = results()
    monkeypatch.setattr(
        "ldebm.nn.functional._logits", lambda rows, weight: weight.new_empty(rows, len(weight))
    )
    assert all(torch.equal(*pair) for pair in zip(aligned, results(), strict=True))


def test_without_gradients_the_values_are_the_same() -> None:
    h, weight, targets = problem()
    with torch.no_grad():
        own = linear_nll(h, weight, targets, chunk=6)
    torch.testing.assert_close(own, plain(h, weight, targets), rtol=1e-5, atol=1e-5)


def test_the_plain_path_is_the_same_function() -> None:
    h, weight, targets = problem()
    torch.testing.assert_close(
        linear_nll(h, weight, targets, fused=False),
        linear_nll(h, weight, targets, fused=True),
        rtol=1e-5,
        atol=1e-5,
    )


def test_only_the_wanted_gradient_is_made() -> None:
    h, weight, targets = problem()
    frozen = weight.detach()
    (own,) = torch.autograd.grad(linear_nll(h, frozen, targets).sum(), [h])
    (want,) = torch.autograd.grad(plain(h, frozen, targets).sum(), [h])
    torch.testing.assert_close(own, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_hopeless_target_costs_its_true_number_of_nats(bfloat16: bool) -> None:
    h = torch.tensor([[400.0], [400.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    targets = torch.tensor([1, 2])
    own = linear_nll(h, weight, targets, bfloat16=bfloat16)
    torch.testing.assert_close(own, torch.tensor([800.0, 400.0]), rtol=1e-6, atol=0)


def test_bfloat16_changes_the_mean_by_less_than_a_thousandth_of_a_nat() -> None:
    stream = generator(0, "large")
    h = (0.3 * torch.randn(2000, 64, generator=stream)).requires_grad_()
    weight = (0.3 * torch.randn(500, 64, generator=stream)).requires_grad_()
    targets = torch.randint(0, 500, (2000,), generator=stream)
    exact = plain(h, weight, targets)
    rounded = linear_nll(h, weight, targets, bfloat16=True)
    assert abs(float((exact - rounded).detach().mean())) < 1e-3
    with torch.no_grad():
        evaluated = linear_nll(h, weight, targets, bfloat16=True)
    assert abs(float((exact - evaluated).detach().mean())) < 1e-3
    for left, right in zip(
        torch.autograd.grad(exact.sum(), [h, weight]),
        torch.autograd.grad(rounded.sum(), [h, weight]),
        strict=True,
    ):
        assert float((left - right).norm() / left.norm()) < 0.012
