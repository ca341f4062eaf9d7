"""A normalising flow as the prior: neural splines (Durkan et al. 2019), the strongest exact rival.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ldebm.config import FlowConfig, PriorConfig
from ldebm.priors.base import ExactPrior

__all__ = ["FlowPrior"]


class FlowPrior(ExactPrior):
    """Autoregressive rational-quadratic splines of N(0, I), from the library zuko.

    Args:
        latent: D.
        config: the experiment's prior section; its ``flow`` gives the sizes.
        generator: initial weights.
    """

    without_classes = "a flow prior has no classes"

    def __init__(
        self, latent: int, config: PriorConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(latent, config)
        import zuko

        sizes = config.flow or FlowConfig()
        seed = torch.randint(2**31, (1,), generator=generator).item()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            self.flow = zuko.flows.NSF(
                features=latent,
                transforms=sizes.transforms,
                hidden_features=[sizes.hidden] * sizes.layers,
                bins=sizes.bins,
            )

    def log_standard(self, u_BD: Tensor) -> Tensor:
        density: Any = self.flow()
        log_p: Tensor = density.log_prob(u_BD)
        return log_p

    @torch.no_grad()
    def transformed(self, u_BD: Tensor) -> Tensor:
        """Draws of the flow from draws of N(0, I)."""
        transform: Any = self.flow().transform
        draws: Tensor = transform.inv(u_BD)
        return draws

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        return self.transformed(super().sample_standard(n, generator))
