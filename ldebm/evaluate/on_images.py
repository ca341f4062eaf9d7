"""The evaluation of image models: distances of samples, likelihood, control, other kinds of images.

Samples are compared with training images by features: those of the evaluation classifier
(``fid_classifier``), and of Inception where the user has its weights (``fid``). Three priors of the
same backbone stand side by side, with the same noise at the start: the model's own, the N(0, I) of
the backbone and the Gaussian fitted to posterior draws.

Shapes: N images, D latents, G groups, F features; pixels uint8 (N, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import OOD_TRANSFORMS, EvaluateConfig
from ldebm.data.packed import Measure, Packed
from ldebm.evaluate.clusters import cluster_metrics
from ldebm.evaluate.corruptions import corrupt, fit
from ldebm.evaluate.image_classifier import ImageClassifier
from ldebm.evaluate.image_metrics import (
    InceptionFeatures,
    frechet_distance,
    inception_score,
    kid,
)
from ldebm.evaluate.image_rows import parts, posterior_draw
from ldebm.evaluate.image_views import Material, add_image_views
from ldebm.evaluate.ood import detect
from ldebm.evaluate.report import Report, subset
from ldebm.evaluate.sampling import sampler_acceptance
from ldebm.evaluate.synthesis import by_attributes, by_class, of_images
from ldebm.seeding import derive_seed, generator

if TYPE_CHECKING:
    from ldebm.modalities.images import ImageModel

__all__ = ["evaluate_images", "fitted_gaussian", "sample_images"]

REFERENCE_ROWS = 20_000  # training images that samples are compared with
FITTED_ROWS = 10_000  # posterior draws that the Gaussian is fitted to
LARGEST_FULL = 2048  # latents of which a full covariance is fitted
ACCEPTANCE_ROWS = 500
OOD_VALID_ROWS = 200  # that choose the scheme

Draw = Callable[[int, torch.Generator], Tensor]
"""Number of rows and source of noise to latents in the backbone's coordinates."""


@torch.no_grad()
def evaluate_images(
    model: ImageModel, packed: Packed, config: EvaluateConfig, measure: Measure
) -> Report:
    """All metrics and pictures of an image model.

    Args:
        model: trained.
        packed: its data.
        config: the experiment's ``evaluate`` section.
        measure: the classifier of the data and the other data sets to tell apart.

    Raises:
        UsageError: ``evaluate.inception`` names a file that is not there or holds something else.
    """
    report, seed = Report(), model.seed
    backbone = model.backbone
    classifier = (
        ImageClassifier.load(measure.classifier).to(model.device) if measure.classifier else None
    )
    test = packed.split("test")
    rows = subset(test.n, config.rows, seed, "evaluate-rows")
    images = np.array(test.x[rows])
    train = packed.split("train")
    train_rows = subset(train.n, REFERENCE_ROWS, seed, "reference-rows")
    reconstructed = _likelihood(report, model, images)
    draws = {"": _prior(model), "gaussian": _standard(backbone)}
    chosen = subset(len(train_rows), FITTED_ROWS, seed, "fitted-rows")
    draws["fitted"], form = fitted_gaussian(backbone, np.array(train.x[train_rows[chosen]]), seed)
    report.details["fitted"] = form
    drawn = {
        name: sample_images(model, draw, config.samples, config.decode)
        for name, draw in draws.items()
    }
    material = Material(images, reconstructed, drawn[""], drawn["gaussian"])
    compared = {**drawn, "reconstruction": reconstructed, "test": images}
    reference = np.array(train.x[train_rows])
    if classifier is not None:
        report.metrics |= _by_classifier(classifier, compared, reference, model)
    if config.inception is not None:
        inception = InceptionFeatures(config.inception, model.device)
        seen = {name: inception(x) for name, x in compared.items()}
        end = "" if inception.published else "_other_weights"
        names = (f"fid{end}", f"kid{end}", f"is{end}")
        report.metrics |= _distances(names, inception(reference)[0], seen, seed)
    report.metrics |= sampler_acceptance(
        model.prior, min(ACCEPTANCE_ROWS, parts(ACCEPTANCE_ROWS, model.prior.latent)[0].stop), seed
    )
    _classes(report, model, packed, rows, images)
    if classifier is not None:
        split = packed.split("test")
        labels = {name: np.asarray(split.labels(name))[rows] for name in classifier.columns}
        _control(report, model, classifier, config, material, labels)
    if config.ood:
        _other_kinds(report, model, packed, config, measure)
    add_image_views(report, model, packed, classifier, config, rows, material)
    return report


def _prior(model: ImageModel) -> Draw:
    return lambda n, stream: model.prior.sample(n, stream)


def _standard(backbone: HierarchicalBackbone) -> Draw:
    device = next(backbone.parameters()).device
    return lambda n, stream: torch.randn(n, backbone.latent, generator=stream, device=device)


@torch.no_grad()
def fitted_gaussian(
    backbone: HierarchicalBackbone, images_NCHW: np.ndarray, seed: int
) -> tuple[Draw, str]:
    """The Gaussian fitted to one posterior draw of every image.

    Returns:
        Its sampler, and "full" or "diagonal": the covariance is full where there are four draws for
        every latent, and at most 2,048 latents.
    """
    device = next(backbone.parameters()).device
    stream = generator(seed, "fitted", device=device)
    u, _, _ = posterior_draw(backbone, images_NCHW, stream)
    mean, spread = u.mean(0), u.std(0)
    if u.shape[1] > min(LARGEST_FULL, len(u) // 4):
        return lambda n, source: mean + spread * _standard(backbone)(n, source), "diagonal"
    covariance = torch.cov(u.double().t()).reshape(u.shape[1], u.shape[1])
    tiny = 1e-8 * torch.eye(u.shape[1], dtype=torch.float64, device=device)
    factor = torch.linalg.cholesky(covariance + tiny).float()
    return lambda n, source: mean + _standard(backbone)(n, source) @ factor.t(), "full"


@torch.no_grad()
def sample_images(model: ImageModel, draw: Draw, n: int, mode: str) -> np.ndarray:
    """n images of latents from ``draw``, in parts with streams of their own.

    The first noise that a part draws is the same whatever ``draw`` makes of it.
    """
    images = []
    for index, part in enumerate(parts(n, model.prior.latent)):
        stream = generator(model.seed, "samples", index, device=model.device)
        u = draw(part.stop - part.start, stream)
        decoded = model.decode(u, mode, derive_seed(model.seed, "samples", index))
        images.append(np.asarray(decoded))
    return np.concatenate(images)


def _likelihood(report: Report, model: ImageModel, images: np.ndarray) -> np.ndarray:
    """Reconstruction, evidence lower bound under N(0, I), KL of every group.

    Returns:
        The images decoded from their mean path.
    """
    backbone = model.backbone
    stream = generator(model.seed, "evaluate", device=model.device)
    _, nll_N, kl_NG = posterior_draw(backbone, images, stream)
    bound = float((nll_N + kl_NG.sum(1)).double().mean())
    nll, decoded = [], []
    for part in parts(len(images), backbone.latent):
        x_BCHW = model.batch(images[part])
        u_BD, _ = backbone.encode(x_BCHW)
        nll.append(backbone.reconstruction_nll(x_BCHW, u_BD))
        decoded.append(np.asarray(model.decode(u_BD, "greedy")))
    report.metrics["recon_nll"] = float(torch.cat(nll).double().mean())
    likelihood = backbone.likelihood
    report.metrics["bound_bits"] = bound / (math.log(2) * images[0].size)
    if likelihood.discrete and likelihood.levels == 256:
        report.metrics["bits_per_dim"] = report.metrics["bound_bits"]
    report.metrics["rate"] = float(kl_NG.sum(1).double().mean())
    groups = [
        [g, " x ".join(map(str, group.shape)), group.size, round(float(kl_NG[:, g].mean()), 4)]
        for g, group in enumerate(backbone.groups)
    ]
    report.tables["groups"] = (["group", "shape", "latents", "kl"], groups)
    return np.concatenate(decoded)


def _by_classifier(
    classifier: ImageClassifier,
    compared: dict[str, np.ndarray],
    reference: np.ndarray,
    model: ImageModel,
) -> dict[str, float]:
    """Distances by the classifier's features, and how sure it is of the images."""
    classified = {name: classifier.classify(x) for name, x in compared.items()}
    column = max(classifier.columns, key=lambda name: len(classifier.classes[name]))
    seen = {name: (item.features, item.probabilities[column]) for name, item in classified.items()}
    names = ("fid_classifier", "kid_classifier", "is_classifier")
    features = classifier.classify(reference).features
    metrics = _distances(names, features, seen, model.seed)
    for name, item in classified.items():
        sure = float(np.mean([p.max(1).mean() for p in item.probabilities.values()]))
        metrics[f"classifier_confidence{f'_{name}' if name else ''}"] = sure
    return metrics


def _distances(
    names: tuple[str, str, str],
    reference_NF: np.ndarray,
    seen: dict[str, tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> dict[str, float]:
    """FID, KID and inception score, under these names, of sets of images.

    Args:
        names: of the three metrics.
        reference_NF: features of the training images.
        seen: features and class probabilities of every set.
        seed: of the subsets of KID.
    """
    fid_name, kid_name, score_name = names
    metrics: dict[str, float] = {}
    for name, (features, probabilities) in seen.items():
        end = f"_{name}" if name else ""
        metrics[f"{fid_name}{end}"] = frechet_distance(features, reference_NF)
        if name != "reconstruction":
            metrics[f"{kid_name}{end}"], _ = kid(features, reference_NF, seed=seed)
            splits = 10 if len(features) >= 1000 else 1
            metrics[f"{score_name}{end}"], _ = inception_score(probabilities, splits)
    return metrics


def _classes(
    report: Report, model: ImageModel, packed: Packed, rows: np.ndarray, images: np.ndarray
) -> None:
    """What the prior's classes have to do with the labels of test images."""
    prior = model.prior
    if not prior.levels:
        return
    logits = []
    for part in parts(len(images), prior.latent):
        u_BD, _ = model.backbone.encode(model.batch(images[part]))
        logits.append(prior.class_logits(u_BD).cpu())
    said = torch.cat(logits)
    if said.shape[1] < 2:
        return
    cluster = said.argmax(1).numpy()
    report.metrics["classes_used"] = float(len(np.unique(cluster)))
    given = model.config.cluster.column if model.config.cluster.labels == "given" else None
    for index, column in enumerate(packed.meta.get("labels", {})):
        label = np.asarray(packed.split("test").labels(column))[rows]
        agreement = cluster_metrics(cluster, label, model.seed)
        if index == 0 and agreement:
            report.metrics["ami"], report.metrics["ami_shuffled"] = (
                agreement["ami"],
                agreement["shuffled"],
            )
        if column == given:
            known = label >= 0
            report.metrics["class_accuracy"] = float((cluster == label)[known].mean())


def _control(
    report: Report,
    model: ImageModel,
    classifier: ImageClassifier,
    config: EvaluateConfig,
    material: Material,
    labels: dict[str, np.ndarray],
) -> None:
    """Images drawn for classes or attributes, asked of the classifier; and test images, as a bound.

    ``labels`` are those of the test images of ``material``, by column.
    """
    hierarchy = model.config.prior.hierarchy
    cluster = model.config.cluster
    if not model.prior.levels or cluster.labels != "given" or hierarchy is None:
        return
    columns = [*hierarchy.attributes]
    if columns:
        control = by_attributes(model, classifier, config.per_label, config.decode)
    elif hierarchy.label_groups and cluster.column in classifier.columns:
        columns = [cluster.column]
        control = by_class(model, classifier, cluster.column, config.per_label, config.decode)
    else:
        return
    report.metrics |= control.metrics
    asked = {name: labels[name] for name in columns}
    for end, images in (("test", material.test), ("reconstruction", material.reconstructed)):
        report.metrics |= of_images(classifier, images, asked, end, model.device)
    report.tables["control"] = (["asked", "images", "agreed"], control.table)
    material.controlled.update(control.shown)


def _other_kinds(
    report: Report, model: ImageModel, packed: Packed, config: EvaluateConfig, measure: Measure
) -> None:
    """AUROC of telling test images from others (``evaluate.ood``)."""
    familiar, others = {}, {name: {} for name in config.ood}  # type: ignore[var-annotated]
    channels, size = int(packed.meta["channels"]), int(packed.meta["size"])
    for split, most in (("valid", min(OOD_VALID_ROWS, config.ood_rows)), ("test", config.ood_rows)):
        own = packed.split(split)
        rows = subset(own.n, most, model.seed, f"ood-{split}")
        familiar[split] = np.array(own.x[rows])
        for name in config.ood:
            if name in OOD_TRANSFORMS:
                others[name][split] = corrupt(name, familiar[split], model.seed)
                continue
            other = measure.ood[name].split(split)
            rows = subset(other.n, most, model.seed, f"ood-{split}-{name}")
            others[name][split] = fit(np.array(other.x[rows]), channels, size)
    detection = detect(model, familiar, others)
    report.metrics |= detection.metrics()
    report.tables["ood"] = detection.table()
    if detection.chosen is not None:
        report.details["ood"] = {"scheme": detection.chosen[0], "groups": detection.chosen[1]}
