"""Loss terms of the second stage: contrastive, class and information terms.

docs/method.md, sections 4.2 to 4.6.

``prior_terms`` trains the energies on a frozen encoder, ``joint_terms`` everything together;
:mod:`ldebm.training.score_matching` warms the energies up.

Shapes: B batch, D latent dimension, K classes, R rows of all levels together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ldebm.config import PriorConfig
from ldebm.draws import Stream
from ldebm.priors import EnergyPrior, Pairs
from ldebm.priors.energy_net import value_of_class
from ldebm.priors.langevin import Chain
from ldebm.training.objectives import Terms, batch_information, gaussian_kl, masked_entropy

__all__ = [
    "Contrast",
    "Weights",
    "class_terms",
    "contrast_rows",
    "contrast_terms",
    "energy_of",
    "joint_terms",
    "prior_terms",
    "with_labelled",
]


@dataclass(frozen=True)
class Weights:
    """lambda_2 and lambda_3: numbers, or of several runs one each, (M,)."""

    information: float | Tensor
    classes: float | Tensor

    @classmethod
    def of(cls, config: PriorConfig) -> Weights:
        """Those of one run."""
        return cls(config.mi_weight, config.class_weight)


@dataclass(frozen=True)
class Contrast:
    """Positive and negative examples of a batch, before their means are taken.

    Attributes:
        pairs: positive examples, R rows.
        chain: negative ones.
        logits_NK: of the network at the positive, then the negative examples, then where else the
            classes are asked, if anywhere.
    """

    pairs: Pairs
    chain: Chain
    logits_NK: Tensor


def prior_terms(
    prior: EnergyPrior,
    u0_BD: Tensor,
    label_B: Tensor | None,
    generator: torch.Generator,
    start_BD: Tensor | None = None,
) -> tuple[Terms, Chain, Pairs]:
    """Second stage on a frozen encoder: contrastive + class + information terms.

    Args:
        prior: the energies.
        u0_BD: standardised level-0 latents, without gradient.
        label_B: class of each row, -1 for none; ``None`` when there are no labels at all.
        generator: source of all noise.
        start_BD: chain states to continue (persistent chains).

    Returns:
        The terms (total = contrastive - lambda_2 MI + lambda_3 CE), the negative chains and the
        positive pairs.
    """
    class_B = label_B if prior.trains_classes else None
    contrast = contrast_rows(
        prior, u0_BD, generator, class_B, unlabelled=label_B is None, start_BD=start_BD
    )
    terms = contrast_terms(Weights.of(prior.config), contrast, len(u0_BD), label_B, class_B)
    return terms, contrast.chain, contrast.pairs


def contrast_rows(
    prior: EnergyPrior,
    u0_BD: Tensor,
    generator: Stream,
    class_B: Tensor | None = None,
    *,
    unlabelled: bool,
    start_BD: Tensor | None = None,
) -> Contrast:
    """The examples of :func:`prior_terms`, and the network there.

    Args:
        prior: the energies.
        u0_BD: standardised level-0 latents, without gradient.
        generator: source of all noise.
        class_B: class whose density a row trains, or -1.
        unlabelled: there are no labels at all.
        start_BD: chain states to continue.
    """
    config = prior.config
    pairs = prior.pairs(u0_BD, generator)
    with torch.no_grad():
        frozen = prior.frozen_for(class_B)
    if start_BD is None and config.sampler.training_start == "data":
        start_BD = pairs.v_BD
    chain = prior.chain(pairs.u_next_BD, pairs.t_B, generator, frozen, start_BD)
    asked, asked_t = prior.class_rows(pairs, u0_BD, unlabelled=unlabelled)
    logits = prior.net(
        prior.joined([pairs.v_BD, chain.x_BD, *asked]),
        prior.joined([pairs.t_B, pairs.t_B, *asked_t]),
    )
    return Contrast(pairs, chain, logits)


def contrast_terms(
    weights: Weights, contrast: Contrast, batch: int, label_B: Tensor | None, class_B: Tensor | None
) -> Terms:
    """The terms of :func:`prior_terms`: contrastive - lambda_2 MI + lambda_3 CE.

    Args:
        weights: of the terms.
        contrast: the examples; with a leading axis, of several runs, the terms have it too.
        batch: rows of the batch that they were made of.
        label_B: class of each of those, -1 for none; ``None`` when there are no labels at all.
        class_B: class whose density a row trains, or -1.
    """
    rows, logits = contrast.pairs.weight_B.shape[-1], contrast.logits_NK
    own = None if class_B is None else torch.cat([class_B, class_B])
    energy = energy_of(logits[..., : 2 * rows, :], own)
    # F(v-) - F(v+), whose gradient is minus Yu et al. (2022), eq. A19 (Pang and Wu (2021), eq. 11;
    # Cui and Han (2024), eq. 12)
    gap_B = energy[..., rows:] - energy[..., :rows]
    contrastive = _batch_mean(contrast.pairs.weight_B * gap_B, batch)
    asked = logits.shape[-2] > 2 * rows
    known = logits[..., 2 * rows :, :] if asked else logits[..., :rows, :]
    information, classes = class_terms(known, label_B)
    # - lambda_2 I(z; y): Pang and Wu (2021), eq. 17; Yu et al. (2022), eq. 9
    total = contrastive - weights.information * information + weights.classes * classes
    parts = _energy_parts(contrastive, information, classes, energy, contrast.chain)
    return Terms(total, parts)


def energy_of(logits_BK: Tensor, class_B: Tensor | None) -> Tensor:
    """F, or f_y of the rows of class y where ``class_B`` has them, shape (B,)."""
    return torch.logsumexp(logits_BK, -1) if class_B is None else value_of_class(logits_BK, class_B)


def _energy_parts(
    contrastive: Tensor, information: Tensor, classes: Tensor, energy: Tensor, chain: Chain
) -> dict[str, Tensor]:
    """The named parts that both schemes report."""
    return {
        "contrastive": contrastive.detach(),
        "mutual_information": information.detach(),
        "class": classes.detach(),
        "energy_size": energy.detach().abs().amax(-1),
        "acceptance": chain.acceptance_B.mean(-1),
    }


def _batch_mean(value_R: Tensor, rows: int) -> Tensor:
    """Sum over the rows of one batch over its size (published: t and T-1 both count)."""
    return value_R.sum(-1) / rows


def class_terms(logits_BK: Tensor, label_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mutual information and the cross-entropy of the labelled rows.

    Pang and Wu (2021), eq. 21 and algorithm 1, step 6; Cui and Han (2024), eq. 20.
    """
    information = batch_information(logits_BK)
    if label_B is None:
        return information, torch.zeros_like(information)
    labelled = label_B >= 0
    safe = label_B.clamp(min=0)
    rows = logits_BK.flatten(0, -2), safe.flatten()
    losses = functional.cross_entropy(*rows, reduction="none").view_as(safe) * labelled
    return information, losses.sum(-1) / labelled.sum(-1).clamp(min=1)


def with_labelled(
    prior: EnergyPrior,
    terms: Terms,
    u_BD: Tensor,
    label_B: Tensor,
    generator: torch.Generator,
) -> Terms:
    """``terms`` with the cross-entropy of labelled rows of their own for their class term.

    docs/method.md, section 4.8.

    Args:
        prior: the energies.
        terms: of the other rows, without labels.
        u_BD: standardised latents of the labelled rows.
        label_B: their classes.
        generator: of the level-0 noise.
    """
    v_BD = prior.scale_zero() * prior.level_zero(u_BD, generator)
    logits: Tensor = prior.net(v_BD, torch.zeros_like(label_B))
    classes = functional.cross_entropy(logits, label_B)
    total = terms.total + prior.config.class_weight * classes
    return replace(terms, total=total, parts={**terms.parts, "class": classes.detach()})


def joint_terms(
    prior: EnergyPrior,
    nll_B: Tensor,
    mu_BD: Tensor,
    logvar_BD: Tensor,
    z_BD: Tensor,
    label_B: Tensor | None,
    generator: torch.Generator,
    entropy_mask: float | None,
    rate_factor: float = 1.0,
    kl_floor: float = 0.0,
    cyclical: bool = False,
) -> tuple[Terms, Chain, Pairs]:
    """All parameters together: nll + lambda_1 (rate - F(v+)) + contrastive - MI + CE.

    Minus the bound of Yu et al. (2022), eq. A4 to A6, whose gradients are Yu et al. (2022), eq. A19
    (prior) and eq. A21 (encoder and decoder); docs/method.md, section 4.5.

    One forward pass of the energy network serves the encoder's prior term and the contrastive term:
    the gradient that reaches the latent through v+ is scaled by what the encoder's term weighs
    more. With ``log_normaliser`` the gradient of -log Z_t(u_{t+1}), which the published code omits,
    is added by the surrogate <m_t(u_{t+1}), [(v- - m_t) / s_t^2]_sg> (docs/method.md,
    section 4.6).

    Args:
        prior: the energies, in coordinates without standardisation.
        nll_B: -log p(x|z) per row.
        mu_BD: posterior means.
        logvar_BD: posterior log-variances.
        z_BD: the posterior samples that gave ``nll_B``.
        label_B: class of each row, -1 for none.
        generator: source of all noise.
        entropy_mask: threshold of the published entropy term (without ``base``).
        rate_factor: warm-up factor on everything that pulls on the encoder.
        kl_floor: nats; while the batch's mean KL from N(0, I) is below, the prior does not pull on
            the encoder, as under max(mean KL, floor) of the first stage.
        cyclical: ``rate_factor`` multiplies the contrastive term too, and at 0 there is no
            information term: the cycles of the public code of Pang and Wu (2021).
    """
    config = prior.config
    cycle = rate_factor if cyclical else 1.0
    kl = gaussian_kl(mu_BD, logvar_BD).mean()
    if float(kl.detach()) < kl_floor:
        rate_factor = 0.0
    u0 = prior.level_zero(z_BD, generator)
    pairs = prior.pairs(u0, generator)
    with torch.no_grad():
        frozen = prior.net.freeze()
    chain = prior.chain(pairs.u_next_BD.detach(), pairs.t_B, generator, frozen)
    published = config.t_sampling == "published"
    pull = config.kl_weight * rate_factor
    # Uniform t estimates the sum of Yu et al. (2022), eq. A21, only when multiplied by T.
    encoder_factor = pull * (1.0 if published else prior.levels)
    prior_factor = (config.kl_weight if published else 1.0) * cycle
    temperature_B = prior.temperature_T(of_sampler=False)[pairs.t_B]
    v_plus = _scale_gradient(pairs.v_BD, encoder_factor / max(prior_factor, 1e-12))
    rows = len(pairs.t_B)
    zero_B = torch.zeros(len(z_BD), dtype=torch.long, device=z_BD.device)
    logits = prior.net(
        torch.cat([v_plus, chain.x_BD, prior.scale_zero() * u0]),
        torch.cat([pairs.t_B, pairs.t_B, zero_B]),
    )
    energy = torch.logsumexp(logits[: 2 * rows], -1)
    # by the network's weights: minus Yu et al. (2022), eq. A19; by v+: minus the F of eq. A21
    gap_B = (energy[rows:] - energy[:rows]) / temperature_B
    contrastive = _batch_mean(pairs.weight_B * gap_B, len(z_BD))
    information, classes = class_terms(logits[2 * rows :], label_B)
    reconstruction = nll_B.mean()
    rate = _rate(prior, mu_BD, logvar_BD, pairs, entropy_mask)
    # minus Yu et al. (2022), eq. A6 (Pang and Wu (2021), eq. 12): entropy and kernels are the rate
    total = reconstruction + pull * rate + prior_factor * contrastive
    if config.log_normaliser:
        total = total + encoder_factor * _log_normaliser_surrogate(prior, pairs, chain)
    total = total - config.mi_weight * (cycle > 0) * information + config.class_weight * classes
    parts = {
        "reconstruction": reconstruction.detach(),
        "kl": kl.detach(),
        **_energy_parts(contrastive, information, classes, energy, chain),
    }
    return Terms(total, parts), chain, pairs


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by ``factor``."""
    return factor * x + (1 - factor) * x.detach()


def _rate(
    prior: EnergyPrior, mu_BD: Tensor, logvar_BD: Tensor, pairs: Pairs, mask: float | None
) -> Tensor:
    """Entropy and Gaussian parts of the rate.

    With ``base`` (or one level) the kernels' Gaussian parts telescope to N(0, I): the exact KL.
    As published: the masked entropy and the top level's pull w_{T-1} |z_{T-1}|^2 / 2.
    """
    if prior.config.base or prior.levels == 1:
        return gaussian_kl(mu_BD, logvar_BD).mean()
    rate = masked_entropy(logvar_BD, mask).mean()
    top = pairs.t_B == prior.levels - 1
    variance = prior.kernel_tables()[1][-1]
    norm_B = 0.5 * pairs.v_BD.square().sum(-1) / variance * top * pairs.weight_B
    if prior.config.t_sampling == "published":
        return rate + _batch_mean(norm_B, len(mu_BD))
    return rate + prior.levels * _batch_mean(norm_B, len(mu_BD))


def _log_normaliser_surrogate(prior: EnergyPrior, pairs: Pairs, chain: Chain) -> Tensor:
    # d log Z_t / d m_t = E[(v - m_t) / s_t^2] under p(v_t | u_{t+1}): Yu et al. (2022), eq. A21
    mean, variance = prior.base_kernel(pairs.u_next_BD, pairs.t_B)
    direction = ((chain.x_BD - mean) / variance).detach()
    return _batch_mean(pairs.weight_B * (mean * direction).sum(-1), len(mean))
