"""The symbol-vector EBM of Pang and Wu (2021), the one-step predecessor.

docs/method.md, section 2.1.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldebm.config import PriorConfig
from ldebm.draws import Stream
from ldebm.priors.energy import EnergyPrior, Pairs
from ldebm.priors.schedule import one_level

__all__ = ["SymbolPrior"]


class SymbolPrior(EnergyPrior):
    """p(u) proportional to exp(F(u)) N(u; 0, I), one level and no noise.

    Pang and Wu (2021), eq. 4.
    """

    def __init__(
        self,
        latent: int,
        config: PriorConfig,
        generator: torch.Generator | None = None,
        context: int = 0,
    ) -> None:
        super().__init__(latent, config, one_level(), generator, context)

    def kernel_tables(self) -> tuple[Tensor, Tensor]:
        one = torch.ones(1, device=self.shift_D.device)
        return torch.zeros_like(one), one

    def pairs(self, u0_BD: Tensor, generator: Stream) -> Pairs:
        t_B = torch.zeros(len(u0_BD), dtype=torch.long, device=u0_BD.device)
        return Pairs(u0_BD, t_B, torch.zeros_like(u0_BD), torch.ones_like(u0_BD[:, 0]))

    def top_state(self, n: int, generator: torch.Generator) -> Tensor:
        del generator
        return torch.zeros(n, self.latent, device=self.shift_D.device)
