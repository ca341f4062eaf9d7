"""Likelihoods of pixels: Bernoulli intensities, discretised logistic mixtures, a plain Gaussian.

The mixtures are PixelCNN++'s (Salimans et al. (2017), eq. 1 to 3) as NVAE uses them: the value of a
pixel is the bin of a logistic variable, and the green and blue means of a colour shift with the
values of the channels before it.

Shapes: B batch, C colours (1 or 3), M components, P parameters per pixel; x_BCHW in [-1, 1].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm.config import ImageModelConfig

__all__ = [
    "BernoulliPixels",
    "GaussianPixels",
    "LogisticPixels",
    "PixelLikelihood",
    "build_likelihood",
]

MIN_LOG_SCALE = -7.0
TINY_BIN = 1e-5  # below this probability a bin is its width times the density in its middle


class PixelLikelihood(ABC):
    """p(x | parameters), with parameters of shape (B, channels, H, W).

    Args:
        colours: C of the images.
        bits: of a pixel; below 8, images are rounded down to so many levels (NVAE, CelebA-HQ).
    """

    channels: int
    discrete = False
    """Whether p(x) is a probability of the pixels' levels: then nats become bits a dimension."""

    def __init__(self, colours: int, bits: int = 8) -> None:
        self.colours, self.levels = colours, 2**bits

    def quantise(self, x_BCHW: Tensor) -> Tensor:
        """x with its values moved to the levels of the likelihood, still in [-1, 1]."""
        if self.levels == 256:
            return x_BCHW
        value = ((x_BCHW + 1) * 127.5).round()
        level = (value / (256 // self.levels)).floor()
        quantised: Tensor = level * (2 / (self.levels - 1)) - 1
        return quantised

    @abstractmethod
    def nll(self, parameters: Tensor, x_BCHW: Tensor) -> Tensor:
        """-log p(x) in nats per row, shape (B,)."""

    @abstractmethod
    def expectation(self, parameters: Tensor) -> Tensor:
        """A typical x, (B, C, H, W) in [-1, 1]: the mean."""

    @abstractmethod
    def draw(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        """A sample x, (B, C, H, W) in [-1, 1]."""

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean as uint8 (B, C, H, W)."""
        return _bytes(self.expectation(parameters))

    def sample(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        """A sample as uint8 (B, C, H, W)."""
        return _bytes(self.draw(parameters, generator))


class BernoulliPixels(PixelLikelihood):
    """Every intensity in [0, 1] as the probability of a white pixel; parameters are logits.

    With grey values it is a cross-entropy, smallest where the mean is right; on black and white
    images it is a likelihood.
    """

    def __init__(self, colours: int, bits: int = 8) -> None:
        super().__init__(colours, bits)
        self.channels = colours

    def nll(self, parameters: Tensor, x_BCHW: Tensor) -> Tensor:
        target = 0.5 * (self.quantise(x_BCHW) + 1)
        terms = F.binary_cross_entropy_with_logits(parameters, target, reduction="none")
        return terms.flatten(1).sum(1)

    def expectation(self, parameters: Tensor) -> Tensor:
        return 2 * torch.sigmoid(parameters) - 1

    def draw(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = _uniform(parameters, generator)
        return torch.where(uniform < torch.sigmoid(parameters), 1.0, -1.0)


class GaussianPixels(PixelLikelihood):
    """A density of real-valued pixels, as the NVAE of Xiao et al. (2020) has it.

    One component.

    Parameters are means and log standard deviations, softly clamped to [-5, 5] as its latents'.
    """

    def __init__(self, colours: int, bits: int = 8) -> None:
        super().__init__(colours, bits)
        self.channels = 2 * colours

    def _gaussian(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = (5 * torch.tanh(parameters / 5)).chunk(2, dim=1)
        return mean, log_scale.exp() + 1e-2

    def nll(self, parameters: Tensor, x_BCHW: Tensor) -> Tensor:
        mean, scale = self._gaussian(parameters)
        error = (self.quantise(x_BCHW) - mean) / scale
        terms = 0.5 * (error.square() + math.log(2 * math.pi)) + scale.log()
        return terms.flatten(1).sum(1)

    def expectation(self, parameters: Tensor) -> Tensor:
        return self._gaussian(parameters)[0].clamp(-1, 1)

    def draw(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, scale = self._gaussian(parameters)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + scale * noise).clamp(-1, 1)


class LogisticPixels(PixelLikelihood):
    """Discretised logistic mixtures of ``mixtures`` components.

    Parameters of a pixel in NVAE's order: M logits of the components, then per colour M means, M
    log-scales and, for three colours, M coefficients (green on red; blue on red; blue on green).
    """

    discrete = True

    def __init__(self, colours: int, bits: int = 8, mixtures: int = 10) -> None:
        super().__init__(colours, bits)
        self.mixtures = mixtures
        self.kinds = 3 if colours == 3 else 2
        self.channels = mixtures * (1 + self.kinds * colours)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Logits (B, M, H, W); means, log-scales and coefficients (B, C, M, H, W)."""
        m = self.mixtures
        shape = (len(parameters), self.colours, self.kinds * m, *parameters.shape[2:])
        rest = parameters[:, m:].reshape(shape)
        scales = rest[:, :, m : 2 * m].clamp(min=MIN_LOG_SCALE)
        coefficients = torch.tanh(rest[:, :, 2 * m :]) if self.kinds == 3 else None
        return parameters[:, :m], rest[:, :, :m], scales, coefficients

    def nll(self, parameters: Tensor, x_BCHW: Tensor) -> Tensor:
        logits, means, log_scales, coefficients = self._split(parameters)
        x = self.quantise(x_BCHW).unsqueeze(2)  # (B, C, 1, H, W)
        if coefficients is not None:
            red, green = x[:, 0], x[:, 1]
            shift = torch.stack(
                [
                    torch.zeros_like(means[:, 0]),
                    coefficients[:, 0] * red,
                    coefficients[:, 1] * red + coefficients[:, 2] * green,
                ],
                dim=1,
            )
            means = means + shift
        log_bins = self._log_bin(x - means, log_scales, x)
        joint = log_bins.sum(1) + torch.log_softmax(logits, dim=1)
        return -torch.logsumexp(joint, dim=1).flatten(1).sum(1)

    def _log_bin(self, centred: Tensor, log_scales: Tensor, x: Tensor) -> Tensor:
        """log probability of the bin around x; the outermost bins reach to infinity."""
        half = 1 / (self.levels - 1)
        inverse = torch.exp(-log_scales)
        upper, lower = inverse * (centred + half), inverse * (centred - half)
        inside = torch.sigmoid(upper) - torch.sigmoid(lower)
        middle = inverse * centred
        log_density = middle - log_scales - 2 * F.softplus(middle)
        log_inside = torch.where(
            inside > TINY_BIN, inside.clamp(min=1e-10).log(), log_density + math.log(2 * half)
        )
        first, last = x < -1 + half, x > 1 - half
        log_edge = torch.where(last, -F.softplus(lower), upper - F.softplus(upper))
        return torch.where(first | last, log_edge, log_inside)

    def expectation(self, parameters: Tensor) -> Tensor:
        logits, means, _, coefficients = self._split(parameters)
        weight = torch.softmax(logits, dim=1).unsqueeze(1)
        mixed = (means * weight).sum(2)
        chained = None if coefficients is None else (coefficients * weight).sum(2)
        return _chain(mixed, chained, lambda x: x.clamp(-1, 1))

    def draw(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        logits, means, log_scales, coefficients = self._split(parameters)
        gumbel = -torch.log(-torch.log(_uniform(logits, generator)))
        chosen = (logits + gumbel).argmax(1, keepdim=True).unsqueeze(1)  # (B, 1, 1, H, W)
        index = chosen.expand(-1, self.colours, -1, -1, -1)
        mean = means.gather(2, index).squeeze(2)
        uniform = _uniform(mean, generator)
        logistic = torch.log(uniform) - torch.log1p(-uniform)
        value = mean + log_scales.gather(2, index).squeeze(2).exp() * logistic
        chained = None if coefficients is None else coefficients.gather(2, index).squeeze(2)
        return _chain(value, chained, self._on_levels)

    def _on_levels(self, x: Tensor) -> Tensor:
        """x moved to the nearest value that a pixel may have."""
        step = 2 / (self.levels - 1)
        placed: Tensor = ((x.clamp(-1, 1) + 1) / step).round() * step - 1
        return placed


def _chain(value: Tensor, coefficients: Tensor | None, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Places every colour and shifts the later ones by what they owe to it, (B, C, H, W)."""
    if coefficients is None:
        return place(value)
    red = place(value[:, 0])
    green = place(value[:, 1] + coefficients[:, 0] * red)
    blue = place(value[:, 2] + coefficients[:, 1] * red + coefficients[:, 2] * green)
    return torch.stack([red, green, blue], dim=1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers that are neither 0 nor 1."""
    shape, device = like.shape, like.device
    return torch.rand(shape, generator=generator, device=device).clamp(1e-5, 1 - 1e-5)


def _bytes(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def build_likelihood(config: ImageModelConfig, colours: int) -> PixelLikelihood:
    """The likelihood that ``config.likelihood`` names."""
    if config.likelihood == "bernoulli":
        return BernoulliPixels(colours, config.bits)
    if config.likelihood == "normal":
        return GaussianPixels(colours, config.bits)
    return LogisticPixels(colours, config.bits, config.mixtures)
