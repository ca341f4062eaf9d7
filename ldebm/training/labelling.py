"""Encodes a data set and gives its training rows the class labels of the prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ldebm.backbones.base import Backbone
from ldebm.config import ClusterConfig, ExperimentConfig
from ldebm.data.packed import SPLITS, Packed, Split, check_classes
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import write_parquet
from ldebm.seeding import configure, generator, numpy_generator
from ldebm.training.clustering import geometric_clusters
from ldebm.training.first_stage import load_backbone
from ldebm.training.latents import encode_contexts, encode_split

__all__ = ["cluster_stage", "latent_columns"]


def cluster_stage(
    config: ExperimentConfig, packed: Packed, seed: int, backbone_dir: Path, out: Path
) -> None:
    """Writes ``latents.parquet``: posterior means and log-variances of all rows, and labels.

    Labels are -1 where there are none: on valid and test with geometric clustering, on the rows
    that ``cluster.share`` or ``cluster.per_class`` leaves out with given ones. Of hierarchical
    models only the top group is written, a convolutional one as its mean over the places: all
    latents would be too many. Where the prior reads contexts, these are written too.
    """
    training = config.backbone.training
    device = choose_device(training.device)
    configure(training.threads)
    backbone = load_backbone(backbone_dir, config, packed).to(device)
    write_parquet(out, latent_columns(config, packed, seed, backbone, device))


def latent_columns(
    config: ExperimentConfig,
    packed: Packed,
    seed: int,
    backbone: Backbone,
    device: torch.device,
    splits: Sequence[str] = SPLITS,
) -> dict[str, np.ndarray]:
    """The columns of ``latents.parquet``, of the rows of these splits."""
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("id", "split", "mu", "logvar", "label")
    }
    for index, name in enumerate(splits):
        split = packed.split(name)
        mu, logvar = encode_split(backbone, split, device)
        columns["id"].append(np.asarray(split.id))
        columns["split"].append(np.full(split.n, index, dtype=np.int8))
        columns["mu"].append(mu)
        columns["logvar"].append(logvar)
        columns["label"].append(_labels(config, split, mu, seed))
        if backbone.context_size:
            contexts = encode_contexts(backbone, split, device)
            columns.setdefault("context", []).append(contexts)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _labels(config: ExperimentConfig, split: Split, mu: np.ndarray, seed: int) -> np.ndarray:
    cluster = config.cluster
    none = np.full(split.n, -1, dtype=np.int16)
    if cluster.labels == "given":
        given = _given(config, split)
        if split.name == "train" and cluster.per_class is not None:
            return _pool(given, cluster, seed)
        if split.name != "train" or cluster.share == 1.0:
            return given
        hidden = torch.rand(split.n, generator=generator(seed, "hidden-labels")).numpy()
        return np.where(hidden < cluster.share, given, none)
    if cluster.labels == "gc" and split.name == "train":
        classes = config.prior.classes
        check_classes(classes, split.n, split.path)
        return geometric_clusters(mu, classes, cluster, seed).astype(np.int16)
    return none


def _pool(given: np.ndarray, cluster: ClusterConfig, seed: int) -> np.ndarray:
    """``given`` with all but ``per_class`` labels of every class hidden.

    Raises:
        UsageError: a class has fewer rows.
    """
    assert cluster.per_class is not None
    order = np.arange(len(given))
    if cluster.pool_seed != "first":
        own = seed if cluster.pool_seed == "run" else cluster.pool_seed
        order = numpy_generator(own, "label-pool", len(given)).permutation(len(given))
    shown = np.full(len(given), -1, dtype=np.int16)
    for label in range(int(given.max(initial=-1)) + 1):
        rows = order[given[order] == label][: cluster.per_class]
        if len(rows) < cluster.per_class:
            raise UsageError(
                f"cluster.per_class {cluster.per_class}: class {label} of column "
                f"{cluster.column!r} has only {len(rows)} training rows"
            )
        shown[rows] = label
    return shown


def _given(config: ExperimentConfig, split: Split) -> np.ndarray:
    """Classes of all rows from one column, or those of all combinations of the attributes."""
    hierarchy = config.prior.hierarchy
    if hierarchy is not None and hierarchy.attributes:
        joint = np.zeros(split.n, dtype=np.int16)
        unknown = np.zeros(split.n, dtype=bool)
        for column in sorted(hierarchy.attributes):
            values = np.asarray(split.labels(column), dtype=np.int16)
            if int(values.max(initial=-1)) > 1:
                raise UsageError(
                    f"prior.hierarchy.attributes: column {column!r} has {int(values.max()) + 1} "
                    "classes; expected 2"
                )
            joint, unknown = 2 * joint + values.clip(min=0), unknown | (values < 0)
        return np.where(unknown, np.int16(-1), joint)
    name = config.cluster.column
    assert name is not None
    given = np.asarray(split.labels(name), dtype=np.int16)
    if int(given.max(initial=-1)) >= config.prior.classes:
        raise UsageError(
            f"prior.classes {config.prior.classes}: label column {name!r} has "
            f"{int(given.max()) + 1} classes; set prior.classes to at least that"
        )
    return given
