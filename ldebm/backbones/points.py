"""The VAE of points, mostly in the plane (docs/method.md, section 6.1).

Shapes: B batch, D latent dimension, X data dimension (2 where nothing else is said).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig
from ldebm.nn.linear import draw_linear

__all__ = ["PointVAE"]

POINT_DIM = 2
PAPERS_SCALE = 8.0  # about the standard deviation of gaussians16 and pinwheel10
LOGVAR_LIMIT = 12.0


class PointVAE(Backbone):
    """MLP encoder and decoder with p(x|z) = N(g(z), noise^2 I).

    Args:
        config: ``hidden``, ``layers`` (hidden layers of either side), ``latent``, ``noise``.
        meta: of the packed data: ``dimensions``, X; ``shift``, where their centre is, and
            ``scale``, their standard deviation, each one number or one per coordinate; by default
            those of the papers' data.
        generator: initial weights.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.noise = config.latent, config.noise
        self.dimensions = int(meta.get("dimensions", POINT_DIM))
        hidden = [config.hidden] * config.layers
        self.encoder = _mlp([self.dimensions, *hidden, config.hidden])
        self.mean = nn.Linear(config.hidden, config.latent)
        self.logvar = nn.Linear(config.hidden, config.latent)
        self.decoder = _mlp([config.latent, *hidden, self.dimensions])
        # Unit scale lets the first layers learn at once.
        scale = meta.get("scale")
        self.register_buffer("data_scale", torch.tensor(PAPERS_SCALE if scale is None else scale))
        self.register_buffer("data_shift", torch.tensor(meta.get("shift", 0.0)), persistent=False)
        self.data_scale: Tensor
        self.data_shift: Tensor
        for module in self.modules():
            draw_linear(module, generator)

    def encode(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.encoder((batch - self.data_shift) / self.data_scale))
        return self.mean(hidden), self.logvar(hidden).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)

    def decode(self, z_BD: Tensor) -> Tensor:
        """The mean g(z) of p(x|z), shape (B, X)."""
        decoded: Tensor = self.decoder(z_BD) * self.data_scale + self.data_shift
        return decoded

    def reconstruction_nll(self, batch: Tensor, z_BD: Tensor) -> Tensor:
        error = (batch - self.decode(z_BD)) / self.noise
        constant = self.dimensions * (0.5 * math.log(2 * math.pi) + math.log(self.noise))
        return 0.5 * error.square().sum(-1) + constant


def _mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
