"""NVAE's regularisation of Lipschitz constants (section 3.2): spectral norms and batch-norm scales.

The largest singular value of every convolution is followed by power iteration, all weights of one
shape at a time, and their sum is added to the loss with the largest scale of every batch norm.

Shapes: N weights of one shape, R rows, S columns.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.nvae_cells import BatchNorm, NormConv
from ldebm.seeding import generator

__all__ = ["SpectralPenalty"]

ITERATIONS = 4
FIRST_ITERATIONS = 40


class SpectralPenalty:
    """Sums of spectral norms and of batch-norm scales.

    Args:
        modules: whose convolutions and batch norms count.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        layers = list(modules)
        self.norms = [item for item in layers if isinstance(item, BatchNorm)]
        self.convs: dict[tuple[int, int], list[nn.Conv2d]] = {}
        for item in layers:
            if isinstance(item, nn.Conv2d):
                shape = (item.out_channels, item.weight[0].numel())
                self.convs.setdefault(shape, []).append(item)
        self.vectors: dict[str, Tensor] = {}  # left singular vectors (N, R) by shape

    def __call__(self) -> Tensor:
        """The penalty, a scalar with its gradient."""
        scales = torch.stack([norm.weight.abs().max() for norm in self.norms])
        total = scales.sum()
        for (rows, columns), convs in self.convs.items():
            weights = torch.stack([_matrix(conv) for conv in convs])
            total = total + self._largest(f"{rows}x{columns}", weights).sum()
        return total

    def _largest(self, name: str, weights_NRS: Tensor) -> Tensor:
        """The largest singular value of each matrix, (N,)."""
        u, iterations = self.vectors.get(name), ITERATIONS
        with torch.no_grad():
            if u is None:
                iterations = FIRST_ITERATIONS
                shape = weights_NRS.shape[:2]
                u = torch.randn(shape, generator=generator(0, "spectral", name))
            u = F.normalize(u.to(weights_NRS.device), dim=1, eps=1e-3)
            for _ in range(iterations):
                v = F.normalize(torch.einsum("nr,nrs->ns", u, weights_NRS), dim=1, eps=1e-3)
                u = F.normalize(torch.einsum("nrs,ns->nr", weights_NRS, v), dim=1, eps=1e-3)
        self.vectors[name] = u
        return torch.einsum("nr,nrs,ns->n", u, weights_NRS, v)


def _matrix(conv: nn.Conv2d) -> Tensor:
    weight = conv.normalised() if isinstance(conv, NormConv) else conv.weight
    return weight.flatten(1)
