"""Small models with known answers, for the tests of the evaluation library."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import EnergyConfig, PriorConfig, SamplerConfig, TrainingConfig
from ldebm.priors import EnergyPrior
from ldebm.seeding import generator

PriorT = TypeVar("PriorT", bound=EnergyPrior)
LOG_2PI = math.log(2 * math.pi)


class LinearGaussian(nn.Module):
    """x = W z + noise e with z ~ N(0, I); the encoder is exact, or widened by ``blur``."""

    def __init__(self, latent: int, noise: float = 0.5, blur: float = 1.0) -> None:
        super().__init__()
        # Orthogonal columns, so that the exact posterior is diagonal.
        basis = torch.linalg.qr(torch.randn(latent, latent, generator=generator(0, "basis")))[0]
        self.weight = basis * torch.linspace(0.3, 2.0, latent)
        self.latent, self.noise, self.blur = latent, noise, blur

    def encode(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        gram_D = (self.weight.square().sum(0)) / self.noise**2
        variance_D = 1 / (1 + gram_D)
        mu = (x_BD @ self.weight) / self.noise**2 * variance_D
        return mu, (variance_D * self.blur).log().expand_as(mu)

    def reconstruction_nll(self, x_BD: Tensor, z_BD: Tensor) -> Tensor:
        away = (x_BD - z_BD @ self.weight.t()) / self.noise
        constant = x_BD.shape[1] * (0.5 * LOG_2PI + math.log(self.noise))
        return 0.5 * away.square().sum(-1) + constant

    def exact(self, x_BD: Tensor) -> np.ndarray:
        covariance = self.weight @ self.weight.t() + self.noise**2 * torch.eye(self.latent)
        normal = torch.distributions.MultivariateNormal(torch.zeros(self.latent), covariance)
        return -normal.log_prob(x_BD).numpy()

    def data(self, rows: int) -> Tensor:
        stream = generator(1, "rows")
        z = torch.randn(rows, self.latent, generator=stream)
        return z @ self.weight.t() + self.noise * torch.randn(rows, self.latent, generator=stream)


def config(kind: str = "diffusion", **changes: object) -> PriorConfig:
    content: dict[str, object] = {
        "kind": kind,
        "classes": 5,
        "standardise": "none",
        "energy": EnergyConfig(
            arch="residual", hidden=32, blocks=2, activation="silu", spectral_norm=False,
            init="orthogonal",
        ),
        "sampler": SamplerConfig(steps=12, start="base"),
        "training": TrainingConfig(updates=1),
    }  # fmt: skip
    return PriorConfig.model_validate({**content, **changes})


def constant_energy(prior: PriorT, value: float) -> PriorT:
    """Sets F to ``value`` everywhere."""
    nn.init.zeros_(prior.net.output.weight)
    nn.init.constant_(prior.net.output.bias, value)
    return prior


def wavy_energy(prior: PriorT, gain: float) -> PriorT:
    """Makes F vary by about ``gain`` nats over the latent space."""
    with torch.no_grad():
        prior.net.output.weight.mul_(10 * gain)
    return prior
