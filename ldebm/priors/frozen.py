"""What chains and densities need of a network: energies at fixed weights, and what they tilt.

Shapes: B batch, D latent dimension, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["BaseMeasure", "Energies", "Frozen", "TiltedEnergy"]


class Frozen(ABC):
    """Energies at fixed weights, as chains need them."""

    @abstractmethod
    def logits(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """f(z, t), shape (B, K)."""

    def value(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """F(z, t), shape (B,): the logsumexp of the logits."""
        return torch.logsumexp(self.logits(z_BD, t_B), -1)

    @abstractmethod
    def value_and_gradient(self, z_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        """F(z, t) and dF/dz, shapes (B,) and (B, D)."""


class Energies(nn.Module, ABC):
    """What a prior needs of its network: logits f(z, t), whose logsumexp is F(z, t).

    Attributes:
        base: gives the base measure that the energies tilt; ``None``: N(0, I).
    """

    base: Callable[[], BaseMeasure] | None = None

    @abstractmethod
    def power_iterate(self, rounds: int = 1) -> None:
        """Updates the spectral norms; called once before every training step."""

    @abstractmethod
    def freeze(self) -> Frozen:
        """The effective weights, computed once; differentiable in the parameters."""

    def forward(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """Logits f(z, t), shape (B, K)."""
        return self.freeze().logits(z_BD, t_B)


class BaseMeasure(ABC):
    """What the energies tilt instead of N(0, I), as the logarithm of its ratio to N(0, I)."""

    @abstractmethod
    def ratio(self, v_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """log q_t - log N(0, I) at v_t, shape (B,); differentiable in v."""

    @abstractmethod
    def ratio_and_gradient(self, v_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        """:meth:`ratio` and its gradient with respect to v, shapes (B,) and (B, D)."""


@dataclass(frozen=True)
class TiltedEnergy(Frozen):
    """Energies that tilt a base measure: every logit has its log-ratio to N(0, I) added.

    Attributes:
        energy: of the network.
        base: the base measure.
    """

    energy: Frozen
    base: BaseMeasure

    def logits(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        return self.energy.logits(z_BD, t_B) + self.base.ratio(z_BD, t_B)[:, None]

    def value(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        return self.energy.value(z_BD, t_B) + self.base.ratio(z_BD, t_B)

    def value_and_gradient(self, z_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(z_BD, t_B)
        ratio, slope = self.base.ratio_and_gradient(z_BD, t_B)
        return value + ratio, gradient + slope
