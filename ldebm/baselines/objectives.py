"""What the baselines minimise (docs/method.md, section 7, with the corrections told there).

    RNN-LM, AE        nll
    DAE               nll + (1 - w) ACKL
    VAE               nll + w KL(q(z|x) || N(0, I))
    DVAE              nll + ACKL + w I
    DI-VAE            nll + ACKL
    semi-VAE          nll + ACKL + w (I + KL(q(z|x) || N(0, I)))
    GM-VAE, DGM-VAE   nll + ACKL + w (I + KL(q(z|x) || N_bar) + beta dispersion)

w rises to 1. ACKL = KL(mean q(c|x) || U) and I = I(x, c) add up to the mean of KL(q(c|x) || U);
"+ I(x, y)" leaves I out. With beta = 1 (GM-VAE) this is the negative ELBO. The published w is on
ACKL too, and on nothing in a DAE; the last objective is the same, but in the first updates the
noise of relaxed codes only hurts, and is got rid of by giving every sentence one certain code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldebm.baselines.codes import (
    average_divergence,
    averaged_gaussian,
    code_divergence,
    code_information,
    kl_gaussians,
)
from ldebm.baselines.model import Baseline, CodePosterior
from ldebm.config import BackboneConfig, BaselineConfig
from ldebm.training.objectives import Terms, gaussian_kl

__all__ = ["annealed_weight", "baseline_terms", "elbo_rate", "rate_terms"]

SLOPE = 6.25  # of the published logistic: 0.0025 a step, half at step 2500
WITHOUT_ELBO: dict[str, Callable[[float], dict[str, float]]] = {  # w to the weights of its terms
    "rnnlm": lambda _: {},
    "ae": lambda _: {},
    "dae": lambda w: {"average_kl": 1.0 - w},
    "divae": lambda _: {"average_kl": 1.0},
}


def annealed_weight(update: int, warmup: int) -> float:
    """w: a logistic that is one half after ``warmup / 2`` updates; published: warmup 5000.

    Example:
        >>> [round(annealed_weight(step, 5000), 3) for step in (2500, 4999)], annealed_weight(0, 0)
        ([0.5, 0.998], 1.0)
    """
    if warmup == 0:
        return 1.0
    return 1 / (1 + math.exp(-SLOPE * (2 * update / warmup - 1)))


def rate_terms(posterior: CodePosterior, model: Baseline) -> dict[str, Tensor]:
    """Every term beside the reconstruction, unweighted, means over the batch in nats."""
    parts: dict[str, Tensor] = {}
    log_q, mu, logvar = posterior.log_q_BMK, posterior.mu_BD, posterior.logvar_BD
    if log_q is not None:
        parts["average_kl"] = average_divergence(log_q)
        parts["information"] = code_information(log_q)
    if mu is not None and logvar is not None:
        if model.baseline.mixture:
            assert log_q is not None
            kl, dispersion = _mixture_terms(log_q, mu, logvar, model)
            parts["kl"], parts["dispersion"] = kl.mean(), dispersion.mean()
        else:
            parts["kl"] = gaussian_kl(mu, logvar).mean()
    return parts


def _mixture_terms(
    log_q: Tensor, mu_BD: Tensor, logvar_BD: Tensor, model: Baseline
) -> tuple[Tensor, Tensor]:
    """KL(q(z|x) || N_bar) and the dispersion, each (B,)."""
    mean, other, dispersion = averaged_gaussian(
        log_q, model.mixture_mean_MKD, model.mixture_logvar_MKD
    )
    mu, logvar = mu_BD.reshape(mean.shape), logvar_BD.reshape(mean.shape)
    return kl_gaussians(mu, logvar, mean, other).sum((-1, -2)), dispersion


def elbo_rate(posterior: CodePosterior, model: Baseline) -> Tensor | None:
    """KL(q(c, z|x) || p(c, z)) per row, (B,); ``None`` where the model has no such prior."""
    if not model.baseline.form.density:
        return None
    log_q, mu, logvar = posterior.log_q_BMK, posterior.mu_BD, posterior.logvar_BD
    total = torch.zeros((), device=model.decoder_embedding.device)
    if log_q is not None:
        total = total + code_divergence(log_q)
    if mu is not None and logvar is not None:
        if model.baseline.mixture:
            assert log_q is not None
            kl, dispersion = _mixture_terms(log_q, mu, logvar, model)
            total = total + kl + dispersion
        else:
            total = total + gaussian_kl(mu, logvar)
    return total


def _weights(baseline: BaselineConfig, weight: float, w: float) -> dict[str, float]:
    """What the terms are multiplied by: ``weight``, and the annealing ``w``."""
    if baseline.kind in WITHOUT_ELBO:
        return WITHOUT_ELBO[baseline.kind](w)
    weights = {"average_kl": weight, "kl": w * weight, "information": w * weight}
    if baseline.mixture:
        weights["dispersion"] = w * weight * baseline.beta
    if baseline.information:
        del weights["information"]
    return weights


def baseline_terms(
    nll_B: Tensor, posterior: CodePosterior, model: Baseline, config: BackboneConfig, update: int
) -> Terms:
    """The loss of one batch and its parts.

    Args:
        nll_B: -log p(x|c, z) per row, c relaxed while training.
        posterior: the encoder's distributions of the batch.
        model: whose mixture and section count.
        config: weight and warm-up of the KL.
        update: updates done.
    """
    reconstruction = nll_B.mean()
    parts = rate_terms(posterior, model)
    weights = _weights(model.baseline, config.kl_weight, annealed_weight(update, config.kl_warmup))
    total = reconstruction
    for name, value in parts.items():
        if weights.get(name):
            total = total + weights[name] * value
    kept = {name: value.detach() for name, value in parts.items()}
    return Terms(total, {"reconstruction": reconstruction.detach(), **kept})
