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

__all__ = ["batch_noise", "encode_contexts", "encode_split"]


@torch.no_grad()
def encode_split(
    backbone: Backbone, split: Split, device: torch.device, *, bfloat16: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and log-variance of every row, float32 (n, D), in the split's order.

    Text is read in order of length, which changes nothing but the time it takes. Of latents in
    groups only what ``backbone.summary`` says is kept, (n, C).

    Args:
        backbone: whose encoder is run.
        split: rows.
        device: where to.
        bfloat16: round the products of a recurrent encoder: under a percent of the latents'
            spread, at two thirds of the time.
    """
    backbone.eval()
    order = np.arange(split.n) if split.flat else np.argsort(split.lengths, kind="stable")
    size, kept = backbone.rows_at_once, backbone.summary(torch.empty(1, backbone.latent)).shape[1]
    latents = np.empty((2, split.n, kept), dtype=np.float32)
    with backbone.tables(bfloat16=bfloat16):
        for start in range(0, split.n, size):
            rows = order[start : start + size]
            parts = backbone.encode(make_batch(split, rows, device))
            latents[:, rows] = [backbone.summary(part).float().cpu().numpy() for part in parts]
    mu, logvar = latents
    return mu, logvar


@torch.no_grad()
def encode_contexts(backbone: Backbone, split: Split, device: torch.device) -> np.ndarray:
    """Context of every row, float32 (n, C), in the split's order."""
    backbone.eval()
    parts = []
    for start in range(0, split.n, backbone.rows_at_once):
        rows = np.arange(start, min(start + backbone.rows_at_once, split.n))
        parts.append(backbone.context(make_batch(split, rows, device)).float().cpu().numpy())
    return np.concatenate(parts)


def batch_noise(shape: tuple[int, int], stream: torch.Generator, device: torch.device) -> Tensor:
    """This process's rows of the noise of a whole batch, shape ``shape`` (B, D)."""
    return torch.randn(shape, generator=stream)[share(shape[0])].to(device)
