"""Fitted Gaussians and mixtures as priors of the same backbone.

What an energy-based prior has to beat (docs/method.md, section 5.1).

An energy-based prior is worth its cost only where it beats these, so every table of a text model
has the N(0, I) of the VAE, the full Gaussian and a mixture, scored with the same draws.

Shapes: N posterior samples, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ldebm.seeding import derive_seed
from ldebm.seeding import generator as make_generator

__all__ = ["Fitted", "fit_densities", "posterior_samples"]


@dataclass(frozen=True)
class Fitted:
    """Densities over the backbone's latent fitted to training posteriors.

    Attributes:
        densities: name -> log density of z; "standard_normal", "gaussian", "mixture".
        gain: name -> mean held-out log density of posterior samples over that of N(0, I), nats.
        components: of the mixture that had the best held-out density.
    """

    densities: dict[str, Callable[[Tensor], Tensor]]
    gain: dict[str, float]
    components: int


def posterior_samples(mu_ND: Tensor, logvar_ND: Tensor, seed: int, limit: int) -> Tensor:
    """One draw of q(z|x) for at most ``limit`` rows, chosen at random."""
    stream = make_generator(seed, "posterior-samples")
    rows = torch.randperm(len(mu_ND), generator=stream)[:limit]
    noise = torch.randn(len(rows), mu_ND.shape[1], generator=stream)
    return mu_ND[rows] + torch.exp(0.5 * logvar_ND[rows]) * noise


def fit_densities(
    train_ND: Tensor, held_out_ND: Tensor, seed: int, components: tuple[int, ...] = (5, 20)
) -> Fitted:
    """Fits a full Gaussian and mixtures to ``train_ND``.

    Args:
        train_ND: posterior samples of training rows.
        held_out_ND: posterior samples of validation rows: they choose the mixture.
        seed: of the mixtures' starts.
        components: mixture sizes to try; those with fewer than 20 samples each are left out.
    """
    latent = train_ND.shape[1]
    eye = torch.eye(latent, dtype=torch.float64)
    densities = {"standard_normal": _normal(torch.zeros(latent, dtype=torch.float64), eye)}
    train = train_ND.double()
    covariance = torch.cov(train.t()).reshape(latent, latent) + 1e-9 * eye
    densities["gaussian"] = _normal(train.mean(0), covariance)
    best, chosen = -np.inf, 1
    densities["mixture"] = densities["gaussian"]
    for size in components:
        if len(train) < 20 * size:
            continue
        mixture = GaussianMixture(
            size, covariance_type="full", reg_covar=1e-4, max_iter=50, tol=1e-2,
            random_state=derive_seed(seed, "mixture", size) % 2**32,
        ).fit(train.numpy())  # fmt: skip
        score = float(mixture.score(held_out_ND.double().numpy()))
        if score > best:
            best, chosen, densities["mixture"] = score, size, _mixture(mixture)
    base = densities["standard_normal"](held_out_ND).mean()
    gain = {
        name: float(density(held_out_ND).mean() - base)
        for name, density in densities.items()
        if name != "standard_normal"
    }
    return Fitted(densities, gain, chosen)


def _normal(mean_D: Tensor, covariance_DD: Tensor) -> Callable[[Tensor], Tensor]:
    normal = torch.distributions.MultivariateNormal(mean_D, covariance_DD)

    def log_prob(z_ND: Tensor) -> Tensor:
        value: Tensor = normal.log_prob(z_ND.double().cpu())  # type: ignore[no-untyped-call]
        return value.to(z_ND.device)

    return log_prob


def _mixture(mixture: GaussianMixture) -> Callable[[Tensor], Tensor]:
    weights = torch.from_numpy(np.log(mixture.weights_ + 1e-300))
    normal = torch.distributions.MultivariateNormal(
        torch.from_numpy(mixture.means_), torch.from_numpy(mixture.covariances_)
    )

    def log_prob(z_ND: Tensor) -> Tensor:
        parts = normal.log_prob(z_ND.double().cpu().unsqueeze(1))  # type: ignore[no-untyped-call]
        parts = parts + weights
        return torch.logsumexp(parts, 1).to(z_ND.device)

    return log_prob
