"""Gaussian mixtures with full covariances: a prior of their own, and what energies can tilt.

Every covariance is kept as its axes and the variances along them, which noise only shifts.

Shapes: N rows, B batch, D latent dimension, K components, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import MixtureConfig, PriorConfig
from ldebm.draws import Stream, normal, uniform
from ldebm.priors.base import LOG_2PI, ExactPrior, Posteriors
from ldebm.seeding import derive_seed

__all__ = [
    "Mixture",
    "MixtureFit",
    "MixturePrior",
    "choose_mixture",
    "draw_along",
    "draws_to_fit",
    "fit_em",
    "in_chunks",
    "mixture_of_classes",
    "pick",
]

ROWS_AT_ONCE = 1024
LARGEST = 128  # latents of images to which mixtures with full covariances are fitted
RIDGE = 1e-4  # added to the covariances, as variance of standardised latents
TOLERANCE = 1e-3  # nats by which an iteration has to raise the mean log-likelihood
ITERATIONS = 100
FEWEST = 20  # draws a component, at least


@dataclass(frozen=True)
class MixtureFit:
    """A fitted mixture and how it was chosen.

    Attributes:
        log_weight_K: log w_k.
        mean_KD: m_k.
        covariance_KDD: S_k.
        held_out: mean log-density of the held-out draws, by number of components.
        turned: whether more components than the chosen ones were worse on the held-out draws.
    """

    log_weight_K: Tensor
    mean_KD: Tensor
    covariance_KDD: Tensor
    held_out: dict[int, float]
    turned: bool

    def mixture(self) -> Mixture:
        """The mixture itself, in the precision of the fit."""
        result = Mixture(*self.mean_KD.shape).double()
        result.take(self.log_weight_K, self.mean_KD, self.covariance_KDD)
        return result


def fit_em(draws_ND: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A mixture with full covariances by expectation maximisation (Dempster et al. 1977).

    Starts at k-means. The log-densities of all components are one product of the rows' first and
    second powers with the natural parameters, and the sums of an iteration another.

    Args:
        draws_ND: rows, about standardised.
        components: K.
        seed: of k-means.

    Returns:
        log w_k, m_k and S_k, float64.
    """
    from sklearn.cluster import KMeans

    x_ND = draws_ND.float().cpu()
    n, latent = x_ND.shape
    start = KMeans(components, n_init=1, max_iter=30, random_state=seed).fit(x_ND.numpy())
    assigned = torch.from_numpy(start.labels_).long()
    share_NK = nn.functional.one_hot(assigned, components).float()
    i, j = torch.triu_indices(latent, latent)
    powers = torch.cat([x_ND[:, i] * x_ND[:, j], x_ND, torch.ones_like(x_ND[:, :1])], 1)
    sums = torch.zeros(components, powers.shape[1], dtype=torch.float64)
    for rows in _chunks(n):
        sums += share_NK[rows].t() @ powers[rows]
    before = -math.inf
    for _ in range(ITERATIONS):
        log_weight, mean, covariance = _moments(sums, i, j, latent)
        parameters = _natural(log_weight, mean, covariance, i, j).float()
        total, sums = 0.0, torch.zeros_like(sums)
        for rows in _chunks(n):
            log_density = powers[rows] @ parameters
            log_sum = torch.logsumexp(log_density, 1, keepdim=True)
            sums += torch.exp(log_density - log_sum).t() @ powers[rows]
            total += float(log_sum.double().sum())
        if total / n - before < TOLERANCE:
            break
        before = total / n
    return _moments(sums, i, j, latent)


def _chunks(n: int) -> list[slice]:
    return [slice(start, start + 4 * ROWS_AT_ONCE) for start in range(0, n, 4 * ROWS_AT_ONCE)]


def _moments(sums: Tensor, i: Tensor, j: Tensor, latent: int) -> tuple[Tensor, Tensor, Tensor]:
    count = sums[:, -1:].clamp(min=1e-6)
    mean = sums[:, -latent - 1 : -1] / count
    covariance = sums.new_zeros(len(sums), latent, latent)
    covariance[:, i, j] = covariance[:, j, i] = sums[:, : len(i)] / count - mean[:, i] * mean[:, j]
    ridge = RIDGE * torch.eye(latent, dtype=sums.dtype)
    return (count[:, 0] / count.sum()).log(), mean, covariance + ridge


def _natural(log_weight: Tensor, mean: Tensor, covariance: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """What the powers of a row are multiplied by to give log w_k N(x; m_k, S_k)."""
    root = torch.linalg.cholesky(covariance)
    precision = torch.cholesky_inverse(root)
    linear = torch.einsum("kij,kj->ki", precision, mean)
    constant = log_weight - 0.5 * (linear * mean).sum(1) - 0.5 * mean.shape[1] * LOG_2PI
    constant = constant - root.diagonal(dim1=1, dim2=2).log().sum(1)
    twice = torch.where(i == j, 0.5, 1.0).double()
    return torch.cat([-twice * precision[:, i, j], linear, constant[:, None]], 1).t()


def choose_mixture(
    draws_ND: Tensor, held_out_ND: Tensor, sizes: Sequence[int], seed: int
) -> MixtureFit:
    """The mixture whose held-out density is largest; tries ever more components until it falls.

    Args:
        draws_ND: rows to fit, about standardised.
        held_out_ND: rows that choose.
        sizes: numbers of components to try, ascending; sizes with fewer than 20 rows a component
            are left out.
        seed: of the starts.
    """
    best: tuple[Tensor, Tensor, Tensor] | None = None
    held_out: dict[int, float] = {}
    turned = False
    for size in sizes:
        if len(draws_ND) < FEWEST * size and best is not None:
            continue
        fit = fit_em(draws_ND, size, derive_seed(seed, "mixture", size) % 2**32)
        tried = MixtureFit(*fit, {}, turned=False).mixture()
        score = float(tried.log_prob(held_out_ND.double().cpu()).mean())
        turned = bool(held_out) and score < max(held_out.values())
        held_out[size] = score
        if turned:
            break
        best = fit
    assert best is not None
    return MixtureFit(*best, held_out, turned)


def mixture_of_classes(
    data: tuple[Tensor, Tensor],
    labels: tuple[np.ndarray, np.ndarray],
    sizes: Sequence[int],
    seed: int,
) -> MixtureFit:
    """A mixture of every class, weighted by the frequency of the class: one mixture again.

    A class without held-out rows takes its number of components by those of all classes.

    Args:
        data: rows to fit and held-out rows, about standardised.
        labels: the class of each; negative: not known.
        sizes: numbers of components to try for a class, ascending.
        seed: of the starts.
    """
    known = int((labels[0] >= 0).sum())
    weights, means, covariances = [], [], []
    for label in np.unique(labels[0][labels[0] >= 0]):
        own, held_out = (torch.from_numpy(part == label) for part in labels)
        valid = data[1][held_out.to(data[1].device)] if held_out.any() else data[1]
        rows = data[0][own.to(data[0].device)]
        fit = choose_mixture(rows, valid, sizes, derive_seed(seed, "class", int(label)))
        weights.append(fit.log_weight_K + math.log(len(rows) / known))
        means.append(fit.mean_KD)
        covariances.append(fit.covariance_KDD)
    joined = torch.cat(weights), torch.cat(means), torch.cat(covariances)
    return MixtureFit(*joined, {}, turned=True)


class Mixture(nn.Module):
    """sum_k w_k N(m_k, S_k), and its densities and draws behind signal and noise.

    Args:
        components: K; a fit with fewer leaves the others without weight.
        latent: D.
    """

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        weight = torch.full((components,), -math.log(components))
        self.register_buffer("log_weight_K", weight)
        self.register_buffer("mean_KD", torch.zeros(components, latent))  # along the axes
        self.register_buffer("axes_KDD", torch.eye(latent).repeat(components, 1, 1))
        self.register_buffer("variance_KD", torch.ones(components, latent))
        self.log_weight_K: Tensor
        self.mean_KD: Tensor
        self.axes_KDD: Tensor
        self.variance_KD: Tensor

    @torch.no_grad()
    def take(self, log_weight_K: Tensor, mean_KD: Tensor, covariance_KDD: Tensor) -> None:
        """Takes over a fitted mixture."""
        size = len(mean_KD)
        variance, axes = torch.linalg.eigh(covariance_KDD)
        self.log_weight_K.fill_(-math.inf)
        self.log_weight_K[:size] = log_weight_K
        self.axes_KDD[:size], self.variance_KD[:size] = axes, variance.clamp(min=0.1 * RIDGE)
        self.mean_KD[:size] = torch.einsum("kd,kde->ke", mean_KD, axes)

    def fit(self, draws_ND: Tensor, held_out_ND: Tensor, sizes: Sequence[int], seed: int) -> None:
        """Takes over the mixture of :func:`choose_mixture`."""
        chosen = choose_mixture(draws_ND, held_out_ND, sizes, seed)
        self.take(chosen.log_weight_K, chosen.mean_KD, chosen.covariance_KDD)

    def mapped(self, matrix_DD: Tensor, shift_D: Tensor) -> Mixture:
        """The mixture of A x + b, for x of this one."""
        some = torch.isfinite(self.log_weight_K)
        axes_KDD, matrix_DD = self.axes_KDD[some], matrix_DD.to(self.mean_KD)
        mean_KD = torch.einsum("kde,ke->kd", axes_KDD, self.mean_KD[some])
        axes_KDD = matrix_DD @ axes_KDD
        result = Mixture(*mean_KD.shape).to(self.mean_KD)
        result.take(
            self.log_weight_K[some],
            mean_KD @ matrix_DD.t() + shift_D.to(self.mean_KD),
            torch.einsum("kde,ke,kfe->kdf", axes_KDD, self.variance_KD[some], axes_KDD),
        )
        return result

    def at(self, signal: float = 1.0, noise: float = 0.0) -> NoisedMixture:
        """The density of s u + n e, for u of the mixture and e of N(0, I)."""
        some = torch.isfinite(self.log_weight_K)
        axes, mean = self.axes_KDD[some], signal * self.mean_KD[some]
        variance = signal**2 * self.variance_KD[some] + noise**2
        return NoisedMixture.of(self.log_weight_K[some], axes, mean, variance)

    def log_prob(self, u_BD: Tensor) -> Tensor:
        """Log-density, shape (B,); differentiable in ``u_BD``."""
        return self.at().log_prob(u_BD)

    def draw(self, n: int, generator: Stream) -> Tensor:
        """n draws, shape (n, D)."""
        now = self.at()
        weight = now.log_weight_K.softmax(0).expand(n, -1)
        k = pick(weight, generator)
        return draw_along(now.axes_KDD, k, now.mean_KD[k], now.variance_KD[k], generator)


@dataclass(frozen=True)
class NoisedMixture:
    """A mixture at one level of noise, laid out for evaluation at many rows.

    Attributes:
        log_weight_K: log w_k.
        axes_KDD: the axes of every covariance.
        mean_KD: means along the axes.
        variance_KD: variances along the axes.
        whiten_DX: all components' whitening side by side, X = K D.
        shift_X: what it takes from the rows' products with it: the whitened means.
        constant_K: log w_k and the determinants.
    """

    log_weight_K: Tensor
    axes_KDD: Tensor
    mean_KD: Tensor
    variance_KD: Tensor
    whiten_DX: Tensor
    shift_X: Tensor
    constant_K: Tensor

    @classmethod
    def of(
        cls, log_weight_K: Tensor, axes_KDD: Tensor, mean_KD: Tensor, variance_KD: Tensor
    ) -> NoisedMixture:
        """Lays out a mixture."""
        size, latent = mean_KD.shape
        spread = variance_KD.sqrt()
        whiten = (axes_KDD / spread[:, None]).transpose(0, 1).reshape(latent, size * latent)
        constant = log_weight_K - spread.log().sum(1) - 0.5 * latent * LOG_2PI
        shift = (mean_KD / spread).flatten()
        return cls(log_weight_K, axes_KDD, mean_KD, variance_KD, whiten, shift, constant)

    def log_parts(self, u_BD: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(u; m_k, S_k), (B, K), and the whitened residuals, (B, K, D)."""
        whitened = torch.addmm(-self.shift_X, u_BD, self.whiten_DX)
        whitened = whitened.view(len(u_BD), len(self.constant_K), -1)
        return self.constant_K - 0.5 * whitened.square().sum(-1), whitened

    def log_prob(self, u_BD: Tensor) -> Tensor:
        """Log-density, shape (B,); differentiable in ``u_BD``."""
        parts = [torch.logsumexp(self.log_parts(u)[0], 1) for (u,) in in_chunks(u_BD)]
        return torch.cat(parts)

    @torch.no_grad()
    def log_prob_and_score(self, u_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density, (B,), and its gradient, (B, D)."""
        values, scores = [], []
        for (u,) in in_chunks(u_BD):
            log_part, whitened = self.log_parts(u)
            values.append(torch.logsumexp(log_part, 1))
            share = torch.exp(log_part - values[-1][:, None])
            scores.append((whitened * -share[:, :, None]).flatten(1) @ self.whiten_DX.t())
        return torch.cat(values), torch.cat(scores)


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few rows of every tensor, one piece after the other."""
    for start in range(0, len(tensors[0]), ROWS_AT_ONCE):
        yield tuple(x[start : start + ROWS_AT_ONCE] for x in tensors)


def pick(probability_NK: Tensor, generator: Stream) -> Tensor:
    """One component a row, by its probability."""
    cumulative = probability_NK.cumsum(1)
    edge = uniform(len(cumulative), generator, cumulative.device, cumulative.dtype)
    edge = edge * cumulative[:, -1]
    return (cumulative <= edge[:, None]).sum(1).clamp(max=cumulative.shape[1] - 1)


def draw_along(
    axes_KDD: Tensor, k_N: Tensor, mean_ND: Tensor, variance_ND: Tensor, generator: Stream
) -> Tensor:
    """Draws along the axes of the components k, in the coordinates of u."""
    noise = normal(tuple(mean_ND.shape), generator, mean_ND.device, mean_ND.dtype)
    along = mean_ND + variance_ND.sqrt() * noise
    parts = [torch.einsum("bij,bj->bi", axes_KDD[k], y) for k, y in in_chunks(k_N, along)]
    return torch.cat(parts)


def draws_to_fit(
    settings: MixtureConfig, train: Posteriors, held_out: Posteriors, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws of the aggregate posterior that a mixture is fitted to, and held-out ones, of z."""
    return (
        train.draw(settings.draws, settings.rows, seed, "mixture-train"),
        held_out.draw(settings.draws, settings.rows, seed, "mixture-held-out"),
    )


class MixturePrior(ExactPrior):
    """A Gaussian mixture fitted to draws of the aggregate posterior.

    Args:
        latent: D.
        config: the experiment's prior section; its ``mixture`` says how many components are tried.
    """

    without_classes = "a mixture prior has no classes"

    def __init__(self, latent: int, config: PriorConfig) -> None:
        super().__init__(latent, config)
        self.settings = config.mixture or MixtureConfig()
        self.mixture = Mixture(max(self.settings.components), latent)

    def fit(self, train: Posteriors, held_out: Posteriors, seed: int) -> None:
        super().fit(train, held_out, seed)
        z_ND, held_out_ND = draws_to_fit(self.settings, train, held_out, seed)
        draws = self.to_standard(z_ND), self.to_standard(held_out_ND)
        self.mixture.fit(*draws, self.settings.components, seed)

    def log_standard(self, u_BD: Tensor) -> Tensor:
        return self.mixture.log_prob(u_BD)

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.draw(n, generator)
