"""FID, KID and the inception score: closed forms, torchmetrics, and Inception's weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ldebm.errors import UsageError
from ldebm.evaluate.image_metrics import (
    InceptionFeatures,
    frechet_distance,
    inception_score,
    kid,
)
from ldebm.nn.inception import InceptionV3


def gaussian(seed: int, rows: int, features: int = 8) -> np.ndarray:
    stream = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(features, features))
    return stream.normal(size=(rows, features)) @ mixing + 0.1 * seed


def white(rows: int, features: int) -> np.ndarray:
    """Rows whose mean is exactly 0 and whose covariance is exactly I."""
    x = np.random.default_rng(0).normal(size=(rows, features))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T


def test_the_distance_of_gaussians_has_its_closed_form() -> None:
    x = white(400, 5)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 5)
    assert frechet_distance(x, 3 * x) == pytest.approx(5 * (3 - 1) ** 2)
    stretched = x * np.array([1, 2, 3, 4, 5.0])  # commuting: the difference of the roots
    assert frechet_distance(x, stretched) == pytest.approx(0 + 1 + 4 + 9 + 16)
    assert frechet_distance(x, stretched) == pytest.approx(frechet_distance(stretched, x))


def test_fewer_rows_than_features_give_a_number_without_imaginary_part() -> None:
    a, b = gaussian(0, 20, 64), gaussian(1, 30, 64)
    assert 0 < frechet_distance(a, b) < np.inf
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * np.trace(np.cov(a.T)))


def test_kid_of_equal_distributions_is_zero_on_average_and_grows_with_the_shift() -> None:
    a, b = gaussian(0, 600), gaussian(0, 1200)[600:]
    mean, spread = kid(a, b, subsets=50, size=100)
    assert abs(mean) < 4 * spread / 50**0.5 + 0.3 * spread
    shifted = [kid(a, b + move, subsets=20, size=100)[0] for move in (0.5, 1.0, 2.0)]
    assert mean < shifted[0] < shifted[1] < shifted[2]
    assert kid(a, b, subsets=5, size=50, seed=3) == kid(a, b, subsets=5, size=50, seed=3)


def test_the_inception_score_of_certain_and_of_useless_classes() -> None:
    certain = np.tile(np.eye(5), (20, 1))
    assert inception_score(certain, splits=4) == pytest.approx((5, 0))
    useless = np.full((100, 5), 0.2)
    assert inception_score(useless) == pytest.approx((1, 0))


class Flat(nn.Module):
    """Features that are some pixels, so that both sides compute the rest."""

    num_features = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :8].double() / 32


def test_all_three_agree_with_torchmetrics_on_the_same_features() -> None:
    pytest.importorskip("torchmetrics", reason="the dev extra is absent")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    stream = np.random.default_rng(0)
    sets = [stream.integers(low, 256, (300, 3, 4, 4), dtype=np.uint8) for low in (0, 60)]
    features = [Flat()(torch.from_numpy(x)).numpy() for x in sets]
    metrics: dict[str, Any] = {
        "fid": FrechetInceptionDistance(Flat()).set_dtype(torch.float64),
        "kid": KernelInceptionDistance(Flat(), subsets=3, subset_size=300),
    }
    for metric in metrics.values():
        for x, real in zip(sets, (True, False), strict=True):
            metric.update(torch.from_numpy(x), real=real)
    assert frechet_distance(*features) == pytest.approx(float(metrics["fid"].compute()), rel=1e-6)
    mean, _ = kid(*features, subsets=3, size=300)
    assert mean == pytest.approx(float(metrics["kid"].compute()[0]), rel=1e-5)
    score = InceptionScore(Flat(), splits=1)
    score.update(torch.from_numpy(sets[1]))
    probabilities = torch.from_numpy(features[1]).softmax(1).numpy()
    expected = float(score.compute()[0])
    assert inception_score(probabilities, splits=1)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))),
        lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))),
        lambda: kid(np.zeros((5, 3)), np.full((5, 3), np.nan)),
        lambda: inception_score(np.zeros((5, 3))),
        lambda: inception_score(np.eye(3), splits=4),
    ],
)
def test_wrong_features_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|do not compare|sum 1|splits"):
        call()


def test_inception_has_the_layers_of_the_public_weights() -> None:
    network = InceptionV3()
    # torchvision's 27,161,264 without the auxiliary head (3,326,696), with 1008 classes for 1000.
    assert sum(p.numel() for p in network.parameters()) == 27161264 - 3326696 + 8 * 2049
    names = set(network.state_dict())
    for name in (
        "Conv2d_1a_3x3.conv.weight",
        "Conv2d_4a_3x3.bn.running_var",
        "Mixed_5b.branch3x3dbl_3.conv.weight",
        "Mixed_6e.branch7x7dbl_5.bn.bias",
        "Mixed_7a.branch7x7x3_4.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
        "fc.bias",
    ):
        assert name in names


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_weights_of_a_local_file_give_features(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = InceptionV3().state_dict()
    path = tmp_path / f"weights.{form}"
    if form == "pth":
        older = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
        torch.save(older, path)
    else:
        save_file(state, path)
    inception = InceptionFeatures(path)
    assert not inception.published
    grey = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)
    features, probabilities = inception(grey)
    assert features.shape == (2, 2048)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert np.allclose(inception(np.repeat(grey, 3, axis=1), batch=1)[0], features, atol=1e-5)


def test_absent_or_other_weights_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; bring pt_inception.*fid_classifier"):
        InceptionFeatures(tmp_path / "absent.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 no zip")
    torch.save(Flat(), tmp_path / "pickled.pth")
    for name, message in (
        ("other", "other weights"),
        ("damaged", "cannot be read"),
        ("pickled", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            InceptionFeatures(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)
