"""Between data and backbone: batches, posterior samples of whole splits, noise.

Shapes: B batch, D latent dimension, n rows of a split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ldebm.data.batches import make_batch
from ldebm.data.packed import Split
from ldebm.training.parallel import share

if TYPE_CHECKING:  # whoever only makes batches depends on no network
    from ldebm.backbones.base import Backbone
    from ldebm.backbones.hierarchical import HierarchicalBackbone

__all__ = ["batch_noise", "encode_contexts", "encode_split", "encode_top"]


@torch.no_grad()
def encode_split(
    backbone: Backbone,
    split: Split,
    device: torch.device,
    batch: int = 256,
    *,
    bfloat16: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and log-variance of every row, float32 (n, D), in the split's order.

    Text is read in order of length, which changes nothing but the time it takes.

    Args:
        backbone: whose encoder is run.
        split: rows.
        device: where to.
        batch: rows at a time.
        bfloat16: round the products of a recurrent encoder: under a percent of the latents'
            spread, at two thirds of the time.
    """
    backbone.eval()
    order = np.arange(split.n) if split.flat else np.argsort(split.lengths, kind="stable")
    mu = np.empty((split.n, backbone.latent), dtype=np.float32)
    logvar = np.empty_like(mu)
    with backbone.tables(bfloat16=bfloat16):
        for start in range(0, split.n, batch):
            rows = order[start : start + batch]
            mean, log_variance = backbone.encode(make_batch(split, rows, device))
            mu[rows] = mean.float().cpu().numpy()
            logvar[rows] = log_variance.float().cpu().numpy()
    return mu, logvar


@torch.no_grad()
def encode_contexts(
    backbone: Backbone, split: Split, device: torch.device, batch: int = 256
) -> np.ndarray:
    """Context of every row, float32 (n, C), in the split's order."""
    backbone.eval()
    parts = []
    for start in range(0, split.n, batch):
        rows = np.arange(start, min(start + batch, split.n))
        parts.append(backbone.context(make_batch(split, rows, device)).float().cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def encode_top(
    backbone: HierarchicalBackbone, split: Split, device: torch.device, batch: int = 250
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and log-variance of the top group of every image, in u, float32 (n, C).

    A convolutional group counts with its mean over the places.
    """
    backbone.eval()
    shape = backbone.groups[0].shape

    def top(x_BD: Tensor) -> np.ndarray:
        values = x_BD[:, : backbone.groups[0].size].reshape(len(x_BD), shape[0], -1).mean(2)
        return np.asarray(values.float().cpu().numpy())

    mu, logvar = np.empty((2, split.n, shape[0]), dtype=np.float32)
    for start in range(0, split.n, batch):
        rows = np.arange(start, min(start + batch, split.n))
        mean, log_variance = backbone.encode(make_batch(split, rows, device))
        mu[rows], logvar[rows] = top(mean), top(log_variance)
    return mu, logvar


def batch_noise(shape: tuple[int, int], stream: torch.Generator, device: torch.device) -> Tensor:
    """This process's rows of the noise of a whole batch, shape ``shape`` (B, D)."""
    return torch.randn(shape, generator=stream)[share(shape[0])].to(device)
