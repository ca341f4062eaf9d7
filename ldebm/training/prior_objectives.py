"""Loss terms of the second stage: contrastive, class and information terms (MR 2.6, 2.7).

``prior_terms`` trains the energies on a frozen encoder, ``joint_terms`` everything together,
``score_matching_terms`` and ``noised_score_terms`` warm the energies up.

Shapes: B batch, D latent dimension, K classes, R rows of all levels together.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ldebm.config import PriorConfig
from ldebm.langevin import Chain
from ldebm.nn.energy import value_given
from ldebm.priors import DiffusionPrior, EnergyPrior, Pairs
from ldebm.training.objectives import Terms, gaussian_kl, masked_entropy, mutual_information

__all__ = [
    "joint_terms",
    "noised_score_terms",
    "prior_terms",
    "score_matching_terms",
    "with_labelled",
]


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
    config = prior.config
    pairs = prior.pairs(u0_BD, generator)
    own_B = label_B if prior.trains_classes else None
    with torch.no_grad():
        frozen = prior.folded_for(own_B)
    if start_BD is None and config.sampler.training_start == "data":
        start_BD = pairs.v_BD
    chain = prior.chain(pairs.u_next_BD, pairs.t_B, generator, frozen, start_BD)
    rows = len(pairs.t_B)
    asked, asked_t = prior.class_rows(pairs, u0_BD, unlabelled=label_B is None)
    logits = prior.net(
        torch.cat([pairs.v_BD, chain.x_BD, *asked]), torch.cat([pairs.t_B, pairs.t_B, *asked_t])
    )
    energy = _energy(logits[: 2 * rows], None if own_B is None else torch.cat([own_B, own_B]))
    gap_B = energy[rows:] - energy[:rows]
    contrastive = _batch_mean(pairs.weight_B * gap_B, len(u0_BD))
    known = logits[2 * rows :] if asked else logits[:rows]
    information, classes = _class_terms(known, label_B)
    total = contrastive - config.mi_weight * information + config.class_weight * classes
    parts = _energy_parts(contrastive, information, classes, energy, chain)
    return Terms(total, parts), chain, pairs


def _energy(logits_BK: Tensor, own_B: Tensor | None) -> Tensor:
    """F, or f_y of the rows of class y where ``own_B`` has them, shape (B,)."""
    return torch.logsumexp(logits_BK, -1) if own_B is None else value_given(logits_BK, own_B)


def _energy_parts(
    contrastive: Tensor, information: Tensor, classes: Tensor, energy: Tensor, chain: Chain
) -> dict[str, Tensor]:
    """The named parts that both schemes report."""
    return {
        "contrastive": contrastive.detach(),
        "mutual_information": information.detach(),
        "class": classes.detach(),
        "energy_size": energy.detach().abs().max(),
        "acceptance": chain.acceptance_B.mean(),
    }


def _batch_mean(value_R: Tensor, rows: int) -> Tensor:
    """Sum over the rows of one batch over its size (published: t and T-1 both count)."""
    return value_R.sum() / rows


def _class_terms(logits_BK: Tensor, label_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mutual information and the cross-entropy of the labelled rows."""
    information = mutual_information(logits_BK)
    if label_B is None:
        return information, torch.zeros_like(information)
    labelled = label_B >= 0
    safe = label_B.clamp(min=0)
    losses = functional.cross_entropy(logits_BK, safe, reduction="none") * labelled
    return information, losses.sum() / labelled.sum().clamp(min=1)


def with_labelled(
    prior: EnergyPrior,
    terms: Terms,
    u_BD: Tensor,
    label_B: Tensor,
    generator: torch.Generator,
) -> Terms:
    """``terms`` with the cross-entropy of labelled rows of their own (MR 3.6) for their class term.

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
) -> tuple[Terms, Chain, Pairs]:
    """All parameters together: nll + lambda_1 (rate - F(v+)) + contrastive - MI + CE (MR 2.6).

    One forward pass of the energy network serves the encoder's prior term and the contrastive term:
    the gradient that reaches the latent through v+ is scaled by what the encoder's term weighs
    more. With ``log_normaliser`` the gradient of -log Z_t(u_{t+1}), which the published code omits,
    is added by the surrogate <m_t(u_{t+1}), [(v- - m_t) / s_t^2]_sg> (MR 2.7).

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
    """
    config = prior.config
    kl = gaussian_kl(mu_BD, logvar_BD).mean()
    if float(kl.detach()) < kl_floor:
        rate_factor = 0.0
    u0 = prior.level_zero(z_BD, generator)
    pairs = prior.pairs(u0, generator)
    with torch.no_grad():
        frozen = prior.net.fold()
    chain = prior.chain(pairs.u_next_BD.detach(), pairs.t_B, generator, frozen)
    published = config.t_sampling == "published"
    pull = config.kl_weight * rate_factor
    # Uniform t estimates the sum over all T levels only when multiplied by T.
    encoder_factor = pull * (1.0 if published else prior.levels)
    prior_factor = config.kl_weight if published else 1.0
    temperature_B = prior.temperature_T(of_sampler=False)[pairs.t_B]
    v_plus = _scale_gradient(pairs.v_BD, encoder_factor / max(prior_factor, 1e-12))
    rows = len(pairs.t_B)
    zero_B = torch.zeros(len(z_BD), dtype=torch.long, device=z_BD.device)
    logits = prior.net(
        torch.cat([v_plus, chain.x_BD, prior.scale_zero() * u0]),
        torch.cat([pairs.t_B, pairs.t_B, zero_B]),
    )
    energy = torch.logsumexp(logits[: 2 * rows], -1)
    gap_B = (energy[rows:] - energy[:rows]) / temperature_B
    contrastive = _batch_mean(pairs.weight_B * gap_B, len(z_BD))
    information, classes = _class_terms(logits[2 * rows :], label_B)
    reconstruction = nll_B.mean()
    rate = _rate(prior, mu_BD, logvar_BD, pairs, entropy_mask)
    total = reconstruction + pull * rate + prior_factor * contrastive
    if config.log_normaliser:
        total = total + encoder_factor * _log_normaliser_surrogate(prior, pairs, chain)
    total = total - config.mi_weight * information + config.class_weight * classes
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
    if prior.config.base or not isinstance(prior, DiffusionPrior):
        return gaussian_kl(mu_BD, logvar_BD).mean()
    rate = masked_entropy(logvar_BD, mask).mean()
    top = pairs.t_B == prior.levels - 1
    variance = prior.kernel_tables()[1][-1]
    norm_B = 0.5 * pairs.v_BD.square().sum(-1) / variance * top * pairs.weight_B
    if prior.config.t_sampling == "published":
        return rate + _batch_mean(norm_B, len(mu_BD))
    return rate + prior.levels * _batch_mean(norm_B, len(mu_BD))


def _log_normaliser_surrogate(prior: EnergyPrior, pairs: Pairs, chain: Chain) -> Tensor:
    mean, variance = prior.base_kernel(pairs.u_next_BD, pairs.t_B)
    direction = ((chain.x_BD - mean) / variance).detach()
    return _batch_mean(pairs.weight_B * (mean * direction).sum(-1), len(mean))


def score_matching_terms(
    prior: DiffusionPrior,
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
    config, schedule = prior.config, prior.schedule
    shape, device = mu_BD.shape, mu_BD.device
    scale_D = prior.scale_DD.diagonal()
    mean = (mu_BD - prior.shift_D) / scale_D
    variance = logvar_BD.exp() / scale_D.square()
    t_B = torch.randint(0, prior.levels, (shape[0],), generator=generator, device=device)
    abar = torch.as_tensor(schedule.abar[:-1], dtype=mean.dtype, device=device)[t_B].unsqueeze(-1)
    c = torch.as_tensor(schedule.scale[1:], dtype=mean.dtype, device=device)[t_B].unsqueeze(-1)
    mean_v = c * abar * mean
    variance_v = c.square() * (abar.square() * variance + 1 - abar.square())
    noise = torch.randn(shape, generator=generator, device=device)
    v = mean_v + variance_v.sqrt() * noise
    folded = prior.net.fold()
    value, gradient = folded.value_and_gradient(v, t_B)
    score = -noise / variance_v.sqrt()
    top = (t_B == prior.levels - 1).unsqueeze(-1)
    if config.base:
        wanted = score + torch.where(top, v, v / c.square())
    else:
        wanted = score + torch.where(top, v / prior.kernel_tables()[1][-1], torch.zeros_like(v))
    matching = (0.5 * variance_v * (gradient - wanted).square()).sum(-1).mean()
    u0 = mean + variance.sqrt() * torch.randn(shape, generator=generator, device=device)
    zero_B = torch.zeros_like(t_B)
    logits = folded.logits(prior.scale_zero() * prior.level_zero(u0, generator), zero_B)
    return _matching_terms(config, matching, value, logits, label_B)


def noised_score_terms(
    prior: DiffusionPrior,
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
    value = _energy(logits, label_B if prior.trains_classes else None)
    (gradient,) = torch.autograd.grad(value.sum(), v, create_graph=True)
    top = (t_B == prior.levels - 1).unsqueeze(-1)
    flat = torch.zeros_like(scale)
    variance = prior.kernel_tables()[1][-1]
    away = torch.where(top, 1 / variance, 1 / scale.square() if config.base else flat)
    wanted = away * v.detach() - noise / spread
    matching = (0.5 * spread.square() * (gradient - wanted).square()).sum(-1).mean()
    if prior.labels_at_zero:
        u0 = prior.level_zero(u_BD, generator)
        logits = prior.net(prior.scale_zero() * u0, torch.zeros_like(t_B))
    return _matching_terms(config, matching, value, logits, label_B)


def _matching_terms(
    config: PriorConfig,
    matching: Tensor,
    value_B: Tensor,
    logits_BK: Tensor,
    label_B: Tensor | None,
) -> Terms:
    """Score matching with the class and information terms of ``logits_BK``."""
    information, classes = _class_terms(logits_BK, label_B)
    total = matching - config.mi_weight * information + config.class_weight * classes
    parts = {
        "contrastive": matching.detach(),
        "mutual_information": information.detach(),
        "class": classes.detach(),
        "energy_size": value_B.detach().abs().max(),
        "acceptance": torch.ones_like(matching),
    }
    return Terms(total, parts)
