"""The analytic gradient is that of autograd; the spectral norm is the largest singular value."""

from __future__ import annotations

import pytest
import torch

from ldebm.config import EnergyConfig
from ldebm.priors.energy_net import EnergyNet
from ldebm.seeding import generator

VARIANTS = [
    ("residual", "leaky_relu", True),
    ("residual", "silu", False),
    ("residual", "gelu", True),
    ("mlp", "gelu", False),
    ("mlp", "leaky_relu", True),
]


def make(arch: str, activation: str, spectral: bool, init: str = "default") -> EnergyNet:
    config = EnergyConfig.model_validate(
        {
            "arch": arch,
            "activation": activation,
            "spectral_norm": spectral,
            "hidden": 24,
            "blocks": 3,
            "init": init,
        }
    )
    return EnergyNet(5, 7, 6, config, generator(0, "net")).double()


@pytest.mark.parametrize(("arch", "activation", "spectral"), VARIANTS)
def test_the_analytic_gradient_is_that_of_autograd(
    arch: str, activation: str, spectral: bool
) -> None:
    net = make(arch, activation, spectral)
    stream = generator(0, "inputs")
    z = torch.randn(9, 5, generator=stream, dtype=torch.float64, requires_grad=True)
    t = torch.randint(0, 6, (9,), generator=stream)
    value, gradient = net.freeze().value_and_gradient(z, t)
    reference = torch.logsumexp(net(z, t), -1)
    (expected,) = torch.autograd.grad(reference.sum(), z)
    torch.testing.assert_close(value, reference)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    label = torch.randint(0, 7, (9,), generator=stream)
    value, gradient = net.freeze().value_and_gradient(z, t, label)
    chosen = net(z, t).gather(1, label.unsqueeze(1)).sum()
    (expected,) = torch.autograd.grad(chosen, z)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_every_weight_is_divided_by_its_largest_singular_value() -> None:
    net = make("residual", "leaky_relu", True)
    net.power_iterate(rounds=200)
    for weight, _ in net.freeze().layers:
        norm = torch.linalg.matrix_norm(weight.detach(), ord=2)
        assert float(norm) == pytest.approx(1, rel=1e-3)


def test_the_spectral_gradient_is_that_of_torch() -> None:
    net = make("mlp", "gelu", True)
    net.power_iterate(rounds=500)
    layer = net.output
    reference = torch.nn.utils.parametrizations.spectral_norm(
        torch.nn.Linear(24, 7).double(), n_power_iterations=500
    )
    reference.parametrizations.weight.original.data.copy_(layer.weight.data)
    x = torch.randn(4, 24, generator=generator(0, "x"), dtype=torch.float64)
    reference.bias.data.copy_(layer.bias.data)
    torch.testing.assert_close(layer(x), reference(x), rtol=1e-6, atol=1e-8)
    (own,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    original = reference.parametrizations.weight.original
    (theirs,) = torch.autograd.grad(reference(x).square().sum(), original)
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-7)


def test_levels_are_told_apart_by_their_time_embedding() -> None:
    net = make("residual", "silu", False)
    z = torch.randn(3, 5, generator=generator(0, "z"), dtype=torch.float64)
    assert float((net(z, 0) - net(z, 4)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("init", ["default", "uniform", "orthogonal"])
def test_equal_generators_give_equal_networks(init: str) -> None:
    first, again = make("residual", "silu", True, init), make("residual", "silu", True, init)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
