"""Telling images of other kinds from those of the training, by energies.

Cui and Han (2024), section 5.2; docs/method.md, section 5.8.

An image's score is the sum of F_g over the top m groups; a familiar image scores high.
Schemes:

    inference   F_g at t = 0 of a posterior draw
    density     the same with the reference: the log density of these groups, up to a constant
    diffusion   the top groups of the draw are noised to t = 1, the others come from the prior
                there, and the chain of t = 0 that goes on from both is scored
    likelihood  the evidence lower bound of the backbone with its Gaussian prior, without energies

Scheme and number of groups are chosen on validation rows, for all data sets together, and reported
on test rows; every AUROC is the mean over several draws of all noise.

Shapes: B batch, D latents, G groups, M numbers of top groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.evaluate.image_rows import rows_at_once, to_unit
from ldebm.priors import EnergyPrior
from ldebm.priors.group_energy_net import GroupEnergies
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.modalities.images import ImageModel

__all__ = [
    "LIKELIHOOD",
    "Detection",
    "auroc",
    "detect",
    "score_images",
    "states_at_one",
    "top_counts",
]

LIKELIHOOD = "likelihood"
MOST_COUNTS = 6  # numbers of groups that are tried: each has chains of its own

Scores = dict[tuple[str, int], np.ndarray]
"""(scheme, number of top groups) to the scores of all rows."""


def top_counts(groups: int, most: int = MOST_COUNTS) -> list[int]:
    """Numbers of top groups to score, from 1 to all, denser at the top.

    Example:
        >>> top_counts(3), top_counts(30)
        ([1, 2, 3], [1, 2, 4, 8, 15, 30])
    """
    if groups <= most:
        return list(range(1, groups + 1))
    ratios = np.linspace(0, 1, most)
    return sorted({round(float(groups**ratio)) for ratio in ratios})


def auroc(familiar: np.ndarray, other: np.ndarray) -> float:
    """Probability that a familiar row scores above another one, ties counting a half.

    Example:
        >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 3.0]))
        0.625
    """
    scores = np.concatenate([familiar, other])
    is_familiar = np.arange(len(scores)) < len(familiar)
    return float(roc_auc_score(is_familiar, np.nan_to_num(scores, nan=-1e30, neginf=-1e30)))


@torch.no_grad()
def score_images(
    model: ImageModel,
    images_NCHW: np.ndarray,
    seed: int,
    *path: int | str,
    of_prior_ND: Tensor | None = None,
) -> Scores:
    """Scores of images with one draw of all noise.

    Args:
        model: hierarchical.
        images_NCHW: uint8.
        seed: of the noise.
        path: which of its streams.
        of_prior_ND: states of the prior at t = 1, for the scheme of diffusion; None: without it.
    """
    stream = generator(seed, "ood", *path, device=model.device)
    prior, backbone = model.prior, model.backbone
    scores: dict[tuple[str, int], list[Tensor]] = {}
    size = rows_at_once(prior.latent)
    for start in range(0, len(images_NCHW), size):
        x_BCHW = to_unit(images_NCHW[start : start + size], model.device)
        noise = torch.randn(len(x_BCHW), prior.latent, generator=stream, device=model.device)
        drawn, nll_B = backbone.draw_and_nll(x_BCHW, noise)
        parts = {(LIKELIHOOD, len(backbone.groups)): -(nll_B + drawn.kl_BG.sum(1))}
        if prior.energies is not None:
            at_one = None if of_prior_ND is None else of_prior_ND[start : start + size]
            parts |= _energy_scores(prior.energies, backbone, drawn.u_BD, at_one, stream)
        for key, value in parts.items():
            scores.setdefault(key, []).append(value)
    return {key: torch.cat(parts).double().cpu().numpy() for key, parts in scores.items()}


def _energy_scores(
    prior: EnergyPrior,
    backbone: HierarchicalBackbone,
    u_BD: Tensor,
    of_prior_BD: Tensor | None,
    stream: torch.Generator,
) -> dict[tuple[str, int], Tensor]:
    assert isinstance(prior.net, GroupEnergies)
    frozen, sizes = prior.net.freeze(), [group.size for group in backbone.groups]
    u0 = prior.level_zero(prior.to_standard(u_BD), stream)
    v0 = prior.scale_zero() * u0
    energy_BG = frozen.group_energies(v0, 0)
    reference_BG = torch.stack(
        [-0.5 * part.square().sum(1) for part in torch.split(u0, sizes, dim=1)], 1
    )
    counts = top_counts(len(sizes))
    scores: dict[tuple[str, int], Tensor] = {}
    for name, value_BG in (("inference", energy_BG), ("density", energy_BG + reference_BG)):
        sums = value_BG.cumsum(1)
        scores |= {(name, count): sums[:, count - 1] for count in counts}
    if of_prior_BD is not None:
        signal = float(prior.schedule.abar[1] / prior.schedule.abar[0])
        noise = torch.randn(u0.shape, generator=stream, device=u0.device)
        of_image = signal * u0 + (1 - signal**2) ** 0.5 * noise
        zero_B = torch.zeros(len(u0), dtype=torch.long, device=u0.device)
        for count in counts:
            top = sum(sizes[:count])
            mixed = torch.cat([of_image[:, :top], of_prior_BD[:, top:]], 1)
            v = prior.chain(mixed, zero_B, stream, frozen).x_BD
            scores["diffusion", count] = frozen.group_energies(v, 0)[:, :count].sum(1)
    return scores


@torch.no_grad()
def states_at_one(model: ImageModel, n: int, seed: int, *path: int | str) -> Tensor | None:
    """n standardised states of the prior at t = 1, (n, D); None where it has no such level."""
    if model.prior.levels < 2:
        return None
    stream = generator(seed, "ood-prior", *path, device=model.device)
    size = rows_at_once(model.prior.latent)
    parts = [
        model.prior.sample_levels(min(size, n - start), stream)[1] for start in range(0, n, size)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Detection:
    """What scores of test images are worth.

    Attributes:
        chosen: scheme and number of top groups, by the validation rows; None without energies.
        mean: (data set, scheme, number) to the AUROC, the mean over draws.
        spread: the same to the standard deviation over draws.
    """

    chosen: tuple[str, int] | None
    mean: dict[tuple[str, str, int], float]
    spread: dict[tuple[str, str, int], float]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for metrics.json, means over the data sets and each of them."""
        metrics: dict[str, float] = {}
        names = list(dict.fromkeys(name for name, _, _ in self.mean))
        schemes = {"ood_auroc": self.chosen} if self.chosen else {}
        whole = {key[1:] for key in self.mean if key[1] == LIKELIHOOD}
        for metric, key in (*schemes.items(), *(("ood_auroc_likelihood", key) for key in whole)):
            values = {name: self.mean[name, *key] for name in names}
            metrics[metric] = sum(values.values()) / len(values)
            metrics |= {f"{metric}_{name}": value for name, value in values.items()}
        return metrics

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The rows of ood.csv."""
        header = ["data", "scheme", "groups", "auroc", "spread", "chosen"]
        rows = [
            [*key, round(self.mean[key], 4), round(self.spread[key], 4), key[1:] == self.chosen]
            for key in sorted(self.mean)
        ]
        return header, rows


def detect(
    model: ImageModel,
    familiar: Mapping[str, np.ndarray],
    others: Mapping[str, Mapping[str, np.ndarray]],
    draws: int = 5,
) -> Detection:
    """AUROC of every scheme on every other data set.

    Args:
        model: trained on the familiar data.
        familiar: images of its splits ``valid`` and ``test``, uint8 (n, C, H, W).
        others: name to images of the same splits.
        draws: of all noise, for the test rows; validation has one.
    """
    seed = model.seed
    choice = _all_aurocs(model, familiar["valid"], _of(others, "valid"), seed, "valid", [0])
    test = _all_aurocs(model, familiar["test"], _of(others, "test"), seed, "test", range(draws))
    by_score: dict[tuple[str, int], float] = {}
    for (_, scheme, count), values in choice.items():
        if scheme != LIKELIHOOD:
            by_score[scheme, count] = by_score.get((scheme, count), 0.0) + values[0]
    chosen = max(by_score, key=lambda key: by_score[key]) if by_score else None
    mean = {key: float(np.mean(values)) for key, values in test.items()}
    return Detection(chosen, mean, {key: float(np.std(values)) for key, values in test.items()})


def _of(others: Mapping[str, Mapping[str, np.ndarray]], split: str) -> dict[str, np.ndarray]:
    return {name: images[split] for name, images in others.items()}


def _all_aurocs(
    model: ImageModel,
    familiar: np.ndarray,
    others: Mapping[str, np.ndarray],
    seed: int,
    split: str,
    draws: Sequence[int],
) -> dict[tuple[str, str, int], list[float]]:
    """(data set, scheme, number of groups) to the AUROC of every draw."""
    aurocs: dict[tuple[str, str, int], list[float]] = {}
    most = max(len(familiar), *(len(images) for images in others.values()))
    for draw in draws:
        below = states_at_one(model, most, seed, split, draw)
        own = score_images(model, familiar, seed, split, draw, "familiar", of_prior_ND=below)
        for name, images in others.items():
            scores = score_images(model, images, seed, split, draw, name, of_prior_ND=below)
            for key, value in scores.items():
                aurocs.setdefault((name, *key), []).append(auroc(own[key], value))
    return aurocs
