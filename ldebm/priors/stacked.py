"""Several energy-based priors of the same shape as one, whose rows are stacked by prior.

Shapes: M priors, B rows of each, N = M B, D latent dimension, T levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldebm.errors import UsageError
from ldebm.priors.diffusion import DiffusionPrior
from ldebm.priors.energy import EnergyPrior
from ldebm.priors.energy_net import EnergyNet
from ldebm.priors.stacked_energy_net import StackedEnergies
from ldebm.priors.svebm import SymbolPrior

__all__ = ["stack"]


class _Stacked(EnergyPrior):
    """What differs between the members: weights, steps, and where their rows lie."""

    members: tuple[EnergyPrior, ...]

    def step2(self, t_B: Tensor) -> Tensor:
        table_MT = torch.stack([member.step2_T() for member in self.members])
        return table_MT.gather(1, t_B.view(len(table_MT), -1)).view(-1, 1)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        count = len(self.members)
        return torch.cat([part.view(count, -1, *part.shape[1:]) for part in parts], 1).flatten(0, 1)


class _StackedDiffusion(_Stacked, DiffusionPrior):
    pass


class _StackedSymbol(_Stacked, SymbolPrior):
    pass


def stack(priors: Sequence[EnergyPrior]) -> EnergyPrior:
    """One prior for the rows of all: rows m B to (m + 1) B belong to prior m.

    The parameters are the same, not copies. Schedule and sampler are those of the first; only what
    training needs is there, and coordinates are standardised ones.

    Raises:
        UsageError: a prior of a kind that cannot be stacked.
    """
    first = priors[0]
    kinds = {DiffusionPrior: _StackedDiffusion, SymbolPrior: _StackedSymbol}
    nets = [prior.net for prior in priors]
    if type(first) not in kinds or not all(isinstance(net, EnergyNet) for net in nets):
        raise UsageError(
            f"{type(first).__name__}: only SVEBM and LDEBM on one latent vector are trained "
            "together"
        )
    kind = kinds[type(first)]
    together = kind.__new__(kind)
    together.__dict__ |= first.__dict__
    together._modules = {
        "net": StackedEnergies([net for net in nets if isinstance(net, EnergyNet)])
    }
    together.members = tuple(priors)
    return together
