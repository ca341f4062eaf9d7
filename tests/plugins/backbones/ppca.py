"""A linear VAE of points: probabilistic principal components, with a Gaussian posterior.

Shapes: B batch, D latent dimension, X data dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig
from ldebm.nn.linear import draw_linear
from ldebm.plugins import BackbonePlugin


class LinearVAE(Backbone):
    """q(z|x) = N(A x + a, diag s^2) and p(x|z) = N(B z + b, noise^2 I)."""

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.noise = config.latent, config.noise
        dimensions = int(meta["dimensions"])
        self.encoder = nn.Linear(dimensions, self.latent)
        self.decoder = nn.Linear(self.latent, dimensions)
        self.logvar = nn.Parameter(torch.zeros(self.latent))
        for layer in (self.encoder, self.decoder):
            draw_linear(layer, generator)

    def encode(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encoder(batch)
        return mean, self.logvar.expand_as(mean)

    def decode(self, z_BD: Tensor) -> Tensor:
        """The mean of p(x|z), shape (B, X)."""
        mean: Tensor = self.decoder(z_BD)
        return mean

    def reconstruction_nll(self, batch: Tensor, z_BD: Tensor) -> Tensor:
        error = (batch - self.decode(z_BD)) / self.noise
        constant = batch.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(self.noise))
        return 0.5 * error.square().sum(-1) + constant


plugin = BackbonePlugin(LinearVAE, kinds=("points",))
