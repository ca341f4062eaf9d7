"""Importance-weighted likelihood over latent trajectories (MR 5.1; LDEBM eq. A4-A6).

For rows x the proposal draws the level-0 variable from the encoder and the other levels by the
forward process, in standardised coordinates u = scale^-1 (z - shift):

    q(u_0 | x)  = N(abar_0 A (mu - shift), abar_0^2 A diag(s^2) A^T + sbar_0^2 I),   A = scale^-1
    log w = log p(x | shift + scale u_0) - log q(u_0 | x) + log p(v_{T-1}) + D log c_T
            + sum_{t < T-1} [log p(v_t | u_{t+1}) + D log c_{t+1} - log q(u_{t+1} | u_t)]

The decoder reads the level-0 variable. SVEBM is the case T = 1; other densities over z (Gaussians,
mixtures) are scored with the same draws and the same decoder evaluations, so that models that share
a backbone can be compared row by row.

Which side each number errs on:
    nll         -log mean w (IWAE, Burda et al. 2016) with own draws counted in every inner
                normaliser: at or above the NLL of a normalised model (see ``normalisers``)
    nll_lower   the same with fresh draws only: log Z is low on average, so this lies below ``nll``;
                the two meet as M grows
    nll_upper   -mean log w, the negative ELBO

Shapes: B rows, S trajectories, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.evaluate.normalisers import (
    Conditionals,
    Sandwich,
    anneal,
    choose_shift,
    conditionals,
    global_normaliser,
    importance,
)
from ldebm.priors import EnergyPrior, GaussianPrior, Prior
from ldebm.seeding import generator as make_generator

__all__ = [
    "Estimate",
    "LikelihoodSettings",
    "likelihood",
    "mean_interval",
    "posterior_draws",
    "reconstruction",
]

LOG_2PI = math.log(2 * math.pi)
LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LikelihoodSettings:
    """How much is drawn.

    Attributes:
        trajectories: S, of each row.
        inner: M, fresh draws of each normaliser Z_t(u_{t+1}); even.
        top_draws: plain draws for the top normaliser.
        top_particles: of its annealed estimates.
        top_steps: temperatures of these.
        threshold: inner ESS below which a normaliser is estimated again by annealing.
        anneal_particles: particles of that annealing.
        anneal_steps: its temperatures.
        anneal_share: at most this share of a level's normalisers is annealed.
        of_sampler: the temperature that is sampled, else the stated one (MR 10.1).
        seed: of all draws.
    """

    trajectories: int = 500
    inner: int = 64
    top_draws: int = 65536
    top_particles: int = 512
    top_steps: int = 100
    threshold: float = 4.0
    anneal_particles: int = 8
    anneal_steps: int = 20
    anneal_share: float = 0.05
    of_sampler: bool = True
    seed: int = 0

    def of_context(self) -> LikelihoodSettings:
        """The same with fewer draws for the top normaliser, which every context has its own of."""
        return replace(self, top_draws=4096, top_particles=64, top_steps=50)


@dataclass
class Estimate:
    """Per-row results for one density over z; all arrays in the order of the rows given.

    Attributes:
        nll_B: the bound (see the module).
        lower_B: with fresh inner draws only.
        upper_B: the negative ELBO.
        half_outer_B: ``nll_B`` from half of the trajectories (mean of the two halves).
        half_inner_B: ``nll_B`` from half of the inner draws.
        ess_B: effective number of trajectories.
        reconstruction_B: mean over trajectories of -log p(x|z_0).
        inner_ess: per level t < T-1, the (median, 1 % quantile) of the effective inner draws.
        shift: per level, the share of the gradient in the proposal's mean.
        annealed: share of inner normalisers that were annealed.
        top: the top level's normaliser (``None`` for densities that have none).
    """

    nll_B: np.ndarray
    lower_B: np.ndarray
    upper_B: np.ndarray
    half_outer_B: np.ndarray
    half_inner_B: np.ndarray
    ess_B: np.ndarray
    reconstruction_B: np.ndarray
    inner_ess: list[tuple[float, float]] = field(default_factory=list)
    shift: list[float] = field(default_factory=list)
    annealed: float = 0.0
    top: Sandwich | None = None

    def metrics(self, prefix: str = "nll") -> dict[str, float]:
        """Flat numbers for ``metrics.json``."""
        mean, error, low, high = mean_interval(self.nll_B)
        result = {
            prefix: mean,
            f"{prefix}_se": error,
            f"{prefix}_low": low,
            f"{prefix}_high": high,
            f"{prefix}_ess": float(np.median(self.ess_B)),
            f"{prefix}_ess_min": float(self.ess_B.min()),
            f"{prefix}_lower": float(self.lower_B.mean()),
            f"{prefix}_upper": float(self.upper_B.mean()),
            f"{prefix}_half_outer": float(self.half_outer_B.mean()),
            f"{prefix}_half_inner": float(self.half_inner_B.mean()),
            f"{prefix}_rows": float(len(self.nll_B)),
        }
        for t, (median, low_ess) in enumerate(self.inner_ess):
            result[f"{prefix}_inner_ess_{t}"] = median
            result[f"{prefix}_inner_ess_low_{t}"] = low_ess
        if self.top is not None:
            result[f"{prefix}_log_z"] = self.top.log_z
            result[f"{prefix}_log_z_forward"] = self.top.forward
            result[f"{prefix}_log_z_reverse"] = self.top.reverse
            result[f"{prefix}_log_z_plain_ess"] = self.top.plain_ess
            result[f"{prefix}_annealed"] = self.annealed
        return result


def mean_interval(value_B: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, standard error and the 95 % normal interval of per-row values.

    Example:
        >>> mean_interval(np.array([1.0, 1.0, 1.0]))
        (1.0, 0.0, 1.0, 1.0)
    """
    mean = float(value_B.mean())
    error = float(value_B.std(ddof=1) / math.sqrt(len(value_B))) if len(value_B) > 1 else math.nan
    return mean, error, mean - 1.96 * error, mean + 1.96 * error


def posterior_draws(
    prior: Prior, mu_BD: Tensor, logvar_BD: Tensor, draws: int, noise: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draws of the level-0 variable from the encoder.

    Args:
        prior: its standardisation is used.
        mu_BD: encoder means.
        logvar_BD: encoder log-variances.
        draws: S.
        noise: (abar_0, sbar_0).
        generator: source of the noise.

    Returns:
        u_0 of shape (S, B, D) and log q(u_0|x) of shape (S, B), float64.
    """
    keep, spread = noise
    latent = mu_BD.shape[1]
    inverse = prior.inverse_DD.double()
    mean_BD = keep * prior.to_standard(mu_BD).double()
    root_BDD = keep * inverse * torch.exp(0.5 * logvar_BD.double()).unsqueeze(1)
    covariance = root_BDD @ root_BDD.transpose(1, 2)
    covariance = covariance + spread**2 * torch.eye(
        latent, dtype=inverse.dtype, device=inverse.device
    )
    root_BDD = torch.linalg.cholesky(covariance)
    noise_SBD = torch.randn(
        draws, len(mu_BD), latent, generator=generator, device=mu_BD.device, dtype=mu_BD.dtype
    ).double()
    u_SBD = mean_BD + torch.einsum("bij,sbj->sbi", root_BDD, noise_SBD)
    log_det_B = root_BDD.diagonal(dim1=1, dim2=2).log().sum(-1)
    log_q_SB = -0.5 * (noise_SBD.square().sum(-1) + latent * LOG_2PI) - log_det_B
    return u_SBD.to(mu_BD.dtype), log_q_SB


def _gaussian(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    """log N(x; mean, variance I) over the last axis, float64."""
    squared = (x - mean).double().square().sum(-1)
    return -0.5 * (squared / variance + x.shape[-1] * (LOG_2PI + math.log(variance)))


class _Trajectories:
    """log p(u_0..u_{T-1}) / q(u_1..u_{T-1}|u_0) of an energy prior, with its diagnostics."""

    tops: list[Sandwich]
    shift: list[float]
    ess: list[list[Tensor]]
    annealed: int = 0
    total: int = 0

    def __init__(
        self,
        prior: EnergyPrior,
        settings: LikelihoodSettings,
        pilot_ND: Tensor,
        before: _Trajectories | None = None,
    ) -> None:
        self.settings = settings
        self.energies: Conditionals = conditionals(prior, of_sampler=settings.of_sampler)
        top = self.energies.levels - 1
        stream = make_generator(settings.seed, "nll", "pilot", device=pilot_ND.device)
        levels = self._levels(pilot_ND, stream)
        start = self.energies.scale[top] * levels[top]
        self.top = global_normaliser(
            self.energies,
            start,
            stream,
            settings.top_draws,
            settings.top_particles,
            settings.top_steps,
        )
        if before is not None:  # another context of the same prior: the diagnostics are joined
            self.shift, self.ess, self.tops = before.shift, before.ess, [*before.tops, self.top]
            self.annealed, self.total = before.annealed, before.total
            return
        self.tops = [self.top]
        self.shift = [
            choose_shift(self.energies, t, levels[t + 1][:128], settings.inner, stream)
            for t in range(top)
        ]
        self.ess = [[] for _ in range(top)]

    def _levels(self, u0_ND: Tensor, stream: torch.Generator) -> list[Tensor]:
        """u_0..u_{T-1} by the forward process."""
        levels = [u0_ND]
        for t in range(self.energies.levels - 1):
            noise = torch.randn(
                u0_ND.shape, generator=stream, device=u0_ND.device, dtype=u0_ND.dtype
            )
            levels.append(self.energies.keep[t] * levels[t] + self.energies.noise[t] * noise)
        return levels

    def __call__(self, u0_ND: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(own draws counted, fresh draws only, half of the inner draws), each (N,)."""
        energies, settings = self.energies, self.settings
        levels = self._levels(u0_ND, stream)
        top, latent = energies.levels - 1, u0_ND.shape[1]
        v = energies.scale[top] * levels[top]
        common = energies.value(v, top).double() + _gaussian(v, 0.0, energies.variance[top])
        common += latent * math.log(energies.scale[top]) - self.top.log_z
        own, fresh, half = (torch.zeros_like(common) for _ in range(3))
        for t in range(top):
            v, u_next = energies.scale[t] * levels[t], levels[t + 1]
            common += energies.value(v, t).double()
            common += _gaussian(v, energies.factor[t] * u_next, energies.variance[t])
            common += latent * math.log(energies.scale[t])
            common -= _gaussian(u_next, energies.keep[t] * levels[t], energies.noise[t] ** 2)
            z = importance(energies, t, u_next, settings.inner, stream, v, self.shift[t])
            self.ess[t].append(z.ess_N)
            own, half = own - z.log_own_N, half - z.log_half_N
            fresh = fresh - self._annealed(t, u_next, z.log_fresh_N, z.ess_N, stream)
        return common + own, common + fresh, common + half

    def _annealed(
        self, t: int, u_next_ND: Tensor, log_z_N: Tensor, ess_N: Tensor, stream: torch.Generator
    ) -> Tensor:
        """Replaces the estimates with the poorest ESS by annealed ones."""
        settings = self.settings
        limit = int(settings.anneal_share * len(ess_N))
        poorest = torch.argsort(ess_N, stable=True)[:limit]
        poorest = poorest[ess_N[poorest] < settings.threshold]
        self.total += len(ess_N)
        if len(poorest) == 0:
            return log_z_N
        self.annealed += len(poorest)
        particles, steps = settings.anneal_particles, settings.anneal_steps
        again, _ = anneal(self.energies, t, u_next_ND[poorest], particles, steps, stream)
        result = log_z_N.clone()
        result[poorest] = again
        return result


@torch.no_grad()
def likelihood(
    backbone: Any,
    prior: Prior,
    batches: Iterable[Any],
    settings: LikelihoodSettings,
    others: Mapping[str, LogDensity] | None = None,
) -> dict[str, Estimate]:
    """The NLL of rows under ``prior`` and under ``others``, from the same draws.

    Args:
        backbone: encoder and decoder.
        prior: of any kind; its result has the key "prior".
        batches: what the backbone encodes, a few rows each.
        settings: how much is drawn.
        others: log densities of z (the level-0 variable) in the backbone's coordinates.

    Returns:
        One :class:`Estimate` a density.
    """
    backbone.eval()
    others = dict(others or {})
    if isinstance(prior, GaussianPrior):
        others["prior"] = prior.log_prob
    noise = (1.0, 0.0)
    scorer: _Trajectories | None = None
    columns: dict[str, list[np.ndarray]] = {}
    for index, batch in enumerate(batches):
        mu, logvar = backbone.encode(batch)
        stream = make_generator(settings.seed, "nll", index, device=mu.device)
        if isinstance(prior, EnergyPrior) and (scorer is None or prior.contextual):
            given = prior
            if prior.contextual:
                if len(mu) > 1:
                    raise ValueError("the likelihood given contexts needs batches of one row")
                given, settings = prior.given(backbone.context(batch)), settings.of_context()
            table = conditionals(given)
            noise = (table.abar0, table.sbar0)
            pilot, _ = posterior_draws(
                prior, mu, logvar, max(1, 512 // len(mu)), noise,
                make_generator(settings.seed, "nll", "start", device=mu.device),
            )  # fmt: skip
            scorer = _Trajectories(given, settings, pilot.reshape(-1, mu.shape[1]), scorer)
        u_SBD, log_q_SB = posterior_draws(prior, mu, logvar, settings.trajectories, noise, stream)
        z_SBD = prior.from_standard(u_SBD)
        recon_SB = reconstruction(backbone, batch, z_SBD)
        base_SB = -recon_SB - log_q_SB
        shape, flat = u_SBD.shape[:2], u_SBD.reshape(-1, u_SBD.shape[-1])
        if scorer is not None:
            own, fresh, half = (part.reshape(shape) for part in scorer(flat, stream))
            _collect(columns, "prior", recon_SB, base_SB + own, base_SB + fresh, base_SB + half)
        for name, log_density in others.items():
            z_flat = z_SBD.reshape(-1, z_SBD.shape[-1])
            log_p = log_density(z_flat).double().reshape(shape) + prior.log_det().double()
            _collect(columns, name, recon_SB, base_SB + log_p, base_SB + log_p, base_SB + log_p)
    return {name: _estimate(parts, scorer, name) for name, parts in columns.items()}


def reconstruction(backbone: Any, batch: Any, z_SBD: Tensor) -> Tensor:
    """-log p(x|z) for every draw, shape (S, B), float64."""
    if isinstance(batch, Tensor):
        draws, rows, latent = z_SBD.shape
        repeated = batch.repeat(draws, *([1] * (batch.dim() - 1)))
        nll: Tensor = backbone.reconstruction_nll(repeated, z_SBD.reshape(-1, latent))
        return nll.reshape(draws, rows).double()
    matrix: Tensor = backbone.nll_matrix(batch, z_SBD)
    return matrix.double()


def _collect(
    columns: dict[str, list[np.ndarray]],
    name: str,
    recon_SB: Tensor,
    own_SB: Tensor,
    fresh_SB: Tensor,
    half_SB: Tensor,
) -> None:
    draws = len(own_SB)
    middle = draws // 2
    total_B = torch.logsumexp(own_SB, 0)
    halves = 0.5 * (_bound(own_SB[:middle]) + _bound(own_SB[middle:]))
    ess_B = torch.exp(2 * total_B - torch.logsumexp(2 * own_SB, 0))
    table = torch.stack(
        [_bound(own_SB), _bound(fresh_SB), -own_SB.mean(0), halves, _bound(half_SB), ess_B,
         recon_SB.mean(0)]
    )  # fmt: skip
    columns.setdefault(name, []).append(table.cpu().numpy())


def _bound(weight_SB: Tensor) -> Tensor:
    """-log mean over draws of exp(weight)."""
    return math.log(len(weight_SB)) - torch.logsumexp(weight_SB, 0)


def _mean_top(tops: list[Sandwich]) -> Sandwich:
    """The means over contexts; without contexts there is one."""
    names = [item.name for item in fields(Sandwich)]
    return Sandwich(*(float(np.mean([getattr(top, name) for top in tops])) for name in names))


def _estimate(parts: list[np.ndarray], scorer: _Trajectories | None, name: str) -> Estimate:
    table = np.concatenate(parts, axis=1)
    estimate = Estimate(*table)
    if scorer is not None and name == "prior":
        for level in scorer.ess:
            ess = torch.cat(level)
            low = ess.kthvalue(max(1, len(ess) // 100)).values
            estimate.inner_ess.append((float(ess.median()), float(low)))
        estimate.shift = scorer.shift
        estimate.annealed = scorer.annealed / max(scorer.total, 1)
        estimate.top = _mean_top(scorer.tops)
    return estimate
