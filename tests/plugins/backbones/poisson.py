"""A VAE of counts: p(x|z) is a Poisson distribution of every count.

Shapes: B batch, D latent dimension, X counts a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig
from ldebm.config.sections import Section
from ldebm.nn.linear import draw_linear
from ldebm.plugins import BackbonePlugin


class Options(Section):
    """``backbone.options``."""

    log_counts: bool = True
    """Encode log(1 + x), so that large counts do not drown the small ones."""


class PoissonVAE(Backbone):
    """MLP encoder, and a decoder of rates."""

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent, counts = config.latent, int(meta["dimensions"])
        self.log_counts = Options(**config.options).log_counts
        self.encoder = nn.Sequential(nn.Linear(counts, config.hidden), nn.ReLU())
        self.mean = nn.Linear(config.hidden, self.latent)
        self.logvar = nn.Linear(config.hidden, self.latent)
        self.decoder = nn.Sequential(
            nn.Linear(self.latent, config.hidden), nn.ReLU(), nn.Linear(config.hidden, counts)
        )
        for module in self.modules():
            draw_linear(module, generator)

    def encode(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder(batch.log1p() if self.log_counts else batch)
        return self.mean(hidden), self.logvar(hidden).clamp(-12, 12)

    def rates(self, z_BD: Tensor) -> Tensor:
        """The mean of p(x|z), shape (B, X)."""
        return nn.functional.softplus(self.decoder(z_BD))

    def reconstruction_nll(self, batch: Tensor, z_BD: Tensor) -> Tensor:
        rates = self.rates(z_BD)
        return (rates - batch * rates.log() + torch.lgamma(batch + 1)).sum(-1)


plugin = BackbonePlugin(PoissonVAE, kinds=("counts",), options=Options)
