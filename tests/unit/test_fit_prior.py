"""``ldebm.fit_prior``: densities of given vectors, their classes and how strange others are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

import ldebm
from ldebm.backbones.linear import LinearBackbone
from ldebm.config import BackboneConfig
from ldebm.errors import UsageError
from ldebm.fitting.rows import divide

FAST = {
    "energy": {"hidden": 16, "blocks": 1},
    "sampler": {"steps": 2},
    "levels": 3,
    "training": {"updates": 30, "batch": 64},
}
KINDS = ("ldebm", "svebm", "mixture", "gaussian", "flow")


def heaps(n=400, dimensions=4, seed=0):
    """Two heaps of vectors, and which each is of."""
    draws = np.random.default_rng(seed)
    heap = draws.integers(0, 2, n)
    z = draws.normal(size=(n, dimensions)) @ np.diag(np.linspace(0.2, 3.0, dimensions)) + 5
    z[:, 0] += 4 * heap
    return z.astype(np.float32), heap


def fitted(kind="ldebm", labels=None, z=None, **changes):
    settings = FAST if kind in ("ldebm", "svebm") else {}
    if kind == "flow":
        settings = {"training": {"updates": 20}}
    z = heaps()[0] if z is None else z
    return ldebm.fit_prior(z, labels, kind, progress=False, **{**settings, **changes})


@pytest.fixture(scope="module", params=KINDS)
def prior(request):
    return fitted(request.param)


@pytest.fixture(scope="module")
def labelled():
    z, heap = heaps()
    training = {"updates": 150, "batch": 64}
    names = np.array(["left", "right"])[heap]
    return fitted(labels=names, z=z, class_weight=5.0, training=training)


def test_every_kind_samples_and_has_a_density(prior):
    z, _ = heaps()
    assert prior.sample(3, seed=1).shape == (3, 4)
    assert np.array_equal(prior.sample(3, seed=1), prior.sample(3, seed=1))
    log_prob = prior.log_prob(z[:10])
    assert log_prob.value.shape == log_prob.spread.shape == (10,)
    assert np.isfinite(log_prob.value).all()
    if log_prob.name == "exact log-density":
        assert not log_prob.spread.any()
        assert log_prob.gap == 0
    assert log_prob.name in repr(log_prob)


def test_a_saved_prior_gives_the_same_numbers(prior, tmp_path):
    z, _ = heaps()
    again = ldebm.load(prior.save(tmp_path / "prior"))
    assert type(again).__name__ == "VectorPrior"
    assert np.array_equal(again.sample(5), prior.sample(5))
    assert np.allclose(again.log_prob(z[:9]).value, prior.log_prob(z[:9]).value, atol=1e-6)
    assert np.allclose(again.score(z[:9]).tail, prior.score(z[:9]).tail)


def test_what_is_far_away_is_strange(prior):
    z, _ = heaps()
    near, far = prior.score(z[:50]), prior.score(z[:50] + 60)
    assert far.score.min() > near.score.max()
    assert far.tail.max() < 0.05
    assert near.tail.mean() > 0.2
    assert "50 rows" in repr(near)


def test_a_gaussian_is_the_gaussian_of_the_vectors():
    """Against the closed form, in the vectors' own coordinates: the log-determinant is in it."""
    z, _ = heaps(2000)
    prior = fitted("gaussian", z=z)
    train = z[divide(2000, 0)[0]].astype(np.float64)
    axes, spread = prior.backbone.axes_XX.numpy(), prior.backbone.spread_X.numpy()
    covariance = axes * spread**2 @ axes.T
    assert np.allclose(covariance.diagonal(), train.var(0, ddof=1))
    density = multivariate_normal(train.mean(0), covariance)
    assert np.allclose(prior.log_prob(z[:20]).value, density.logpdf(z[:20]), atol=1e-3)


def test_densities_integrate_to_one():
    z = heaps(400, 2)[0]
    for kind in ("mixture", "ldebm"):
        prior = fitted(kind, z=z)
        axis = np.linspace(-8, 20, 120)
        points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        log_p = prior.log_prob(points, trajectories=8).value
        total = np.exp(log_p).sum() * (axis[1] - axis[0]) ** 2
        assert total == pytest.approx(1, abs=0.05), kind


def test_the_bound_of_untrained_energies_is_the_mixture_that_they_tilt():
    z, _ = heaps()
    mixture = fitted("mixture", z=z).log_prob(z[:30])
    zero = fitted(z=z, training={"updates": 0}, score_matching=0.0)
    with torch.no_grad():
        for parameter in zero.prior.net.parameters():
            parameter.zero_()
    zero.meta["normalisers"] |= {"log_z": float(np.log(zero.prior.classes))}
    found = zero.log_prob(z[:30], trajectories=64)
    assert found.mean == pytest.approx(mixture.mean, abs=0.1)


def test_labels_become_classes(labelled, tmp_path):
    z, heap = heaps()
    assert labelled.class_names == ["left", "right"]
    assert labelled.classify(z).shape == (400, 2)
    assert (labelled.classify(z).argmax(1) == heap).mean() > 0.9
    right = labelled.sample(40, label="right")
    assert (labelled.classify(right).argmax(1) == 1).mean() > 0.6
    with pytest.raises(UsageError, match="label 'up': expected one of left, right"):
        labelled.sample(1, label="up")
    assert ldebm.load(labelled.save(tmp_path / "l")).class_names == ["left", "right"]


def test_classes_are_found_without_labels():
    found = fitted(classes=2).cluster(heaps()[0])
    assert sum(item.size for item in found.classes) == 400


def test_a_frame_and_a_tensor_are_read_as_vectors():
    z, _ = heaps(60)
    for given in (pd.DataFrame(z), torch.from_numpy(z), z.tolist(), z.astype(np.float64)):
        assert fitted("gaussian", z=given).sample(1).shape == (1, 4)


def test_vectors_longer_than_what_is_modelled_have_a_gaussian_rest():
    z, _ = heaps(300, 40)
    prior = fitted("mixture", z=z)
    assert prior.backbone.latent == 32
    assert prior.sample(500).shape == (500, 40)
    spread = prior.sample(2000).std(0) / z.std(0)
    assert ((spread > 0.8) & (spread < 1.2)).all()
    assert fitted("mixture", z=z, dims=5).backbone.latent == 5


def test_a_direction_without_spread_is_no_fault():
    z, _ = heaps(200)
    flat = np.concatenate([z, np.ones((200, 1), np.float32), z[:, :1]], 1)
    prior = fitted("gaussian", z=flat)
    assert np.isfinite(prior.log_prob(flat[:5]).value).all()
    assert np.allclose(prior.sample(5)[:, 4], 1, atol=0.01)


def test_the_map_to_coordinates_is_undone_exactly():
    z, _ = heaps(300, 6)
    backbone = LinearBackbone(
        BackboneConfig.model_validate({"arch": "linear", "latent": 3, "training": {"updates": 0}}),
        {"dimensions": 6},
    )
    backbone.fit(z[:250], z[250:])
    batch = torch.from_numpy(z).double()
    u = backbone.coordinates(batch)
    assert torch.allclose(backbone.decode(u[:, :3], u[:, 3:]), batch, atol=1e-9)
    assert torch.allclose(u[:250].mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize(
    ("z", "changes", "said"),
    [
        ("abc", {}, "z: expected numbers of shape (n, d)"),
        (np.zeros(50), {}, "z: expected shape (n, d), got (50,)"),
        (np.ones((50, 3)), {}, "all 45 rows are equal"),
        (np.ones((5, 3)), {}, "5 rows; at least 20"),
        (np.full((50, 3), np.nan), {}, "row 0 holds NaN or infinity"),
        (None, {"kind": "gausian"}, "kind 'gausian': no such kind of prior; did you mean"),
        (None, {"dims": 9}, "dims 9: expected a whole number from 1 to 4"),
        (None, {"levls": 3}, "unknown key 'prior.levls'; did you mean 'levels'"),
        (None, {"seconds": 0}, "seconds 0: expected a number above 0"),
        (None, {"labels": ["a"]}, "labels: 1 for 400 rows"),
        (None, {"kind": "flow", "labels": ["a", "b"] * 200}, "kind 'flow' has no classes"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(z, changes, said):
    with pytest.raises(UsageError) as caught:
        ldebm.fit_prior(heaps()[0] if z is None else z, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.sample(-1), "n -1: expected a whole number from 1 on"),
        (lambda p: p.log_prob(np.zeros((3, 5))), r"expected shape \(n, 4\), got \(3, 5\)"),
        (lambda p: p.log_prob([[0, 0, 0, np.inf]]), "row 0 holds NaN or infinity"),
        (lambda p: p.log_prob(np.zeros((1, 4)), trajectories=0), "trajectories 0"),
    ],
)
def test_questions_that_do_not_fit_are_refused(prior, call, said):
    with pytest.raises(UsageError, match=said):
        call(prior)


def test_training_never_ends_below_where_it_has_begun():
    """The initial weights are scored too: a step that only harms leaves the mixture."""
    z, _ = heaps()
    harmed = fitted(z=z, training={"updates": 30, "batch": 64, "optimiser": {"lr": 50.0}})
    mixture = fitted("mixture", z=z)
    validation = harmed.fitted.validation["prior"]
    assert {"bound", "class", "score"} < validation[0].keys()
    assert validation[0]["update"] == 0
    assert harmed.log_prob(z[:50]).mean > mixture.log_prob(z[:50]).mean - 1.5


def test_the_command_line_samples_and_scores(tmp_path):
    z, _ = heaps()
    path = fitted("mixture").save(tmp_path / "p.safetensors")
    np.save(tmp_path / "z.npy", z[:3])
    score = ["score", str(path), "--file", str(tmp_path / "z.npy"), "--json"]
    for arguments in (["generate", str(path), "-n", "2"], score):
        command = [sys.executable, "-m", "ldebm.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "log_prob" in done.stdout


def test_no_copy_of_the_vectors_is_made_in_double_precision(monkeypatch):
    """Coordinates are all that is held of all rows at once."""
    z, _ = heaps(20_000, 8)
    parts = []
    inner = LinearBackbone.coordinates

    def coordinates(self, batch):
        parts.append(len(batch))
        return inner(self, batch)

    monkeypatch.setattr(LinearBackbone, "coordinates", coordinates)
    fitted("gaussian", z=z)
    assert max(parts) <= 8192
