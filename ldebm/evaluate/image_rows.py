"""Shared by all evaluation of image models: pixels as input, parts that fit the memory.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone

__all__ = ["parts", "posterior_draw", "rows_at_once", "to_unit"]

MOST_ROWS = 500
VALUES_AT_ONCE = 2**22  # latents of a part


def rows_at_once(latent: int) -> int:
    """Rows of a part, for D latents a row.

    Example:
        >>> rows_at_once(100), rows_at_once(153_600)
        (500, 27)
    """
    return max(4, min(MOST_ROWS, VALUES_AT_ONCE // latent))


def parts(n: int, latent: int) -> list[slice]:
    """The rows 0 to n - 1 in parts.

    Example:
        >>> parts(700, 100)
        [slice(0, 500, None), slice(500, 700, None)]
    """
    size = rows_at_once(latent)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def to_unit(images_NCHW: np.ndarray, device: torch.device) -> Tensor:
    """uint8 pixels as networks read them, float32 in [-1, 1]."""
    return torch.from_numpy(np.array(images_NCHW)).to(device).float().div_(127.5).sub_(1)


@torch.no_grad()
def posterior_draw(
    backbone: HierarchicalBackbone, images_NCHW: np.ndarray, stream: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One draw of q(u|x) for every image.

    Returns:
        u (N, D), -log p(x|u) (N,) and the KL of every group (N, G), in nats.
    """
    device = next(backbone.parameters()).device
    u, nll, kl = [], [], []
    for part in parts(len(images_NCHW), backbone.latent):
        x_BCHW = to_unit(images_NCHW[part], device)
        noise = torch.randn(len(x_BCHW), backbone.latent, generator=stream, device=device)
        drawn, nll_B = backbone.draw_and_nll(x_BCHW, noise)
        u.append(drawn.u_BD)
        nll.append(nll_B)
        kl.append(drawn.kl_BG)
    return torch.cat(u), torch.cat(nll), torch.cat(kl)
