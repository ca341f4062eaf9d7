"""The evaluation of image models: distances of samples, likelihood, control, other kinds of images.

Samples are compared with training images by features: those of the evaluation classifier
(``fid_classifier``), and of Inception where the user has its weights (``fid``). Several priors of
the same backbone stand side by side: the model's own and those of
:mod:`ldebm.evaluate.image_rivals`. The Frechet distance falls with the number of images, so that
every set is measured in parts of the same number: that of the test images, or of the samples if
these are fewer.

Shapes: N images, D latents, G groups, F features; pixels uint8 (N, C, H, W).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ldebm.config import OOD_TRANSFORMS, EvaluateConfig, MixtureConfig
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
from ldebm.evaluate.image_rivals import Draw, fit_rivals
from ldebm.evaluate.image_rows import parts, posterior_draw
from ldebm.evaluate.image_views import Material, add_image_views
from ldebm.evaluate.ood import detect
from ldebm.evaluate.report import Report, subset
from ldebm.evaluate.sampling import sampler_acceptance
from ldebm.evaluate.synthesis import by_attributes, by_class, of_images
from ldebm.seeding import derive_seed, generator

if TYPE_CHECKING:
    from ldebm.modalities.images import ImageModel

__all__ = ["evaluate_images", "sample_images"]

REFERENCE_ROWS = 20_000  # training images that samples are compared with
KID_ROWS = 1000  # of a subset
ACCEPTANCE_ROWS = 500
OOD_VALID_ROWS = 200  # that choose the scheme


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
    classifier = (
        ImageClassifier.load(measure.classifier).to(model.device) if measure.classifier else None
    )
    test = packed.split("test")
    rows = subset(test.n, config.rows, seed, "evaluate-rows")
    images = np.array(test.x[rows])
    train = packed.split("train")
    train_rows = subset(train.n, REFERENCE_ROWS, seed, "reference-rows")
    reconstructed = _likelihood(report, model, images)
    rivals = fit_rivals(
        model.backbone, packed, train_rows, model.config.cluster,
        config.mixture or MixtureConfig(), seed,
    )  # fmt: skip
    report.details |= rivals.details
    report.metrics |= rivals.metrics
    drawn = {
        name: sample_images(model, draw, config.samples, config.decode)
        for name, draw in {"": _prior(model), **rivals.draws}.items()
    }
    material = Material(images, reconstructed, drawn[""], drawn["gaussian"])
    many = np.array(test.x[subset(test.n, config.samples, seed, "compared-rows")])
    compared = {**drawn, "reconstruction": _reconstructed(model, many), "test": many}
    reference = np.array(train.x[train_rows])
    if classifier is not None:
        report.metrics |= _by_classifier(classifier, compared, reference, seed)
    if config.inception is not None:
        inception = InceptionFeatures(config.inception, model.device)
        seen = {name: inception(x) for name, x in compared.items()}
        end = "" if inception.published else "_other_weights"
        names = (f"fid{end}", f"kid{end}", f"is{end}")
        of_training = inception(reference)[0]
        report.metrics |= _distances(names, of_training, seen, seed)
        for name in ("", "gaussian"):  # as published, of all samples at once
            distance = frechet_distance(seen[name][0], of_training)
            report.metrics[f"fid_all{end}{f'_{name}' if name else ''}"] = distance
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
    nll = []
    for part in parts(len(images), backbone.latent):
        x_BCHW = model.batch(images[part])
        nll.append(backbone.reconstruction_nll(x_BCHW, backbone.encode(x_BCHW)[0]))
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
    return _reconstructed(model, images)


def _reconstructed(model: ImageModel, images: np.ndarray) -> np.ndarray:
    """The images decoded from their mean path."""
    decoded = []
    for part in parts(len(images), model.backbone.latent):
        u_BD, _ = model.backbone.encode(model.batch(images[part]))
        decoded.append(np.asarray(model.decode(u_BD, "greedy")))
    return np.concatenate(decoded)


def _by_classifier(
    classifier: ImageClassifier,
    compared: dict[str, np.ndarray],
    reference: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Distances by the classifier's features, and how sure it is of the images."""
    classified = {name: classifier.classify(x) for name, x in compared.items()}
    column = max(classifier.columns, key=lambda name: len(classifier.classes[name]))
    seen = {name: (item.features, item.probabilities[column]) for name, item in classified.items()}
    names = ("fid_classifier", "kid_classifier", "is_classifier")
    features = classifier.classify(reference).features
    metrics = _distances(names, features, seen, seed)
    metrics["fid_classifier_images"] = float(min(map(len, compared.values())))
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

    Every set is cut into parts of the size of the smallest; FID and score are the mean over them.

    Args:
        names: of the three metrics.
        reference_NF: features of the training images.
        seen: features and class probabilities of every set.
        seed: of the subsets of KID.
    """
    fid_name, kid_name, score_name = names
    size = min(len(features) for features, _ in seen.values())
    metrics: dict[str, float] = {}
    for name, (features, probabilities) in seen.items():
        end, count = f"_{name}" if name else "", len(features) // size
        equal = [features[part * size : (part + 1) * size] for part in range(count)]
        distances = [frechet_distance(part, reference_NF) for part in equal]
        metrics[f"{fid_name}{end}"] = float(np.mean(distances))
        rows = min(KID_ROWS, size)
        metrics[f"{kid_name}{end}"], _ = kid(features, reference_NF, size=rows, seed=seed)
        score, _ = inception_score(probabilities[: count * size], count)
        metrics[f"{score_name}{end}"] = score
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
