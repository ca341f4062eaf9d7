"""Models of points of the plane.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.errors import UsageError
from ldebm.model import Model
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.data.packed import Measure, Packed
    from ldebm.evaluate.report import Report

__all__ = ["PointModel"]


class PointModel(Model):
    """A model of points (B, 2), float."""

    rows = "points"

    def batch(self, rows: Any) -> Tensor:
        points = np.asarray(rows, dtype=np.float32)
        if points.ndim != 2 or points.shape[1] != 2:
            raise UsageError(f"points: expected shape (n, 2), got {points.shape}")
        return torch.from_numpy(points).to(self.device)

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> np.ndarray:
        x = self.backbone.decode(z_BD)  # type: ignore[operator]
        if mode == "sample":
            stream = generator(seed, "decode", device=self.device)
            noise = torch.randn(x.shape, generator=stream, device=x.device)
            x = x + self.config.backbone.noise * noise
        return np.asarray(x.cpu().numpy())

    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        from ldebm.evaluate.on_points import evaluate_points, read_snapshots
        from ldebm.evaluate.views import add_views

        states = read_snapshots(snapshots) if snapshots and snapshots.is_file() else {}
        report = evaluate_points(self, packed, config, states)
        add_views(report, self, packed)
        return report
