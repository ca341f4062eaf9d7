"""What the report draws of an image model: grids of images, latent map, energies, Langevin chains.

Shapes: N images, D latents; pixels uint8 (N, C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Packed
from ldebm.evaluate.image_classifier import ImageClassifier
from ldebm.evaluate.image_rows import posterior_draw, rows_at_once
from ldebm.evaluate.report import Report
from ldebm.evaluate.synthesis import redraw
from ldebm.evaluate.transitions import HEADER, follow, saturated
from ldebm.evaluate.views import energy_histograms, latent_map
from ldebm.grids import cells
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.modalities.images import ImageModel

__all__ = ["ImageGrid", "Material", "add_image_views"]

BASES, VARIATIONS = 6, 6  # of hierarchical sampling: images, and changes of each
ROWS = 8  # of a grid with an image's variations, or a class's images, in a row
KEPT_BASES = 64  # images whose class is compared before and after
SATURATION_ROWS = 200  # test images that are decoded in the way of samples
LARGEST_MAP = 4096  # latents of a group of which a map is drawn


@dataclass(frozen=True)
class ImageGrid:
    """Images of one picture.

    Attributes:
        title: what they are.
        images: uint8 (N, C, H, W), row by row.
        columns: of the picture.
        rows: what each row is, where rows differ.
    """

    title: str
    images: np.ndarray
    columns: int
    rows: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Material:
    """Images that the metrics were made of.

    Attributes:
        test: test images.
        reconstructed: the same from their mean path.
        prior: samples of the model's prior.
        gaussian: samples of N(0, I) from the same noise.
        controlled: what was asked for -> images.
    """

    test: np.ndarray
    reconstructed: np.ndarray
    prior: np.ndarray
    gaussian: np.ndarray
    controlled: dict[str, np.ndarray] = field(default_factory=dict)


@torch.no_grad()
def add_image_views(
    report: Report,
    model: ImageModel,
    packed: Packed,
    classifier: ImageClassifier | None,
    config: EvaluateConfig,
    rows: np.ndarray,
    material: Material,
) -> None:
    """Adds the panel ``grids``, tables and details that the pages and figures are made of.

    Args:
        report: of the same model.
        model: trained.
        packed: its data.
        classifier: of the data; None: there is none.
        config: the ``evaluate`` section.
        rows: of the test split, those of ``material``.
        material: images to show.
    """
    side = round(cells(int(packed.meta["size"])) ** 0.5)
    most = side * side
    grids = {
        "data": ImageGrid("Test images", material.test[:most], side),
        "reconstruction": ImageGrid("Reconstructed", material.reconstructed[:most], side),
        "gaussian": ImageGrid("Gaussian prior N(0, I)", material.gaussian[:most], side),
        "prior": ImageGrid("This prior, from the same noise", material.prior[:most], side),
    }
    if material.controlled:
        chosen = dict(list(material.controlled.items())[: 2 * ROWS])
        images = np.concatenate([item[:ROWS] for item in chosen.values()])
        columns = min(ROWS, *(len(item) for item in chosen.values()))
        grids["control"] = ImageGrid("Drawn for a label", images, columns, list(chosen))
    grids |= _hierarchical_sampling(report, model, classifier, config.decode)
    few = min(len(rows), rows_at_once(model.prior.latent))
    _latents(report, model, packed, rows[:few], material.test[:few])
    if config.chains and model.prior.levels:
        grids |= _transitions(report, model, classifier, config, material)
    report.panels["grids"] = grids
    report.details["grids"] = {
        name: {"title": grid.title, "rows": grid.rows, "columns": grid.columns}
        for name, grid in grids.items()
    }


def _hierarchical_sampling(
    report: Report, model: ImageModel, classifier: ImageClassifier | None, mode: str
) -> dict[str, ImageGrid]:
    """Samples with the top, or bottom, third of the groups drawn anew.

    Cui and Han (2024), figure 2.
    """
    backbone = model.backbone
    count = len(backbone.groups)
    if count < 2:
        return {}
    third = max(1, count // 3)
    stream = generator(model.seed, "hierarchical", device=model.device)
    bases = min(KEPT_BASES, rows_at_once(model.prior.latent))
    u_BD = model.prior.sample(bases, stream)
    before = np.asarray(model.decode(u_BD, mode, model.seed))
    grids = {}
    for name, free, title in (
        ("top", range(third), "Top groups drawn anew, the others kept"),
        ("bottom", range(count - third, count), "Bottom groups drawn anew, the others kept"),
    ):
        shown = [before[:BASES]]
        for variation in range(VARIATIONS):
            part = u_BD if variation == 0 else u_BD[:BASES]
            changed = redraw(model, part, list(free), stream)
            decoded = np.asarray(model.decode(changed, mode, model.seed))
            shown.append(decoded[:BASES])
            if variation == 0 and classifier is not None:
                same = _same_class(classifier, before, decoded, model.device)
                report.metrics[f"class_kept_{name}"] = same
        images = np.stack(shown, 1)
        labels = [f"first column: sample {row + 1}" for row in range(len(images))]
        grids[f"hierarchy_{name}"] = ImageGrid(
            title, images.reshape(-1, *images.shape[2:]), images.shape[1], labels
        )
    return grids


def _same_class(
    classifier: ImageClassifier, before: np.ndarray, after: np.ndarray, device: torch.device
) -> float:
    """Share of images whose classes the classifier sees unchanged, over all its columns."""
    first, second = (classifier.classify(x).probabilities for x in (before, after))
    return float(np.mean([(first[c].argmax(1) == second[c].argmax(1)).mean() for c in first]))


def _latents(
    report: Report, model: ImageModel, packed: Packed, rows: np.ndarray, images: np.ndarray
) -> None:
    """Map of the group that carries most, and energies of data and samples at every level."""
    prior, backbone = model.prior, model.backbone
    stream = generator(model.seed, "views", device=model.device)
    u_posterior, _, kl_NG = posterior_draw(backbone, images, stream)
    levels = prior.sample_levels(len(rows), stream)
    u_prior = prior.from_standard(levels[0])
    small = [g for g, group in enumerate(backbone.groups) if group.size <= LARGEST_MAP]
    if small:
        shown = max(small, key=lambda g: float(kl_NG[:, g].mean()))
        mu, _ = backbone.encode(model.batch(images))
        clusters = [_classes(model, u) for u in (mu, u_prior)]
        start = sum(group.size for group in backbone.groups[:shown])
        here = slice(start, start + backbone.groups[shown].size)
        latent_map(report, packed, model.seed, rows, (mu[:, here], u_prior[:, here]), clusters)
        report.details["latent_map"]["group"] = shown
    if prior.energies is not None:
        header = ["t", "low", "high", "data", "samples"]
        histograms = energy_histograms(prior.energies, u_posterior, levels, stream)
        report.tables["energies"] = (header, histograms)


def _classes(model: ImageModel, u_ND: torch.Tensor) -> list[str]:
    """The most likely class of every row; nothing where the prior has none."""
    if model.prior.levels:
        logits = model.prior.class_logits(u_ND)
        if logits.shape[1] > 1:
            return [str(k) for k in logits.argmax(1).tolist()]
    return [""] * len(u_ND)


def _transitions(
    report: Report,
    model: ImageModel,
    classifier: ImageClassifier | None,
    config: EvaluateConfig,
    material: Material,
) -> dict[str, ImageGrid]:
    """Chains followed in a short and a long run, and whether their images saturate."""
    chains = min(config.chains, rows_at_once(model.prior.latent))
    features = None
    if classifier is not None:
        features = classifier.classify(material.test).features
    transitions = follow(model, chains, classifier, features, ROWS, config.decode)
    report.tables["transitions"] = (HEADER, transitions.rows)
    mean_path = torch.from_numpy(model.encode(material.test[:SATURATION_ROWS])).to(model.device)
    decoded = np.asarray(model.decode(mean_path, config.decode, model.seed))
    report.metrics["saturation_data"] = saturated(material.test)
    report.metrics["saturation_reconstruction"] = of_data = saturated(decoded)
    report.metrics |= {f"saturation_{run}": share for run, share in transitions.saturation.items()}
    report.metrics["oversaturation"] = transitions.saturation["long"] - of_data
    grids: dict[str, Any] = {}
    for run, images in transitions.shown.items():
        moves = [f"t = {row[1]}, {row[2]} moves" for row in transitions.rows if row[0] == run]
        title = f"Chains in a {run} run; a column is a moment"
        flat = images.reshape(-1, *images.shape[2:])
        grids[f"transitions_{run}"] = ImageGrid(title, flat, images.shape[1], moves)
    return grids
