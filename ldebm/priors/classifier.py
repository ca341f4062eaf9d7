"""N(0, I) with a classifier of z beside it: what supervised and self-trained rows are read by.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldebm.config import ClassifierConfig, PriorConfig
from ldebm.nn.linear import draw_linear
from ldebm.priors.base import GaussianPrior

__all__ = ["ClassifierPrior"]


class ClassifierPrior(GaussianPrior):
    """N(0, I) with a classifier of z beside it.

    Args:
        latent: D.
        config: the experiment's prior section.
        generator: initial weights.
    """

    def __init__(
        self, latent: int, config: PriorConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(latent, config)
        hidden = (config.classifier or ClassifierConfig()).hidden
        self.head = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, config.classes)
        )
        for layer in self.head:
            draw_linear(layer, generator)

    @property
    def has_classes(self) -> bool:
        return True

    def class_logits(self, z_BD: Tensor) -> Tensor:
        logits: Tensor = self.head(z_BD)
        return logits
