"""Changing some groups of latent variables and keeping the others.

Cui and Han (2024), sections 5.2 and 5.3; docs/method.md, sections 3.3 and 5.8.

A group is kept in the prior's standardised coordinates: with ``standardise: full`` that is what it
adds to the groups above it. With diffusion priors the kept groups are noised to every level and the
free ones move given them (as in inpainting by diffusion models); at t = 0 the kept ones are exact,
and the chain's density is the prior's conditional of that level.

Shapes: B batch, D latents, S free latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ldebm.config import HierarchyConfig
from ldebm.evaluate.control import wilson
from ldebm.evaluate.image_classifier import ImageClassifier
from ldebm.evaluate.image_rows import parts
from ldebm.priors import EnergyPrior, Prior
from ldebm.priors.group_energy_net import FrozenGroups, GroupEnergies
from ldebm.priors.langevin import Conditional
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.modalities.images import ImageModel

__all__ = ["Controlled", "by_attributes", "by_class", "of_images", "redraw", "step_by_step"]

ROUNDS = 4  # of draws of the whole prior, before rare classes are drawn by themselves


@torch.no_grad()
def redraw(
    model: ImageModel,
    u_BD: Tensor,
    free: Sequence[int],
    stream: torch.Generator,
    labels: Sequence[int] | None = None,
) -> Tensor:
    """Draws the groups ``free`` anew, given the others.

    Args:
        model: hierarchical.
        u_BD: latents in the backbone's coordinates.
        free: groups to draw, 0 is the top.
        stream: of all noise.
        labels: classes among which the result shall lie; the prior's logits lead there.
    """
    prior, backbone = model.prior, model.backbone
    marks = [torch.full((group.size,), g in free) for g, group in enumerate(backbone.groups)]
    is_free = torch.cat(marks).to(model.device)
    drawn = [
        _redraw_part(prior, u_BD[part], is_free, stream, labels)
        for part in parts(len(u_BD), prior.latent)
    ]
    return torch.cat(drawn)


def _redraw_part(
    prior: Prior,
    u_BD: Tensor,
    is_free: Tensor,
    stream: torch.Generator,
    labels: Sequence[int] | None,
) -> Tensor:
    kept = prior.to_standard(u_BD)
    u = torch.where(is_free, _noise(kept, stream), kept)
    ebm = prior.energies
    if ebm is None:
        return prior.from_standard(u)
    assert isinstance(ebm.net, GroupEnergies)
    kept_T, frozen = _kept_levels(ebm, kept, stream), ebm.net.freeze()
    for t in reversed(range(ebm.levels)):
        t_B = torch.full((len(u),), t, dtype=torch.long, device=u.device)
        scale = float(ebm.schedule.scale[t + 1])
        if ebm.levels == 1:
            u = torch.zeros_like(u)  # conditioned on nothing
        led = labels is not None and (t == 0 or _label_levels(prior) == "all")
        at_level = frozen.among(labels or ()) if led else frozen
        v = _restricted_chain(ebm, u, scale * kept_T[t], is_free, t_B, at_level, stream)
        u = v / scale
    return prior.from_standard(torch.where(is_free, u, kept))


def _noise(like: Tensor, stream: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=stream, device=like.device)


def _kept_levels(prior: EnergyPrior, kept_BD: Tensor, stream: torch.Generator) -> list[Tensor]:
    """The kept latents at every level, by the forward process."""
    levels = [kept_BD]
    for t in range(1, prior.levels):
        t_B = torch.full((len(kept_BD),), t, dtype=torch.long, device=kept_BD.device)
        levels.append(prior.schedule.step(levels[-1], t_B, _noise(kept_BD, stream)))
    return levels


def _label_levels(prior: Prior) -> str:
    return (prior.config.hierarchy or HierarchyConfig()).label_levels


def _restricted_chain(
    prior: EnergyPrior,
    u_next_BD: Tensor,
    kept_BD: Tensor,
    is_free: Tensor,
    t_B: Tensor,
    frozen: FrozenGroups,
    stream: torch.Generator,
) -> Tensor:
    """The prior's chain at one level on the free latents alone; the others stay at ``kept_BD``."""
    start = torch.where(is_free, prior.chain_start(u_next_BD, t_B, stream), kept_BD)
    mean, variance = prior.base_kernel(u_next_BD, t_B)
    inverse_temperature = 1.0 / prior.temperature_T(of_sampler=True)[t_B].unsqueeze(-1)
    step2 = prior.step2_T()[t_B].unsqueeze(-1)

    def whole(x_BS: Tensor) -> Tensor:
        full = start.clone()
        full[:, is_free] = x_BS
        return full

    def evaluate(x_BS: Tensor, level_B: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = frozen.value_and_gradient(whole(x_BS), level_B)
        return value, gradient[:, is_free]

    sampler = prior.config.sampler
    problem = Conditional(
        start[:, is_free], mean[:, is_free], variance, inverse_temperature, step2, t_B
    )
    moves = sampler.moves(prior.levels)[int(t_B[0])]
    return whole(problem.run(sampler.method, evaluate, moves, stream).x_BD)


@dataclass(frozen=True)
class Controlled:
    """Images drawn for classes or attributes, and what the classifier makes of them.

    Attributes:
        metrics: ``control_accuracy`` with its Wilson interval, and the parts of it.
        table: rows (asked for, images, share that the classifier agrees with).
        shown: asked for -> images, uint8 (n, C, H, W).
    """

    metrics: dict[str, float]
    table: list[list[str | int | float]]
    shown: dict[str, np.ndarray]


@torch.no_grad()
def by_class(
    model: ImageModel,
    classifier: ImageClassifier,
    column: str,
    per_label: int,
    mode: str = "sample",
) -> Controlled:
    """Draws images of every class and asks the classifier: pooled counts.

    Args:
        model: whose prior has the classes of ``column``.
        classifier: of the same data set, trained apart from the model.
        column: the label column.
        per_label: images of each class.
        mode: of decoding.
    """
    names = [str(name) for name in model.meta["labels"][column]]
    right = 0
    table: list[list[str | int | float]] = []
    shown: dict[str, np.ndarray] = {}
    drawn = _of_every_class(model, per_label, generator(model.seed, "control", device=model.device))
    for number, (name, u) in enumerate(zip(names, drawn, strict=True)):
        images = np.asarray(model.decode(u, mode, model.seed))
        said = classifier.classify(images).probabilities[column].argmax(1)
        hits = int((said == number).sum())
        right += hits
        table.append([f"{column} {name}", len(images), hits / len(images)])
        shown[f"{column} {name}"] = images
    return Controlled(_rates("control_accuracy", right, per_label * len(names)), table, shown)


def _of_every_class(model: ImageModel, per_label: int, stream: torch.Generator) -> list[Tensor]:
    """Latents of every class of the prior, each (per_label, D).

    Where labels are drawn by rejection, a draw of p(u) with a class of p(y|u) serves whatever class
    that is: all classes cost about as much as one alone. Rare ones are drawn by themselves.
    """
    prior, classes = model.prior, model.prior.classes
    latents: list[list[Tensor]] = [[] for _ in range(classes)]
    section = prior.config.hierarchy or HierarchyConfig()
    for _ in range(ROUNDS if section.label_sampling == "rejection" else 0):
        if min(sum(map(len, kept)) for kept in latents) >= per_label:
            break
        u = prior.sample(classes * per_label, stream)
        logits = torch.cat([prior.class_logits(u[part]) for part in parts(len(u), prior.latent)])
        y = torch.multinomial(torch.softmax(logits, 1), 1, generator=stream)[:, 0]
        for number, kept in enumerate(latents):
            kept.append(u[y == number])
    for number, kept in enumerate(latents):
        missing = per_label - sum(map(len, kept))
        if missing > 0:
            kept.append(prior.sample(missing, stream, number))
    return [torch.cat(kept)[:per_label] for kept in latents]


def _rates(name: str, right: int, total: int) -> dict[str, float]:
    low, high = wilson(right, total)
    return {name: right / total, f"{name}_low": low, f"{name}_high": high}


@torch.no_grad()
def by_attributes(
    model: ImageModel, classifier: ImageClassifier, per_label: int, mode: str = "sample"
) -> Controlled:
    """Draws images for all combinations of attributes, jointly and attribute by attribute.

    An image counts as right where the classifier agrees in every attribute that was asked for
    (``control_accuracy``); ``control_<attribute>`` is the share that agrees in one.
    """
    hierarchy = model.config.prior.hierarchy
    assert hierarchy is not None
    columns = sorted(hierarchy.attributes)
    metrics: dict[str, float] = {}
    table: list[list[str | int | float]] = []
    shown: dict[str, np.ndarray] = {}
    stream = generator(model.seed, "compose", device=model.device)
    joint = _of_every_class(model, per_label, stream)
    for way in ("joint", "steps"):
        right, total, single = 0, 0, dict.fromkeys(columns, 0)
        for number in range(2 ** len(columns)):
            wanted = _values(columns, number)
            u = joint[number]
            if way == "steps":
                stream = generator(model.seed, "compose", number, device=model.device)
                u = step_by_step(model, wanted, per_label, stream)[-1]
            images = np.asarray(model.decode(u, mode, model.seed))
            classified = classifier.classify(images).probabilities
            agree = {name: classified[name].argmax(1) == wanted[name] for name in columns}
            every = np.logical_and.reduce(list(agree.values()))
            right, total = right + int(every.sum()), total + len(images)
            single = {name: single[name] + int(agree[name].sum()) for name in columns}
            asked = ", ".join(f"{name}={wanted[name]}" for name in columns)
            table.append([f"{asked} ({way})", len(images), float(every.mean())])
            shown[f"{asked} ({way})"] = images
        suffix = "" if way == "joint" else "_steps"
        metrics |= _rates(f"control_accuracy{suffix}", right, total)
        metrics |= {f"control_{name}{suffix}": single[name] / total for name in columns}
    return Controlled(metrics, table, shown)


def of_images(
    classifier: ImageClassifier,
    images: np.ndarray,
    labels: Mapping[str, np.ndarray],
    end: str,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """What the classifier makes of images that are what was asked for: a bound for control.

    Every combination of values that is there counts alike, as all are asked for alike of a model.

    Args:
        classifier: of the data set.
        images: uint8 (N, C, H, W), real or decoded from what they are encoded to.
        labels: by column, (N,), -1 where unknown; such rows do not count.
        end: of the metrics' names.
        device: where the classifier is.
    """
    columns = sorted(labels)
    known = np.logical_and.reduce([labels[name] >= 0 for name in columns])
    true_AN = np.stack([labels[name][known] for name in columns])
    classified = classifier.classify(images[known]).probabilities
    agree_AN = np.stack([classified[name].argmax(1) for name in columns]) == true_AN
    combinations = [(true_AN == values[:, None]).all(0) for values in np.unique(true_AN, axis=1).T]

    def mean(right_N: np.ndarray) -> float:
        return float(np.mean([right_N[rows].mean() for rows in combinations]))

    metrics = {f"control_accuracy_{end}": mean(agree_AN.all(0))}
    if len(columns) > 1:
        metrics |= {
            f"control_{name}_{end}": mean(right)
            for name, right in zip(columns, agree_AN, strict=True)
        }
    return metrics


def _values(columns: Sequence[str], number: int) -> dict[str, int]:
    """Value of every attribute in a class of their product, the first attribute slowest."""
    last = len(columns) - 1
    return {name: number >> (last - place) & 1 for place, name in enumerate(columns)}


@torch.no_grad()
def step_by_step(
    model: ImageModel, wanted: Mapping[str, int], n: int, stream: torch.Generator
) -> list[Tensor]:
    """Adds attributes one after the other from the top, keeping what was drawn before.

    Cui and Han (2024), figure 4.

    The first attribute is drawn with all groups. Each further one draws its own groups and those
    below them anew and keeps the groups above.

    Args:
        model: whose prior has ``hierarchy.attributes``.
        wanted: value of every attribute.
        n: images.
        stream: of all noise.

    Returns:
        Latents (n, D) after every attribute, those of the highest groups first.
    """
    backbone, hierarchy = model.backbone, model.config.prior.hierarchy
    assert hierarchy is not None
    order = sorted(wanted, key=lambda name: (min(hierarchy.attributes[name]), name))
    names = {name: model.meta["labels"][name][value] for name, value in wanted.items()}
    asked: dict[str, int | str] = {}
    latents: list[Tensor] = []
    for name in order:
        asked[name] = names[name]
        labels = model.attribute_classes(asked)
        if not latents:
            latents.append(model.prior.sample(n, stream, labels))
            continue
        top = min(hierarchy.attributes[name])
        free = list(range(top, len(backbone.groups)))
        latents.append(redraw(model, latents[-1], free, stream, labels))
    return latents
