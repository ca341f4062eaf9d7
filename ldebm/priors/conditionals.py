"""The conditionals of an energy-based prior as plain functions and tables.

Yu et al. (2022), eq. A2; docs/method.md, section 2.

Shapes: N conditions, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldebm.priors.base_measure import DiffusedMixture
from ldebm.priors.energy import EnergyPrior
from ldebm.priors.frozen import TiltedEnergy

__all__ = ["Conditionals", "conditionals", "tilting"]


@dataclass(frozen=True)
class Conditionals:
    """The conditionals of a prior as plain functions and tables, one entry a level.

    Attributes:
        value: (v_ND, t) -> F_N over the temperature of level t.
        gradient: the same with its gradient, shape (N, D).
        factor: the kernel's mean is ``factor[t] * u_{t+1}`` (0 at the top).
        variance: the kernel's variance s^2.
        scale: c_{t+1}, v_t = scale[t] u_t.
        signal: a_{t+1} of the forward process (unused at the top).
        noise: sigma_{t+1}.
        abar0: signal of level 0 given the standardised encoder sample.
        sbar0: noise of level 0 (0: the prior models the encoder sample itself).
        step: squared step of the sampler over the kernel's variance.
        base: the mixture that the energies tilt; ``None``: N(0, I). ``value`` contains its
            log-ratio to N(0, I).
        tilt: ``value`` without the base measure; ``None``: the same as ``value``.
    """

    value: Callable[[Tensor, int], Tensor]
    gradient: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    factor: tuple[float, ...]
    variance: tuple[float, ...]
    scale: tuple[float, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]
    abar0: float
    sbar0: float
    step: tuple[float, ...]
    base: DiffusedMixture | None = None
    tilt: Callable[[Tensor, int], Tensor] | None = None

    @property
    def levels(self) -> int:
        """T."""
        return len(self.factor)

    def energy(self, v_ND: Tensor, t: int) -> Tensor:
        """The tilt alone: F without the base measure, (N,)."""
        return (self.tilt or self.value)(v_ND, t)

    def reference_draws(
        self, u_next_ND: Tensor, t: int, draws: int, generator: torch.Generator
    ) -> Tensor:
        """Draws of the conditional without the tilt, (N draws, D)."""
        if self.base is not None:
            return self.base.draw(u_next_ND, t, generator, draws)
        mean_PD = (self.factor[t] * u_next_ND).repeat_interleave(draws, 0)
        noise_PD = torch.randn(
            mean_PD.shape, generator=generator, device=mean_PD.device, dtype=mean_PD.dtype
        )
        return mean_PD + math.sqrt(self.variance[t]) * noise_PD

    def log_reference(self, u_next_ND: Tensor, t: int) -> Tensor:
        """log Z_t of the conditional without the tilt, (N,)."""
        if self.base is None:
            return torch.zeros_like(u_next_ND[:, 0])
        return self.base.log_normaliser(u_next_ND, t)

    def forward(self, u0_ND: Tensor, stream: torch.Generator) -> list[Tensor]:
        """u_0..u_{T-1} by the forward process."""
        levels = [u0_ND]
        for t in range(self.levels - 1):
            noise = torch.randn(
                u0_ND.shape, generator=stream, device=u0_ND.device, dtype=u0_ND.dtype
            )
            levels.append(self.signal[t] * levels[t] + self.noise[t] * noise)
        return levels


def tilting(energies: Conditionals, base: DiffusedMixture) -> Conditionals:
    """The same conditionals, written as tilts of a mixture that is close to them.

    Nothing but the estimates of their normalisers changes: these then start at the mixture's
    reverse conditionals, in place of the Gaussian kernels.

    Args:
        energies: of a prior whose base measure is N(0, I).
        base: in the prior's standardised coordinates, with its schedule.
    """

    @torch.no_grad()
    def tilt(v_ND: Tensor, t: int) -> Tensor:
        return energies.value(v_ND, t) - base.ratio(v_ND, t)

    return replace(energies, base=base, tilt=tilt)


def conditionals(prior: EnergyPrior, *, of_sampler: bool = True) -> Conditionals:
    """The tables of ``prior``, its network frozen once.

    Args:
        prior: SVEBM (one level) or LDEBM.
        of_sampler: take the temperature that is sampled, else the stated one
            (docs/method.md, section 3.2).
    """
    frozen = prior.net.freeze()
    inverse_temperature = [1.0 / float(t) for t in prior.temperature_T(of_sampler=of_sampler)]
    factor, variance = (tuple(map(float, table)) for table in prior.kernel_tables())
    table, abar0, sbar0 = prior.schedule, 1.0, 0.0
    signal, noise, scale = (tuple(map(float, x[1:])) for x in (table.a, table.sigma, table.scale))
    if prior.config.level_noise:
        abar0, sbar0 = float(table.abar[0]), float(table.sbar[0])

    @torch.no_grad()
    def value(v_ND: Tensor, t: int) -> Tensor:
        return frozen.value(v_ND, t) * inverse_temperature[t]

    @torch.no_grad()
    def tilt(v_ND: Tensor, t: int) -> Tensor:
        bare = frozen.energy if isinstance(frozen, TiltedEnergy) else frozen
        return bare.value(v_ND, t) * inverse_temperature[t]

    @torch.no_grad()
    def gradient(v_ND: Tensor, t: int) -> tuple[Tensor, Tensor]:
        value_N, gradient_ND = frozen.value_and_gradient(v_ND, t)
        return value_N * inverse_temperature[t], gradient_ND * inverse_temperature[t]

    steps = prior.step2_T() / prior.kernel_tables()[1]
    step = tuple(min(float(s), 1.0) for s in steps)
    return Conditionals(
        value,
        gradient,
        factor,
        variance,
        scale,
        signal,
        noise,
        abar0,
        sbar0,
        step,
        prior.tilted,
        tilt,
    )
