"""Geometric clustering finds directions, keeps its numbers, and samples rows as it says."""

from __future__ import annotations

import numpy as np

from ldebm.config import ClusterConfig
from ldebm.seeding import numpy_generator
from ldebm.training.clustering import epoch_rows, geometric_clusters, match_labels, whiten_to_sphere


def three_directions(n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    stream = numpy_generator(0, "directions")
    label = stream.integers(0, 3, n)
    angle = 2 * np.pi * label / 3
    radius = stream.uniform(1, 5, n)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points + 0.1 * stream.normal(size=(n, 2)), label


def test_rows_lie_on_the_unit_sphere_whatever_the_scale_of_the_features() -> None:
    points, _ = three_directions()
    sphere = whiten_to_sphere(points, 2)
    np.testing.assert_allclose(np.linalg.norm(sphere, axis=1), 1, rtol=1e-9)
    again = whiten_to_sphere(points * [[3.0, 3.0]] + 7, 2)
    np.testing.assert_allclose(again, sphere, atol=1e-9)


def test_clusters_are_the_true_directions() -> None:
    points, label = three_directions()
    clusters = geometric_clusters(points, 3, ClusterConfig(dims=2, restarts=4), seed=0)
    for cluster in range(3):
        members = label[clusters == cluster]
        assert (members == np.bincount(members).argmax()).mean() > 0.98


def test_labels_are_numbered_by_falling_size() -> None:
    points, _ = three_directions()
    clusters = geometric_clusters(points, 3, ClusterConfig(dims=2), seed=0)
    sizes = np.bincount(clusters)
    assert (np.diff(sizes) <= 0).all()


def test_a_second_round_keeps_the_numbers_of_the_first() -> None:
    points, _ = three_directions()
    config = ClusterConfig(dims=2, restarts=4)
    first = geometric_clusters(points, 3, config, seed=0)
    shuffled = (first + 1) % 3
    again = geometric_clusters(points, 3, config, seed=0, previous_N=shuffled)
    assert (again == shuffled).all()
    assert (match_labels(first, shuffled, 3) == shuffled).all()


def test_the_natural_sampler_is_a_permutation_and_the_balanced_one_is_balanced() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    natural = epoch_rows(labels, "natural", 0, 0)
    assert sorted(natural) == list(range(1000))
    balanced = labels[epoch_rows(labels, "balanced", 0, 0)]
    assert np.bincount(balanced).min() > 300
    legacy = labels[epoch_rows(labels, "legacy", 0, 0)]
    assert len(legacy) == 1000


def test_the_legacy_sampler_does_not_balance() -> None:
    stream = numpy_generator(0, "legacy")
    labels = stream.permutation(np.repeat([0, 1, 2], [900, 90, 10]))
    balanced = np.bincount(labels[epoch_rows(labels, "balanced", 0, 0)], minlength=3)
    legacy = np.bincount(labels[epoch_rows(labels, "legacy", 0, 0)], minlength=3)
    assert balanced.min() > 300
    assert legacy.min() < 100
