"""Fast paths of image models give what plain PyTorch gives: SiLU, convolutions, Adam, scores."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm import kernels
from ldebm.config import OptimiserConfig
from ldebm.nn.convolution import Convolution
from ldebm.nn.functional import silu
from ldebm.optimisers import ParameterGroup, apply_gradients, make_optimiser
from ldebm.seeding import generator
from ldebm.training.score_matching import noised_score_terms
from tests.unit.image_models import PRIOR, image_model

compiled = pytest.mark.skipif(
    kernels.state().startswith("plain"), reason=f"kernels: {kernels.state()}"
)


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(0, name, *shape))


def error(got: Tensor, exact: Tensor) -> float:
    return float(
        (got.detach().double() - exact.detach().double()).norm() / exact.detach().double().norm()
    )


def with_gradients(of: Any, x: Tensor, w: Tensor) -> list[Tensor]:
    """of(x), its gradient, and the gradients of a function of that."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = of(x)
    (gradient,) = torch.autograd.grad((y * w).sum(), x, create_graph=True)
    return [y, gradient, *torch.autograd.grad(gradient.square().sum(), [x, w])]


@compiled
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5, 5), (2, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_silu_and_its_two_derivatives_are_those_of_float64(shape: Any, last: bool) -> None:
    x, w = (3 * normal(*shape)).bfloat16(), normal(*shape, name="w").bfloat16()
    if last and len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    exact = with_gradients(F.silu, x.double(), w.double())
    fast = with_gradients(silu, x, w)
    with kernels.plain():
        plain = with_gradients(silu, x, w)
    assert fast[0].stride() == x.stride()
    for want, rounded, got in zip(exact, plain, fast, strict=True):
        assert error(got, want) < max(0.006, 1.1 * error(rounded, want))
    with torch.no_grad():
        assert torch.equal(silu(x), fast[0])
        assert torch.equal(silu(x.transpose(0, 1)), fast[0].transpose(0, 1))


def test_without_kernels_and_in_float32_silu_is_pytorchs_own() -> None:
    x = normal(5, 7)
    assert torch.equal(silu(x), F.silu(x))
    with kernels.plain():
        assert torch.equal(silu(x.bfloat16()), F.silu(x.bfloat16()))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_a_convolution_is_pytorchs_to_the_bit_with_both_gradients(
    held: bool, rounded: bool
) -> None:
    plain, own = nn.Conv2d(6, 8, 3, stride=2, padding=1), Convolution(6, 8, 3, stride=2, padding=1)
    own.load_state_dict(plain.state_dict())
    results = []
    for conv in (plain, own):
        conv.requires_grad_(not held)
        x = normal(4, 6, 7, 7).to(memory_format=torch.channels_last).requires_grad_()
        w = normal(4, 8, 4, 4, name="w").requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            y = conv(x)
        assert y.dtype == (torch.bfloat16 if rounded else torch.float32)
        (gradient,) = torch.autograd.grad((y * w).sum(), x, create_graph=True)
        results.append([y, gradient, *torch.autograd.grad(gradient.square().sum(), [w])])
    for want, got in zip(*results, strict=True):
        assert torch.equal(want, got)


@compiled
@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_compiled_step_of_adam_takes_weights_with_channels_last(clip: float | None) -> None:
    weights = []
    for fast in (False, True):
        layer = nn.Conv2d(3, 5, 3)
        with torch.no_grad():
            layer.weight.copy_(normal(5, 3, 3, 3))
            layer.bias.copy_(normal(5))
        layer.to(memory_format=torch.channels_last)
        group = ParameterGroup("all", list(layer.parameters()), OptimiserConfig(lr=0.1, clip=clip))
        optimiser = make_optimiser(group)
        for step in range(3):
            for p in layer.parameters():  # as autograd lays gradients out
                p.grad = torch.empty_like(p).copy_(normal(*p.shape, name=f"g{step}"))
            apply_gradients(group, optimiser, compiled=fast)
        weights.append([p.detach().clone() for p in layer.parameters()])
    for want, got in zip(*weights, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_score_matching_in_bfloat16_has_the_loss_and_gradient_of_float32() -> None:
    hierarchy = PRIOR["hierarchy"] | {"inputs": "context"}
    prior: Any = image_model(standardise="diagonal", hierarchy=hierarchy).prior
    for parameter in prior.parameters():
        parameter.data += 0.1 * normal(*parameter.shape, name="away")
    u = normal(64, prior.latent, name="u")
    results = []
    for how in ("float32", "plain", "fast"):
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=how != "float32"),
            kernels.plain() if how == "plain" else nullcontext(),
        ):
            terms = noised_score_terms(prior, u, None, 0.15, generator(0, "scores"))
        assert terms.total.dtype == torch.float32
        gradients = torch.autograd.grad(terms.total, list(prior.parameters()), allow_unused=True)
        flat = torch.cat([g.flatten() for g in gradients if g is not None])
        results.append((float(terms.total.detach()), flat))
    (exact, exact_gradient), *others = results
    for total, gradient in others:
        assert total == pytest.approx(exact, rel=2e-3)
        assert error(gradient, exact_gradient) < 0.03
