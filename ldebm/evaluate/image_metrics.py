"""Distances between sets of images by their features: FID, KID and the inception score.

The formulas take any features. With those of Inception, whose weights the user has in a local file,
they are the published metrics; with those of the pipeline's own classifier they are reported as
``fid_classifier``, ``kid_classifier`` and ``is_classifier``, since the numbers do not compare.

Sources: Heusel et al. 2017 (FID), Binkowski et al. 2018 (KID), Salimans et al. 2016 (IS);
docs/method.md, section 5.8.

Shapes: N and M images, F features, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ldebm.errors import UsageError
from ldebm.files import hash_path
from ldebm.nn.inception import InceptionV3
from ldebm.seeding import numpy_generator

__all__ = ["InceptionFeatures", "frechet_distance", "inception_score", "kid"]

INPUT = 299  # pixels of a side that Inception reads
PUBLISHED = "6726825d"  # first digits of the sha256 of the public weights, as in their names


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the fitted Gaussians, in float64.

    The trace of the root is that of (R S_b R)^(1/2) with R the symmetric root of S_a, so that only
    symmetric matrices are decomposed and no imaginary part arises.

    Args:
        features_a: (N, F), at least two rows.
        features_b: (M, F), at least two rows.

    Raises:
        ValueError: the features do not fit, or there are too few rows for a covariance.

    Example:
        >>> x = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> round(frechet_distance(x, x + np.array([3.0, 4.0])), 6)
        25.0
    """
    a_NF, b_MF = _features(features_a), _features(features_b)
    if a_NF.shape[1] != b_MF.shape[1]:
        raise ValueError(f"{a_NF.shape[1]} and {b_MF.shape[1]} features do not compare")
    difference_F = a_NF.mean(0) - b_MF.mean(0)
    a_FF, b_FF = _covariance(a_NF), _covariance(b_MF)
    values_F, vectors_FF = np.linalg.eigh(a_FF)
    root_FF = (vectors_FF * np.sqrt(np.maximum(values_F, 0))) @ vectors_FF.T
    product_FF = root_FF @ b_FF @ root_FF
    roots_F = np.sqrt(np.maximum(np.linalg.eigvalsh((product_FF + product_FF.T) / 2), 0))
    distance = difference_F @ difference_F + np.trace(a_FF) + np.trace(b_FF) - 2 * roots_F.sum()
    return max(0.0, float(distance))


def _features(features: np.ndarray) -> np.ndarray:
    array_NF = np.asarray(features, dtype=np.float64)
    if array_NF.ndim != 2 or len(array_NF) < 2 or not np.isfinite(array_NF).all():
        shape = " x ".join(map(str, array_NF.shape))
        raise ValueError(f"features of {shape}: expected at least two finite rows")
    return array_NF


def _covariance(features_NF: np.ndarray) -> np.ndarray:
    centred_NF = features_NF - features_NF.mean(0)
    covariance_FF: np.ndarray = centred_NF.T @ centred_NF / (len(features_NF) - 1)
    return covariance_FF


def kid(
    features_a: np.ndarray,
    features_b: np.ndarray,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and spread over random subsets of the unbiased squared MMD with k = (x.y / F + 1)^3.

    Args:
        features_a: (N, F).
        features_b: (M, F).
        subsets: how many are drawn from either side, without replacement within one.
        size: rows of a subset; fewer where a side has fewer.
        seed: of the subsets.

    Raises:
        ValueError: the features do not fit.
    """
    a_NF, b_MF = _features(features_a), _features(features_b)
    if a_NF.shape[1] != b_MF.shape[1]:
        raise ValueError(f"{a_NF.shape[1]} and {b_MF.shape[1]} features do not compare")
    size = min(size, len(a_NF), len(b_MF))
    values = []
    for subset in range(subsets):
        stream = numpy_generator(seed, "kid", subset)
        x_SF = a_NF[stream.permutation(len(a_NF))[:size]]
        y_SF = b_MF[stream.permutation(len(b_MF))[:size]]
        values.append(_mmd(x_SF, y_SF))
    return float(np.mean(values)), float(np.std(values))


def _mmd(x_SF: np.ndarray, y_SF: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of two equally large sets."""

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        cube: np.ndarray = (one @ other.T / one.shape[1] + 1) ** 3
        return cube

    n = len(x_SF)
    within = 0.0
    for side in (x_SF, y_SF):
        matrix = kernel(side, side)
        within += (matrix.sum() - np.trace(matrix)) / (n * (n - 1))
    return float(within - 2 * kernel(x_SF, y_SF).mean())


def inception_score(probabilities: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and spread over splits of exp(mean KL(p(y|x) || p(y))).

    Args:
        probabilities: (N, K), rows in the order they were generated.
        splits: parts of the rows, one after the other; published numbers use 10 or 1.

    Raises:
        ValueError: there are fewer rows than splits, or no distributions.

    Example:
        >>> inception_score(np.eye(4), splits=1)
        (4.0, 0.0)
    """
    p_NK = np.asarray(probabilities, dtype=np.float64)
    if p_NK.ndim != 2 or not 0 < splits <= len(p_NK):
        raise ValueError(f"{splits} splits of {len(p_NK)} rows")
    if (p_NK < 0).any() or not np.allclose(p_NK.sum(1), 1, atol=1e-3):
        raise ValueError("probabilities: rows of numbers of at least 0 with sum 1 are needed")
    scores = []
    for part_NK in np.array_split(p_NK, splits):
        ratio_NK = np.where(part_NK > 0, part_NK / part_NK.mean(0).clip(1e-300), 1.0)
        scores.append(np.exp((part_NK * np.log(ratio_NK)).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


class InceptionFeatures:
    """Features and class probabilities of Inception-v3 with the public weights of FID.

    Images are scaled to 299 x 299 by bilinear interpolation, as pytorch-fid does, whose numbers the
    papers report; grey ones are repeated in three channels.

    Args:
        path: local file of the weights (``evaluate.inception``), .pth or .safetensors.
        device: where to compute.

    Attributes:
        published: whether the file is the public one, bit for bit; only then is the result FID.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise UsageError(
                f"evaluate.inception: {path}: no such file; bring pt_inception-2015-12-05-"
                f"{PUBLISHED}.pth of pytorch-fid there, or leave the key out (then fid_classifier, "
                "kid_classifier and is_classifier are reported alone)"
            )
        self.published = hash_path(path).startswith(PUBLISHED)
        self.network = InceptionV3()
        tensors = _weights(path)
        expected = self.network.state_dict()
        for name, value in expected.items():
            if name.endswith("num_batches_tracked"):  # older files do not have it, nothing reads it
                tensors.setdefault(name, value)
        try:
            self.network.load_state_dict({n: t for n, t in tensors.items() if n in expected})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"evaluate.inception: {path}: other weights ({reason})") from None
        self.device = torch.device(device)
        self.network.to(self.device).eval()

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray, batch: int = 50) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, 2048) and probabilities (N, 1008), float32, of uint8 (N, C, H, W)."""
        features, probabilities = [], []
        for start in range(0, len(pixels), batch):
            part = torch.from_numpy(np.array(pixels[start : start + batch])).to(self.device)
            features_BF = self.network(_scaled(part.float() / 255))
            features.append(features_BF.cpu().numpy())
            probabilities.append(self.network.fc(features_BF).softmax(1).cpu().numpy())
        return np.concatenate(features), np.concatenate(probabilities)


def _scaled(x_BCHW: Tensor) -> Tensor:
    """Images in [0, 1] as Inception reads them."""
    x_B3HW = x_BCHW.expand(-1, 3, -1, -1)
    size = (INPUT, INPUT)
    scaled = functional.interpolate(x_B3HW, size=size, mode="bilinear", align_corners=False)
    return 2 * scaled - 1


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing in it is executed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except (
        SafetensorError, OSError, RuntimeError, EOFError, AttributeError, ValueError, KeyError,
        pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"evaluate.inception: {path}: cannot be read ({reason})") from None
