"""The network laid out for chains has the values and gradients of the plain one."""

from __future__ import annotations

import pytest
import torch

from ldebm.config import EnergyConfig
from ldebm.priors.energy_net import EnergyNet
from ldebm.seeding import generator


def make(activation: str, latent: int = 5, **sizes: int) -> EnergyNet:
    content = {"activation": activation, "spectral_norm": True, "init": "uniform"} | sizes
    config = EnergyConfig.model_validate(content)
    return EnergyNet(latent, 7, 6, config, generator(0, "net"))


@pytest.mark.parametrize("activation", ["leaky_relu", "silu", "gelu"])
@pytest.mark.parametrize("hidden", [15, 16, 24])
def test_values_and_gradients_are_those_of_the_plain_network(activation: str, hidden: int) -> None:
    frozen = make(activation, hidden=hidden, blocks=3).double().freeze()
    stream = generator(0, "inputs")
    z = torch.randn(2100, 5, generator=stream, dtype=torch.float64)
    t_B = torch.randint(0, 6, (2100,), generator=stream)
    for t in (t_B, 4):
        value, gradient = frozen.value_and_gradient(z, t)
        with torch.no_grad():
            own_value, own_gradient = frozen.value_and_gradient(z, t)
            alone = frozen.value(z, t)
        torch.testing.assert_close(alone, own_value, rtol=0, atol=0)
        torch.testing.assert_close(own_value, value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-10, atol=1e-13)
        assert not own_gradient.requires_grad


def test_at_the_published_size_the_difference_is_that_of_rounding() -> None:
    frozen = make("leaky_relu", latent=40).freeze()
    z = torch.randn(64, 40, generator=generator(1, "z"))
    value, gradient = frozen.value_and_gradient(z, 0)
    with torch.no_grad():
        own_value, own_gradient = frozen.value_and_gradient(z, 0)
    value, gradient = value.detach(), gradient.detach()
    assert float((own_value - value).abs().max()) < 1e-5 * float(value.abs().max())
    assert float((own_gradient - gradient).norm()) < 1e-5 * float(gradient.norm())
