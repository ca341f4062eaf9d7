"""Fitted Gaussians and mixtures as priors of the same backbone.

What an energy-based prior has to beat (docs/method.md, section 5.1): every table of a text model
has the N(0, I) of the VAE, the full Gaussian and a mixture, scored with the same draws.

Shapes: N posterior samples, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldebm.config import MixtureConfig
from ldebm.priors import Posteriors
from ldebm.priors.mixture import Mixture, choose_mixture, mixture_of_classes

__all__ = ["Fitted", "fit_densities"]


@dataclass(frozen=True)
class Fitted:
    """Densities over the backbone's latent fitted to training posteriors.

    Attributes:
        densities: name -> log density of z; "standard_normal", "gaussian", "mixture" and, of
            labelled rows, "mixture_classes".
        gain: name -> mean held-out log density of posterior samples over that of N(0, I), nats.
        components: of the mixture that had the best held-out density; 1: the Gaussian.
        turned: whether more components were worse on the held-out rows.
        mixture: the one that was chosen, of z.
    """

    densities: dict[str, Callable[[Tensor], Tensor]]
    gain: dict[str, float]
    components: int
    turned: bool
    mixture: Mixture


def fit_densities(
    train: Posteriors,
    held_out: Posteriors,
    seed: int,
    settings: MixtureConfig,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> Fitted:
    """Fits a full Gaussian and mixtures to draws of the posteriors.

    Args:
        train: of training rows.
        held_out: of validation rows: they choose the mixture.
        seed: of the draws and of the mixtures' starts.
        settings: how many draws, and the mixtures' sizes.
        labels: classes of training and validation rows, for a prior that is trained with them: a
            mixture of every class is what it compares with.
    """
    train_ND, held_out_ND = (
        part.draw(settings.draws, settings.rows, seed, f"fit-{name}").double().cpu()
        for part, name in ((train, "train"), (held_out, "valid"))
    )
    latent = train_ND.shape[1]
    eye = torch.eye(latent, dtype=torch.float64)
    covariance = torch.cov(train_ND.t()).reshape(latent, latent) + 1e-9 * eye
    densities = {
        "standard_normal": _normal(torch.zeros(latent, dtype=torch.float64), eye),
        "gaussian": _normal(train_ND.mean(0), covariance),
    }
    mean_D, spread_D = train_ND.mean(0), covariance.diagonal().sqrt()
    data = (train_ND - mean_D) / spread_D, (held_out_ND - mean_D) / spread_D
    sizes = [1, *(size for size in settings.components if size > 1)]
    chosen = choose_mixture(*data, sizes, seed)
    mixture = chosen.mixture().mapped(spread_D.diag(), mean_D)
    single = len(chosen.mean_KD) == 1
    densities["mixture"] = densities["gaussian"] if single else _density(mixture)
    if labels is not None:
        drawn = tuple(
            label[part.drawn(settings.draws, settings.rows, seed, f"fit-{name}").numpy()]
            for part, name, label in (
                (train, "train", labels[0]), (held_out, "valid", labels[1])
            )
        )  # fmt: skip
        of_classes = mixture_of_classes(data, drawn, sizes, seed).mixture()
        densities["mixture_classes"] = _density(of_classes.mapped(spread_D.diag(), mean_D))
    base = densities["standard_normal"](held_out_ND).mean()
    gain = {
        name: float(density(held_out_ND).mean() - base)
        for name, density in densities.items()
        if name != "standard_normal"
    }
    return Fitted(densities, gain, len(chosen.mean_KD), chosen.turned, mixture)


def _density(mixture: Mixture) -> Callable[[Tensor], Tensor]:
    def log_prob(z_ND: Tensor) -> Tensor:
        return mixture.log_prob(z_ND.double().cpu()).to(z_ND.device)

    return log_prob


def _normal(mean_D: Tensor, covariance_DD: Tensor) -> Callable[[Tensor], Tensor]:
    normal = torch.distributions.MultivariateNormal(mean_D, covariance_DD)

    def log_prob(z_ND: Tensor) -> Tensor:
        value: Tensor = normal.log_prob(z_ND.double().cpu())  # type: ignore[no-untyped-call]
        return value.to(z_ND.device)

    return log_prob
