"""Loss terms of the first stage, and what the terms of both stages are made of.

Named as in the papers; docs/method.md, sections 4.1, 4.2 and 4.5.

Each function returns :class:`Terms`: the total that is minimised and its parts, so that curves
need no second computation. All values are means over the batch, in nats.

Shapes: B batch, D latent dimension, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldebm.config import BackboneConfig

__all__ = [
    "Terms",
    "backbone_terms",
    "batch_information",
    "gaussian_kl",
    "masked_entropy",
    "sample_posterior",
]

MI_EPSILON = 1e-15  # in the logarithm of the mean, as in the public code


@dataclass(frozen=True)
class Terms:
    """What is minimised, and its named parts (scalars; parts detached).

    Attributes:
        total: the loss.
        parts: what it is made of.
        row_weight: this process's share of a data-parallel batch over an equal share.
    """

    total: Tensor
    parts: dict[str, Tensor]
    row_weight: float = 1.0


def gaussian_kl(mu_BD: Tensor, logvar_BD: Tensor) -> Tensor:
    """KL(N(mu, diag exp(logvar)) || N(0, I)) per row, shape (B,).

    Example:
        >>> float(gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2)))
        1.0
    """
    return 0.5 * (mu_BD.square() + logvar_BD.exp() - 1 - logvar_BD).sum(-1)


def masked_entropy(logvar_BD: Tensor, threshold: float | None) -> Tensor:
    """Minus the posterior entropy up to a constant, shape (B,), of dimensions above ``threshold``.

    Of the public code (docs/method.md, section 4.5): e = -(1 + l)/2 counts only where
    e > threshold (``None``: everywhere).
    """
    e = -0.5 * (1 + logvar_BD)
    if threshold is None:
        return e.sum(-1)
    return (e * (e > threshold)).sum(-1)


def batch_information(logits_BK: Tensor) -> Tensor:
    """I(z; y) estimated on the batch, H(mean p(y|z)) - mean H(p(y|z)).

    Pang and Wu (2021), eq. 21; Yu et al. (2022), eq. A10; docs/method.md, section 4.2. With leading
    axes, of several runs, as many estimates.
    """
    log_p = torch.log_softmax(logits_BK, -1)
    p = log_p.exp()
    mean_log_p = torch.log(p.mean(-2) + MI_EPSILON)
    # H(y) and H(y|z) of Pang and Wu (2021), eq. 21
    marginal_entropy = -(mean_log_p.exp() * mean_log_p).sum(-1)
    conditional_entropy = -(p * log_p).sum(-1).mean(-1)
    return marginal_entropy - conditional_entropy


def sample_posterior(mu_BD: Tensor, logvar_BD: Tensor, noise_BD: Tensor) -> Tensor:
    """z = mu + exp(l/2) e."""
    return mu_BD + (0.5 * logvar_BD).exp() * noise_BD


def backbone_terms(
    nll_B: Tensor, mu_BD: Tensor, logvar_BD: Tensor, config: BackboneConfig, update: int
) -> Terms:
    """First stage: reconstruction + weight * max(mean KL, floor), or the masked entropy term.

    Args:
        nll_B: -log p(x|z) per row.
        mu_BD: posterior means.
        logvar_BD: posterior log-variances.
        config: weight, floor, warm-up and which rate term.
        update: number of updates done, for the warm-up.
    """
    reconstruction = nll_B.mean()
    kl = gaussian_kl(mu_BD, logvar_BD).mean()
    if config.objective == "kl":
        rate = kl.clamp(min=config.kl_floor)
    else:
        rate = masked_entropy(logvar_BD, config.entropy_mask).mean()
    weight = config.kl_weight * min(1.0, (update + 1) / max(config.kl_warmup, 1))
    # minus Pang and Wu (2021), eq. 10, with N(0, I) for the prior
    total = reconstruction + weight * rate
    return Terms(total, {"reconstruction": reconstruction.detach(), "kl": kl.detach()})
