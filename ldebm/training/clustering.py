"""Geometric clustering: pseudo-labels from the geometry of the latents.

Yu et al. (2022), section 3.3 and appendix B.3; docs/method.md, section 4.7.

Posterior means -> PCA with whitening -> unit sphere -> k-means. Labels are put in a canonical order
and matched to the previous round, so that a class keeps its number.

Shapes: N rows, D latent dimension, P kept dimensions, K classes.
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from ldebm.config import ClusterConfig
from ldebm.seeding import derive_seed, numpy_generator

__all__ = ["epoch_rows", "geometric_clusters", "match_labels", "stability", "whiten_to_sphere"]


def whiten_to_sphere(features_ND: np.ndarray, dims: int) -> np.ndarray:
    """Projects on the first ``dims`` principal directions, whitens, and divides by the norm.

    The signs of the directions are fixed, so that the result does not depend on the solver.
    """
    centred = np.asarray(features_ND, dtype=np.float64)
    centred = centred - centred.mean(0)
    with threadpool_limits(1):
        values, vectors = np.linalg.eigh(np.cov(centred.T).reshape(centred.shape[1], -1))
        order = np.argsort(values)[::-1][: min(dims, centred.shape[1])]
        directions = vectors[:, order]
        largest = np.abs(directions).argmax(0)
        directions = directions * np.sign(directions[largest, np.arange(len(order))])
        white = centred @ directions / np.sqrt(np.maximum(values[order], 1e-12))
    return np.asarray(white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12))


def geometric_clusters(
    features_ND: np.ndarray,
    classes: int,
    config: ClusterConfig,
    seed: int,
    previous_N: np.ndarray | None = None,
) -> np.ndarray:
    """One round of geometric clustering.

    Args:
        features_ND: posterior means of the training rows.
        classes: K.
        config: dimensions, iterations and restarts.
        seed: of the k-means initialisation.
        previous_N: labels of the round before, whose numbers are kept where clusters overlap.

    Returns:
        Labels 0..K-1 per row, int64 (N,).
    """
    from sklearn.cluster import KMeans  # a second to load, and most runs do not cluster

    # whitened principal directions on the unit sphere, then k-means: docs/method.md, section 4.7
    points = whiten_to_sphere(features_ND, config.dims)
    with threadpool_limits(1):
        fit = KMeans(
            n_clusters=classes,
            n_init=config.restarts,
            max_iter=config.iterations,
            random_state=derive_seed(seed, "kmeans") % 2**31,
        ).fit(points)
    labels = _canonical(np.asarray(fit.labels_, dtype=np.int64), classes)
    return labels if previous_N is None else match_labels(labels, previous_N, classes)


def _canonical(labels_N: np.ndarray, classes: int) -> np.ndarray:
    """Numbers clusters by falling size, then by their first member."""
    size = np.bincount(labels_N, minlength=classes)
    first = np.full(classes, len(labels_N))
    present, index = np.unique(labels_N, return_index=True)
    first[present] = index
    rank = np.empty(classes, dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(classes)
    return np.asarray(rank[labels_N])


def match_labels(labels_N: np.ndarray, previous_N: np.ndarray, classes: int) -> np.ndarray:
    """Renumbers ``labels_N`` so that as many rows as possible keep their previous label.

    Example:
        >>> match_labels(np.array([1, 1, 0, 2]), np.array([0, 0, 1, 2]), 3).tolist()
        [0, 0, 1, 2]
    """
    from scipy.optimize import linear_sum_assignment

    overlap = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(overlap, (labels_N, previous_N), 1)
    rows, columns = linear_sum_assignment(-overlap)
    mapping = np.empty(classes, dtype=np.int64)
    mapping[rows] = columns
    return np.asarray(mapping[labels_N])


def stability(labels_N: np.ndarray, previous_N: np.ndarray) -> float:
    """Share of the rows whose label did not change."""
    return float((labels_N == previous_N).mean())


def epoch_rows(labels_N: np.ndarray, sampler: str, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch, in order.

    ``natural`` is a permutation; ``balanced`` draws every cluster equally often; ``legacy`` repeats
    the published sampler, which draws balanced positions but reads them in a data set that is
    stored in cluster order (docs/method.md, section 4.7).
    """
    stream = numpy_generator(seed, "rows", epoch)
    n = len(labels_N)
    if sampler == "natural":
        return stream.permutation(n)
    present = np.unique(labels_N)
    share = n // len(present) + 1
    drawn = []
    for label in present:
        members = np.flatnonzero(labels_N == label)
        drawn.append(stream.choice(members, share, replace=len(members) < share))
    rows = stream.permutation(np.concatenate(drawn))[:n]
    if sampler == "legacy":
        return np.asarray(np.argsort(labels_N, kind="stable")[rows])
    return rows
