"""Likelihoods of pixels are probabilities: they sum to one, and samples follow them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ldebm.config import ImageModelConfig
from ldebm.nn.logistic import BernoulliPixels, GaussianPixels, LogisticPixels, build_likelihood
from ldebm.seeding import generator


def every_value(levels: int, colours: int) -> Tensor:
    """All colours of one pixel, (levels ** C, C, 1, 1) in [-1, 1]."""
    line = [2 * k / (levels - 1) - 1 for k in range(levels)]
    return torch.tensor(list(itertools.product(line, repeat=colours)))[:, :, None, None]


@pytest.mark.parametrize(
    ("colours", "bits", "mixtures", "spread"),
    [(1, 8, 1, 1.0), (1, 8, 5, 2.0), (1, 5, 3, 4.0), (3, 2, 1, 1.0), (3, 3, 4, 2.0)],
)
def test_a_logistic_mixture_sums_to_one_over_the_values_of_a_pixel(colours, bits, mixtures, spread):
    likelihood = LogisticPixels(colours, bits, mixtures)
    stream = generator(0, "logistic", colours, bits)
    for _ in range(5):
        one = spread * torch.randn(1, likelihood.channels, 1, 1, generator=stream)
        x = every_value(2**bits, colours)
        total = (-likelihood.nll(one.expand(len(x), -1, -1, -1), x)).double().exp().sum()
        assert float(total) == pytest.approx(1, abs=2e-4)


def test_narrow_components_do_not_lose_their_mass():
    likelihood = LogisticPixels(1, 8, 1)
    parameters = torch.tensor([0.0, 101 / 127.5 - 1, -20.0])[None, :, None, None]
    x = every_value(256, 1)
    probability = (-likelihood.nll(parameters.expand(256, -1, -1, -1), x)).exp()
    assert float(probability[101]) == pytest.approx(1, abs=0.05)
    assert torch.isfinite(probability).all()


def test_bernoulli_sums_to_one_over_black_and_white_and_is_smallest_at_the_grey_value():
    likelihood = BernoulliPixels(1)
    logit = torch.tensor([[[[0.7]]]])
    ends = torch.tensor([-1.0, 1.0])[:, None, None, None]
    total = (-likelihood.nll(logit.expand(2, -1, -1, -1), ends)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)
    grey = torch.full((3, 1, 1, 1), 2 * 0.3 - 1)
    logits = torch.logit(torch.tensor([0.2, 0.3, 0.4]))[:, None, None, None]
    assert int(likelihood.nll(logits, grey).argmin()) == 1


def test_the_gaussian_is_a_density():
    likelihood = GaussianPixels(1)
    parameters = torch.tensor([0.2, -1.0])[None, :, None, None]
    grid = torch.linspace(-8, 8, 40_001)[:, None, None, None]
    density = (-likelihood.nll(parameters.expand(len(grid), -1, -1, -1), grid)).exp()
    assert float(torch.trapezoid(density, grid[:, 0, 0, 0])) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("colours", [1, 3])
def test_samples_of_a_mixture_occur_as_often_as_they_are_probable(colours):
    bits = 2
    likelihood = LogisticPixels(colours, bits, 2)
    stream = generator(0, "sampling", colours)
    one = torch.randn(1, likelihood.channels, 1, 1, generator=stream)
    drawn = likelihood.draw(one.expand(40_000, -1, -1, -1), stream)
    values = every_value(2**bits, colours)
    expected = (-likelihood.nll(one.expand(len(values), -1, -1, -1), values)).exp()
    counts = (drawn[None] - values[:, None]).abs().flatten(2).amax(2) < 1e-4
    observed = counts.float().mean(1)
    assert float(observed.sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(observed, expected, atol=0.01, rtol=0)


def test_five_bits_make_thirty_two_levels_and_images_come_back_as_bytes():
    likelihood = build_likelihood(ImageModelConfig(bits=5), 1)
    x = torch.arange(256) / 127.5 - 1
    levels = likelihood.quantise(x)
    assert len(levels.unique()) == 32
    torch.testing.assert_close(likelihood.quantise(levels), levels)
    assert float(levels.min()) == -1
    assert float(levels.max()) == 1
    parameters = torch.zeros(2, likelihood.channels, 4, 4)
    sample = likelihood.sample(parameters, generator(0))
    assert sample.dtype == torch.uint8
    assert sample.shape == (2, 1, 4, 4)
    assert torch.equal(sample, likelihood.sample(parameters, generator(0)))
