"""Vectors that have no encoder of their own: their principal coordinates, exactly and invertibly.

    u = diag(1 / s) V^T (x - m)
    log p(x) = log p(u_1..u_D) + sum_{d > D} log N(u_d; 0, 1) - sum_d log s_d

V are the eigenvectors of the covariance, s the spreads along them. A prior models the first D
coordinates; the others, if there are any, are independent Gaussians.

Shapes: B batch, N rows, X numbers of a vector, D modelled coordinates, D <= X.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig
from ldebm.errors import UsageError

__all__ = ["ROWS", "LinearBackbone"]

LOG_2PI = math.log(2 * math.pi)
ROWS = 8192  # that are read at a time: in double precision there are never more of them
SHRINKAGE = (0.0, 1e-3, 1e-2, 0.1, 0.3)  # shares that are tried
FLOOR = 1e-8  # of a variance, as a share of their mean: where a direction has none


class LinearBackbone(Backbone):
    """An invertible affine map to principal coordinates.

    Args:
        config: ``latent``, the number D of coordinates that a prior models.
        meta: ``dimensions``, X.
        generator: not used.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        del generator
        self.latent, self.dimensions = config.latent, int(meta["dimensions"])
        size = self.dimensions
        self.register_buffer("shift_X", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("axes_XX", torch.eye(size, dtype=torch.float64))
        self.register_buffer("spread_X", torch.ones(size, dtype=torch.float64))
        self.shift_X: Tensor
        self.axes_XX: Tensor
        self.spread_X: Tensor

    @torch.no_grad()
    def fit(self, train_NX: Any, held_out_NX: np.ndarray) -> None:
        """Takes mean and covariance of vectors, some thousand of which are read at a time.

        The covariance is shrunk towards its diagonal (Schaefer and Strimmer 2005) by as much as
        makes the held-out vectors most likely under the Gaussian.

        Raises:
            UsageError: all vectors are equal.
        """
        total = np.zeros(self.dimensions)
        for part in _parts(train_NX):
            total += part.sum(0)
        mean = total / len(train_NX)
        covariance = np.zeros((self.dimensions, self.dimensions))
        for part in _parts(train_NX):
            covariance += (part - mean).T @ (part - mean)
        covariance /= max(1, len(train_NX) - 1)
        own = covariance.diagonal()
        if (level := float(own.mean())) <= 0:
            raise UsageError(f"z: all {len(train_NX)} rows are equal; expected vectors that differ")
        best = math.inf
        for share in SHRINKAGE:
            shrunk = (1 - share) * covariance + share * np.diag(own)
            variance, axes = np.linalg.eigh(shrunk)
            variance, axes = np.maximum(variance[::-1], FLOOR * level), axes[:, ::-1]
            square = np.zeros(self.dimensions)
            for part in _parts(held_out_NX):
                square += (((part - mean) @ axes) ** 2).sum(0)
            nll = float((np.log(variance) + square / variance / len(held_out_NX)).sum())
            if nll < best:
                axes = axes * np.where(axes.sum(0) < 0, -1.0, 1.0)  # the sign is no solver's choice
                best, found = nll, (mean, axes, np.sqrt(variance))
        for buffer, value in zip((self.shift_X, self.axes_XX, self.spread_X), found, strict=True):
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def coordinates(self, batch_BX: Tensor) -> Tensor:
        """All principal coordinates u, float64 (B, X)."""
        u: Tensor = (batch_BX.double() - self.shift_X) @ self.axes_XX / self.spread_X
        return u

    def encode(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The first D coordinates, which are known exactly: the log-variance is -inf."""
        z_BD = self.coordinates(batch)[:, : self.latent].float()
        return z_BD, torch.full_like(z_BD, -math.inf)

    def decode(self, z_BD: Tensor, rest_BR: Tensor | None = None) -> Tensor:
        """Vectors of coordinates, (B, X).

        Args:
            z_BD: the first D coordinates.
            rest_BR: the others; by default 0, their mean.
        """
        if rest_BR is None:
            rest_BR = z_BD.new_zeros(len(z_BD), self.dimensions - self.latent)
        u_BX = torch.cat([z_BD, rest_BR], 1).double()
        x: Tensor = (u_BX * self.spread_X) @ self.axes_XX.t() + self.shift_X
        return x

    def log_beside(self, batch_BX: Tensor) -> Tensor:
        """log p(x) - log p(u_1..u_D), float64 (B,): other coordinates and the determinant."""
        rest_BR = self.coordinates(batch_BX)[:, self.latent :]
        log_rest_B = -0.5 * (rest_BR.square() + LOG_2PI).sum(1)
        return log_rest_B - self.spread_X.log().sum()

    def reconstruction_nll(self, batch: Tensor, z_BD: Tensor) -> Tensor:
        """-log p(x | z) of what z does not hold of a vector; z itself is a part of it."""
        del z_BD
        return -self.log_beside(batch)


def _parts(rows_NX: Any) -> Iterator[np.ndarray]:
    for start in range(0, len(rows_NX), ROWS):
        yield np.asarray(rows_NX[start : start + ROWS], dtype=np.float64)
