"""Energies of convolutional groups: the two public networks, and their inputs as published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, silu

from ldebm.assembly import build_prior
from ldebm.config import EnergyConfig, PriorConfig
from ldebm.priors.conv_energy_net import PlainConvEnergy, ResidualConvEnergy
from ldebm.priors.group_energy_net import Placed
from ldebm.seeding import generator
from pipelines.library import Library
from tests.unit.image_worlds import ENERGY, tiny_hvae

PLAIN = EnergyConfig(activation="silu", spectral_norm=False)


def time_of(net: PlainConvEnergy, t: int) -> Tensor:
    first, second = net.time
    return silu(silu(net.time_TE[t] @ first.weight.t()) @ second.weight.t())


@pytest.mark.parametrize(("side", "convolutions"), [(8, 1), (16, 2), (128, 5)])
def test_the_network_for_celeba_hq_halves_to_four_without_time(side: int, convolutions: int):
    net = PlainConvEnergy((20, side, side), 1, 3, 64, PLAIN, generator(0, "net"))
    assert [tuple(block.kernel_shape) for block in net.blocks] == [
        (64, 64 if index else 20, 4, 4) for index in range(convolutions)
    ]
    x = torch.randn(2, 20, side, side, generator=generator(1, "x"))
    h = x
    for index, block in enumerate(net.blocks):
        kernel = block.weight.reshape(block.kernel_shape)
        h = conv2d(silu(h) if index else h, kernel, stride=2, padding=1)
    assert h.shape[1:] == (64, 4, 4)
    h = h.flatten(1)
    for first, second, skip, added in net.layers:
        main = silu(h) @ first.weight.t() + time_of(net, 2) @ added.weight.t()
        h = silu(main) @ second.weight.t() + silu(h) @ skip.weight.t()
    assert [tuple(layer[0].weight.shape) for layer in net.layers] == [(512, 1024), (256, 512)]
    wanted = h @ net.output.weight.t()
    with torch.no_grad():
        torch.testing.assert_close(net.freeze().logits(x, 2), wanted, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_those_that_the_settings_name():
    for init, bound in (("default", 64**-0.5 / 4), ("uniform", 0.1)):
        config = EnergyConfig(spectral_norm=False, init=init)
        net = ResidualConvEnergy((4, 8, 8), 1, 3, 64, config, generator(0, "net"))
        weight = net.blocks[1][0].weight  # of 64 channels and 4 x 4
        assert float(weight.detach().abs().max()) == pytest.approx(bound, rel=1e-2)
    orthogonal = EnergyConfig(spectral_norm=False, init="orthogonal")
    net = ResidualConvEnergy((4, 8, 8), 1, 3, 8, orthogonal, generator(0, "net"))
    weight = net.blocks[1][1].weight
    torch.testing.assert_close(weight @ weight.t(), torch.eye(8), rtol=0, atol=1e-5)


def test_the_gradient_of_plain_energies_is_that_of_their_value():
    content = {
        "training": {"updates": 1}, "energy": ENERGY, "standardise": "none",
        "hierarchy": {"channels": 4, "network": "plain", "standardise_inputs": False},
    }  # fmt: skip
    prior = build_prior(tiny_hvae(), PriorConfig.model_validate(content), generator(0, "prior"))
    prior.double()
    prior.backbone.double()
    v, away = (
        torch.randn(3, prior.latent, generator=generator(i, "v"), dtype=torch.float64)
        for i in (0, 1)
    )
    t = torch.tensor([0, 3, 5])
    with torch.no_grad():
        _, gradient = prior.net.freeze().value_and_gradient(v, t)
        near = [prior.negative_energy(v + step * away, t) for step in (1e-5, -1e-5)]
    difference = (near[0] - near[1]) / 2e-5
    torch.testing.assert_close((gradient * away).sum(1), difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("standardises", [True, False])
def test_energies_read_z_itself_where_inputs_are_not_standardised(standardises: bool):
    backbone = tiny_hvae()
    content = {
        "training": {"updates": 1}, "energy": ENERGY, "standardise": "none",
        "hierarchy": {"channels": 4, "standardise_inputs": standardises},
    }  # fmt: skip
    prior = build_prior(backbone, PriorConfig.model_validate(content), generator(0, "prior"))
    u = 3 + 2 * torch.randn(50, prior.latent, generator=generator(1, "u"))
    prior.fit_draws(u)
    placed = Placed(backbone.to_z(u), backbone.split(u))
    for g, z in enumerate(placed.z):
        assert torch.equal(prior.net.read(g, placed), z) != standardises


def test_the_published_experiments_have_the_published_networks():
    library = Library(Path(__file__).parents[2])
    sections = {}
    for data in ("cifar10", "celebahq256", "church64"):
        experiment = library.experiment(f"{data}-nvae")
        sections[data] = experiment.prior.hierarchy
        assert experiment.prior.standardise == "none"
        assert not sections[data].standardise_inputs
    assert {name: item.network for name, item in sections.items()} == {
        "cifar10": "residual", "celebahq256": "plain", "church64": "residual",
    }  # fmt: skip
    assert library.experiment("celebahq256-nvae").evaluate.samples == 30_000
