"""Sample quality of models of the plane (MMD: Gretton et al. 2012).

Shapes: N samples, M reference points, K modes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ldebm.data.points import NAMES, log_density, mode_distances

__all__ = ["bandwidth", "density_panel", "mmd2", "mode_metrics", "nll_true"]

EXPECTED_SHARE = {k: 1 - math.exp(-0.5 * k**2) for k in (1, 2, 3)}  # of a 2-D Gaussian
LARGEST = 5000  # samples that are compared
COVERED = 0.1  # of its expected share that a mode must have
PANEL = 100  # cells of a side, as the papers' plots
KERNEL_WIDTH = 0.15  # standard deviation of the papers' plots, on axes rescaled to [-4, 4]


def mode_metrics(name: str, x_N2: Tensor) -> dict[str, float]:
    """How samples spread over the modes or arms of a generated data set.

    Args:
        name: one of :data:`ldebm.data.points.NAMES`.
        x_N2: samples.

    Returns:
        ``modes_covered``, whose share is at least a tenth of the expected 1/K; ``mode_share_min``
        and ``mode_share_max``, shares of the samples within 3 standard deviations of their nearest
        mode, over the expected share; and
        ``share_within_k_sigma`` for k = 1, 2, 3 (data: 0.39, 0.86, 0.99).
    """
    distance_NK = mode_distances(name, x_N2)
    nearest_N, mode_N = distance_NK.min(1)
    modes = distance_NK.shape[1]
    inside = nearest_N <= 3
    share_K = torch.bincount(mode_N[inside], minlength=modes).double() / len(x_N2)
    relative_K = share_K * modes / EXPECTED_SHARE[3]
    result = {
        "modes_covered": float((relative_K >= COVERED).sum()),
        "mode_share_min": float(relative_K.min()),
        "mode_share_max": float(relative_K.max()),
    }
    for k in EXPECTED_SHARE:
        result[f"share_within_{k}_sigma"] = float((nearest_N <= k).double().mean())
    return result


def bandwidth(x_M2: Tensor) -> float:
    """The median distance between points, of the first 2,000."""
    return float(torch.pdist(x_M2[:2000].double()).median())


def mmd2(x_N2: Tensor, y_M2: Tensor, width: float) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 width^2)).

    Args:
        x_N2: samples.
        y_M2: reference points.
        width: of the kernel. The median distance hides the modes; a fifth of it sees them.
    """
    x, y = x_N2[:LARGEST].float(), y_M2[:LARGEST].float()
    within = _kernel_mean(x, x, width, diagonal=False) + _kernel_mean(y, y, width, diagonal=False)
    return within - 2 * _kernel_mean(x, y, width, diagonal=True)


def _kernel_mean(x: Tensor, y: Tensor, width: float, *, diagonal: bool) -> float:
    total = 0.0
    scale = -0.5 / width**2
    for start in range(0, len(x), 1000):
        part = x[start : start + 1000]
        squared = torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist").square_()
        total += float(squared.mul_(scale).exp_().sum(dtype=torch.float64))
    if diagonal:
        return total / (len(x) * len(y))
    return (total - len(x)) / (len(x) * (len(x) - 1))


def nll_true(name: str, x_N2: Tensor) -> float | None:
    """The entropy of the data on these points, -mean log p; ``None`` where p is unknown."""
    if name not in NAMES:
        return None
    return -float(log_density(name, x_N2).mean())


def density_panel(x_N2: Tensor, limit: float) -> np.ndarray:
    """A kernel density estimate as in figures 2 and A2 of Yu et al. (2022).

    Args:
        x_N2: samples.
        limit: the panel shows [-limit, limit] in both directions.

    Returns:
        Density on 100 x 100 cells, float32; first index is the second coordinate (an image).
    """
    edges = torch.linspace(-limit, limit, PANEL + 1, dtype=torch.float64)
    x = x_N2.double()
    x = x[(x.abs() < limit).all(1)]
    index = torch.floor((x + limit) / (2 * limit) * PANEL).long().clamp(0, PANEL - 1)
    counts = torch.bincount(index[:, 1] * PANEL + index[:, 0], minlength=PANEL**2).double()
    histogram = counts.reshape(PANEL, PANEL) / max(len(x_N2), 1) / float(edges[1] - edges[0]) ** 2
    # The kernel's width refers to axes of half-length 4.
    width = KERNEL_WIDTH / 4 * PANEL / 2
    steps = torch.arange(PANEL, dtype=torch.float64)
    blur = torch.exp(-0.5 * ((steps[:, None] - steps[None]) / width) ** 2)
    blur = blur / (width * math.sqrt(2 * math.pi))
    return (blur @ histogram @ blur.t()).numpy().astype(np.float32)
