"""Keeps the chains of a training accepted, and says how they fare.

docs/method.md, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldebm.errors import DivergenceError
from ldebm.priors import EnergyPrior
from ldebm.priors.langevin import Chain
from ldebm.training.parallel import is_main, rank

__all__ = ["AcceptanceGuard", "rank_path", "sampler_metrics"]

MAX_ROLLBACKS = 200


class AcceptanceGuard:
    """Keeps Metropolis-adjusted training alive (acceptance falls before losses do).

    Below ``rollback_acceptance`` the averaged weights are restored; a run that stays below
    ``minimum_acceptance`` is stopped.
    """

    def __init__(self, prior: EnergyPrior) -> None:
        self.prior, self.rollbacks = prior, 0

    def check(self, chain: Chain, step: int, averaged: dict[str, Tensor] | None, at: str) -> None:
        config = self.prior.config
        if config.sampler.method == "ula":
            return
        acceptance = float(chain.acceptance_B.mean())
        if step < 20 or acceptance >= config.rollback_acceptance:
            return
        self.rollbacks += 1
        if averaged is not None:
            own = dict(self.prior.named_parameters())
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(averaged[at + name])
        if self.rollbacks > MAX_ROLLBACKS and acceptance < config.sampler.minimum_acceptance:
            raise DivergenceError(
                f"prior: the sampler accepts {acceptance:.2f} of its moves at update {step} "
                f"(below {config.sampler.minimum_acceptance}); the energies became too steep: "
                "lower prior.training.optimiser.lr or raise its clipping"
            )


def sampler_metrics(prior: EnergyPrior) -> dict[str, float]:
    """Acceptance and step size of every level."""
    acceptance = {f"acceptance_{t}": float(a) for t, a in enumerate(prior.acceptance_T)}
    return acceptance | {f"step_{t}": float(s) for t, s in enumerate(prior.step_T)}


def rank_path() -> tuple[str, ...]:
    return () if is_main() else ("rank", str(rank()))
