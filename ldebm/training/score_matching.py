"""Warm start of a diffusion prior: denoising score matching (Vincent 2011), with the class terms.

Shapes: B batch, D latent dimension, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldebm.draws import Stream, integers, normal
from ldebm.priors import EnergyPrior
from ldebm.training.objectives import Terms
from ldebm.training.prior_objectives import Weights, class_terms, energy_of

__all__ = [
    "Matching",
    "matching_rows",
    "matching_terms",
    "noised_score_terms",
    "score_matching_terms",
    "standardised",
]


@dataclass(frozen=True)
class Matching:
    """Score matching on a batch, before its mean is taken.

    Attributes:
        loss_B: of every row.
        value_B: F there.
        logits_BK: of the level-0 variables, for the classes.
    """

    loss_B: Tensor
    value_B: Tensor
    logits_BK: Tensor


def score_matching_terms(
    prior: EnergyPrior,
    mu_BD: Tensor,
    logvar_BD: Tensor,
    label_B: Tensor | None,
    generator: torch.Generator,
) -> Terms:
    """Warm start: denoising score matching with the posterior itself as part of the noise.

    At the optimum F + base is the log-density of v_t (Vincent 2011), whose score given x is closed:
    v_t | x is Gaussian. Needs a standardisation without rotation, so that its variance is diagonal.

    Args:
        prior: the energies.
        mu_BD: posterior means in the backbone's coordinates.
        logvar_BD: posterior log-variances there.
        label_B: classes, for the class term.
        generator: source of all noise.
    """
    rows = matching_rows(prior, *standardised(prior, mu_BD, logvar_BD), generator)
    return matching_terms(Weights.of(prior.config), rows, label_B)


def standardised(prior: EnergyPrior, mu_BD: Tensor, logvar_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the posterior in the prior's coordinates, (B, D) each."""
    scale_D = prior.scale_DD.diagonal()
    return (mu_BD - prior.shift_D) / scale_D, logvar_BD.exp() / scale_D.square()


def matching_rows(
    prior: EnergyPrior, mean: Tensor, variance: Tensor, generator: Stream
) -> Matching:
    """The rows of :func:`score_matching_terms`.

    Args:
        prior: the energies.
        mean: of the posterior in the prior's coordinates, (B, D).
        variance: of it.
        generator: source of all noise.
    """
    config, schedule = prior.config, prior.schedule
    shape, device = (mean.shape[0], mean.shape[1]), mean.device
    t_B = integers(prior.levels, shape[0], generator, device)
    abar = torch.as_tensor(schedule.abar[:-1], dtype=mean.dtype, device=device)[t_B].unsqueeze(-1)
    c = torch.as_tensor(schedule.scale[1:], dtype=mean.dtype, device=device)[t_B].unsqueeze(-1)
    mean_v = c * abar * mean
    variance_v = c.square() * (abar.square() * variance + 1 - abar.square())
    noise = normal(shape, generator, device)
    v = mean_v + variance_v.sqrt() * noise
    frozen = prior.net.freeze()
    value, gradient = frozen.value_and_gradient(v, t_B)
    # what F has to add to the kernels' score: docs/method.md, section 4.4
    score = -noise / variance_v.sqrt()
    top = (t_B == prior.levels - 1).unsqueeze(-1)
    if config.base:
        wanted = score + torch.where(top, v, v / c.square())
    else:
        wanted = score + torch.where(top, v / prior.kernel_tables()[1][-1], torch.zeros_like(v))
    loss_B = (0.5 * variance_v * (gradient - wanted).square()).sum(-1)
    u0 = mean + variance.sqrt() * normal(shape, generator, device)
    zero_B = torch.zeros_like(t_B)
    logits = frozen.logits(prior.scale_zero() * prior.level_zero(u0, generator), zero_B)
    return Matching(loss_B, value, logits)


def noised_score_terms(
    prior: EnergyPrior,
    u_BD: Tensor,
    label_B: Tensor | None,
    noise_zero: float,
    generator: torch.Generator,
) -> Terms:
    """Warm start where q has no closed form at the noisier levels: denoising score matching.

    Like :func:`score_matching_terms` with draws of q in place of its densities. At level 0 the
    noise is tiny and its score nearly all noise: that level learns the density of draws with noise
    ``noise_zero``, and what is finer from the contrastive updates that follow.

    Args:
        prior: the energies.
        u_BD: standardised draws of the aggregate posterior.
        label_B: classes, for the class term.
        noise_zero: standard deviation of the noise of level 0.
        generator: source of all noise.
    """
    config, schedule = prior.config, prior.schedule
    rows, device = len(u_BD), u_BD.device
    t_B = torch.randint(0, prior.levels, (rows,), generator=generator, device=device)

    def table(values: object) -> Tensor:
        return torch.as_tensor(values, dtype=u_BD.dtype, device=device)[t_B].unsqueeze(-1)

    sbar = schedule.sbar[:-1].copy()
    sbar[0] = noise_zero
    scale = table(schedule.scale[1:])
    spread = scale * table(sbar)
    noise = torch.randn(u_BD.shape, generator=generator, device=device)
    v = scale * table(schedule.abar[:-1]) * u_BD + spread * noise
    v.requires_grad_()
    logits = prior.net(v, t_B)
    value = energy_of(logits, label_B if prior.trains_classes else None)
    (gradient,) = torch.autograd.grad(value.sum(), v, create_graph=True)
    top = (t_B == prior.levels - 1).unsqueeze(-1)
    flat = torch.zeros_like(scale)
    variance = prior.kernel_tables()[1][-1]
    precision = torch.where(top, 1 / variance, 1 / scale.square() if config.base else flat)
    wanted = precision * v.detach() - noise / spread
    loss_B = (0.5 * spread.square() * (gradient - wanted).square()).sum(-1)
    if prior.labels_at_zero:
        u0 = prior.level_zero(u_BD, generator)
        logits = prior.net(prior.scale_zero() * u0, torch.zeros_like(t_B))
    return matching_terms(Weights.of(config), Matching(loss_B, value, logits), label_B)


def matching_terms(weights: Weights, rows: Matching, label_B: Tensor | None) -> Terms:
    """Score matching with the class and information terms.

    Args:
        weights: of the terms.
        rows: of :func:`matching_rows`; with a leading axis, of several runs, the terms have it too.
        label_B: class of each, -1 for none; ``None`` when there are no labels at all.
    """
    matching = rows.loss_B.mean(-1)
    information, classes = class_terms(rows.logits_BK, label_B)
    total = matching - weights.information * information + weights.classes * classes
    parts = {
        "contrastive": matching.detach(),
        "mutual_information": information.detach(),
        "class": classes.detach(),
        "energy_size": rows.value_B.detach().abs().amax(-1),
        "acceptance": torch.ones_like(matching),
    }
    return Terms(total, parts)
