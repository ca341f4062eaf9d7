"""Importance-weighted likelihood over latent trajectories.

The bound of Yu et al. (2022), eq. A4 to A6, with many draws; docs/method.md, section 5.1.

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
                normaliser: at or above the NLL of the model that keeps one of the draws; of the
                prior itself where the two sides of its normalisers meet (``sandwich``). There is no
                number where they are more than a nat apart
    nll_lower   the same with fresh draws only: log Z is low on average, so this lies below ``nll``;
                the two meet as M grows
    nll_upper   -mean log w, the negative ELBO

Shapes: B rows, S trajectories, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config.evaluate import TOLERANCE
from ldebm.priors import EnergyPrior, Prior
from ldebm.priors.conditionals import conditionals
from ldebm.priors.known import Known
from ldebm.priors.mixture import Mixture
from ldebm.priors.normalisers import Sandwich
from ldebm.priors.trajectories import LikelihoodSettings, Trajectories
from ldebm.seeding import generator as make_generator

__all__ = [
    "Estimate",
    "LikelihoodSettings",
    "collect",
    "likelihood",
    "mean_interval",
    "posterior_draws",
    "reconstruction",
]

LOG_2PI = math.log(2 * math.pi)
LogDensity = Callable[[Tensor], Tensor]


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
        inner: draws of each inner normaliser, per level t < T-1.
        inner_ess: per level t < T-1, the (median, 1 % quantile) of the effective inner draws.
        shift: per level, the share of the gradient in the proposal's mean.
        annealed: share of inner normalisers that were annealed.
        top: the top level's normaliser (``None`` for densities that have none).
        sides: per level t < T-1, how far the two sides of log Z_t are apart on average, nats.
    """

    nll_B: np.ndarray
    lower_B: np.ndarray
    upper_B: np.ndarray
    half_outer_B: np.ndarray
    half_inner_B: np.ndarray
    ess_B: np.ndarray
    reconstruction_B: np.ndarray
    inner: list[int] = field(default_factory=list)
    inner_ess: list[tuple[float, float]] = field(default_factory=list)
    shift: list[float] = field(default_factory=list)
    annealed: float = 0.0
    top: Sandwich | None = None
    sides: list[float] = field(default_factory=list)

    @property
    def sandwich(self) -> float:
        """How far the two sides of all normalisers of a trajectory are apart, nats."""
        top = 0.0 if self.top is None else abs(self.top.reverse - self.top.log_z)
        return sum(self.sides) + top

    @property
    def refused(self) -> bool:
        """Whether the sides are too far apart for a number."""
        return not self.sandwich <= TOLERANCE

    def metrics(self, prefix: str = "nll") -> dict[str, float]:
        """Flat numbers for ``metrics.json``: diagnostics alone where the estimate is refused."""
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
        if self.refused:
            diagnostics = (f"{prefix}_ess", f"{prefix}_ess_min", f"{prefix}_rows")
            result = {name: result[name] for name in diagnostics}
            result[f"{prefix}_refused"] = 1.0
        for t, apart in enumerate(self.sides):
            result[f"{prefix}_sandwich_{t}"] = apart
        for t, (median, low_ess) in enumerate(self.inner_ess):
            result[f"{prefix}_inner_{t}"] = float(self.inner[t])
            result[f"{prefix}_inner_ess_{t}"] = median
            result[f"{prefix}_inner_ess_low_{t}"] = low_ess
        if self.top is not None:
            result[f"{prefix}_log_z"] = self.top.log_z
            result[f"{prefix}_log_z_forward"] = self.top.forward
            result[f"{prefix}_log_z_reverse"] = self.top.reverse
            result[f"{prefix}_log_z_plain_ess"] = self.top.plain_ess
            result[f"{prefix}_annealed"] = self.annealed
            result[f"{prefix}_sandwich"] = self.sandwich
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
    signal, spread = noise
    latent = mu_BD.shape[1]
    inverse = prior.inverse_DD.double()
    mean_BD = signal * prior.to_standard(mu_BD).double()
    root_BDD = signal * inverse * torch.exp(0.5 * logvar_BD.double()).unsqueeze(1)
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


@torch.no_grad()
def likelihood(
    backbone: Any,
    prior: Prior,
    batches: Iterable[Any],
    settings: LikelihoodSettings,
    others: Mapping[str, LogDensity] | None = None,
    known: Known | None = None,
    rivals: Mapping[str, EnergyPrior] | None = None,
    proposal: Mixture | None = None,
) -> dict[str, Estimate]:
    """The NLL of rows under ``prior``, ``others`` and ``rivals``, from the same draws.

    Args:
        backbone: encoder and decoder.
        prior: of any kind; its result has the key "prior".
        batches: what the backbone encodes, a few rows each.
        settings: how much is drawn.
        others: log densities of z (the level-0 variable) in the backbone's coordinates.
        known: what was estimated of this prior before, if it reads no contexts.
        rivals: energy-based priors of the same latents that read no contexts.
        proposal: a mixture of z that is close to the aggregate posterior; where its reverse
            conditionals are better proposals than Gaussians, the inner normalisers use them.

    Returns:
        One :class:`Estimate` a density.
    """
    backbone.eval()
    against: dict[str, Trajectories] = {}
    others = dict(others or {})
    if (exact := getattr(prior, "log_prob", None)) is not None:
        others["prior"] = exact
    noise = (1.0, 0.0)
    scorer: Trajectories | None = None
    columns: dict[str, list[np.ndarray]] = {}
    for index, batch in enumerate(batches):
        mu, logvar = backbone.encode(batch)
        stream = make_generator(settings.seed, "nll", index, device=mu.device)
        if prior.energies is not None and (scorer is None or prior.contextual):
            given = prior.energies
            if prior.contextual:
                if len(mu) > 1:
                    raise ValueError("the likelihood given contexts needs batches of one row")
                given, settings = (
                    given.conditioned_on(backbone.context(batch)),
                    settings.of_context(),
                )
            table = conditionals(given)
            noise = (table.abar0, table.sbar0)
            pilot, _ = posterior_draws(
                prior, mu, logvar, max(1, 512 // len(mu)), noise,
                make_generator(settings.seed, "nll", "start", device=mu.device),
            )  # fmt: skip
            close = None if prior.contextual else proposal
            pilot = pilot.reshape(-1, mu.shape[1])
            scorer = Trajectories(given, settings, pilot, scorer, known, close)
        u_SBD, log_q_SB = posterior_draws(prior, mu, logvar, settings.trajectories, noise, stream)
        z_SBD = prior.from_standard(u_SBD)
        recon_SB = reconstruction(backbone, batch, z_SBD, bfloat16=settings.bfloat16)
        base_SB = -recon_SB - log_q_SB  # Yu et al. (2022), eq. A4, first line
        shape, flat = u_SBD.shape[:2], u_SBD.reshape(-1, u_SBD.shape[-1])
        if scorer is not None:
            # the prior's terms: Yu et al. (2022), eq. A6
            own, fresh, half = (part.reshape(shape) for part in scorer(flat, stream))
            collect(columns, "prior", recon_SB, base_SB + own, base_SB + fresh, base_SB + half)
        z_flat = z_SBD.reshape(-1, z_SBD.shape[-1])
        for name, rival in (rivals or {}).items():
            u_flat = rival.to_standard(z_flat)
            if name not in against:
                against[name] = Trajectories(rival, settings, u_flat[:512], proposal=proposal)
            stream = make_generator(settings.seed, "nll", index, name, device=mu.device)
            change_SB = base_SB + prior.log_det().double() - rival.log_det().double()
            own, fresh, half = (part.reshape(shape) for part in against[name](u_flat, stream))
            collect(columns, name, recon_SB, change_SB + own, change_SB + fresh, change_SB + half)
        for name, log_density in others.items():
            log_p = log_density(z_flat).double().reshape(shape) + prior.log_det().double()
            collect(columns, name, recon_SB, base_SB + log_p, base_SB + log_p, base_SB + log_p)
    if scorer is not None:
        against["prior"] = scorer
    return {name: _estimate(parts, against.get(name)) for name, parts in columns.items()}


def reconstruction(backbone: Any, batch: Any, z_SBD: Tensor, *, bfloat16: bool = False) -> Tensor:
    """-log p(x|z) for every draw, shape (S, B), float64; of texts by products in ``bfloat16``."""
    if isinstance(batch, Tensor):
        draws, rows, latent = z_SBD.shape
        repeated = batch.repeat(draws, *([1] * (batch.dim() - 1)))
        nll: Tensor = backbone.reconstruction_nll(repeated, z_SBD.reshape(-1, latent))
        return nll.reshape(draws, rows).double()
    matrix: Tensor = backbone.nll_matrix(batch, z_SBD, bfloat16=bfloat16)
    return matrix.double()


def collect(
    columns: dict[str, list[np.ndarray]],
    name: str,
    recon_SB: Tensor,
    own_SB: Tensor,
    fresh_SB: Tensor,
    half_SB: Tensor,
) -> None:
    """Adds the bounds of one batch to the column ``name``, in the order of :class:`Estimate`.

    Args:
        columns: (7, B) arrays by name.
        name: whose weights they are.
        recon_SB: -log p(x|z).
        own_SB: log weights.
        fresh_SB: log weights with normalisers from fresh draws.
        half_SB: log weights with normalisers from half of the draws.
    """
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


def _estimate(parts: list[np.ndarray], scorer: Trajectories | None) -> Estimate:
    table = np.concatenate(parts, axis=1)
    estimate = Estimate(*table)
    if scorer is not None:
        estimate.inner = list(scorer.inner)
        for level in scorer.ess:
            ess = torch.cat(level)
            low = ess.kthvalue(max(1, len(ess) // 100)).values
            estimate.inner_ess.append((float(ess.median()), float(low)))
        estimate.shift, estimate.sides = list(scorer.shift), list(scorer.sides)
        estimate.annealed = scorer.annealed / max(scorer.total, 1)
        estimate.top = _mean_top(scorer.tops) if scorer.tops else None
    return estimate
