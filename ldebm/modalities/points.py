"""Models of points, mostly of the plane.

Shapes: B batch, N points, D latent dimension, X numbers of a point.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.errors import UsageError
from ldebm.model import Model
from ldebm.priors.known import Known, find_known
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.data.packed import Measure, Packed
    from ldebm.evaluate.report import Report

__all__ = ["PointModel", "PointScores"]

SCORED_TOGETHER = 64  # points whose trajectories are followed together: bounds the memory


@dataclass(frozen=True)
class PointScores:
    """How probable points are to a model.

    Attributes:
        bound: importance-weighted lower bound of log p(x), nats (N,).
        ess: effective number of the draws of the bound (N,): near 1, it is loose.
    """

    bound: np.ndarray
    ess: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """For tables and JSON."""
        return {"bound": self.bound, "ess": self.ess}


class PointModel(Model):
    """A model of points (B, X), float; X is 2 where nothing else is said.

    Attributes:
        known: what scores have found of the prior's normalisers.
    """

    rows = "points"
    known: Known | None = None

    def batch(self, rows: Any) -> Tensor:
        points = np.asarray(rows, dtype=np.float32)
        wanted = int(self.meta.get("dimensions", 2))
        if points.ndim != 2 or points.shape[1] != wanted:
            raise UsageError(f"points: expected shape (n, {wanted}), got {points.shape}")
        if not np.isfinite(points).all():
            raise UsageError("points: NaN or infinity among them; expected finite numbers")
        return torch.from_numpy(points).to(self.device)

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> np.ndarray:
        x = self.backbone.decode(z_BD)  # type: ignore[operator]
        if mode == "sample":
            stream = generator(seed, "decode", device=self.device)
            noise = torch.randn(x.shape, generator=stream, device=x.device)
            x = x + self.config.backbone.noise * noise
        return np.asarray(x.cpu().numpy())

    def score(
        self, rows: Any, seed: int = 0, importance: int = 100, inner: int = 64
    ) -> PointScores:
        """Likelihood bounds: Monte Carlo estimates, which rise with more draws.

        Args:
            rows: points (N, X).
            seed: of the draws.
            importance: trajectories a point.
            inner: draws of each inner normaliser, at most; even.

        Raises:
            UsageError: they are no such points.
        """
        from ldebm.devices import one_thread
        from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood

        points = self.batch(rows)
        settings = LikelihoodSettings(importance, inner, anneal_share=0, sandwich=False, seed=seed)
        with one_thread():
            if self.known is None and self.prior.energies is not None:
                self.known = find_known(self.prior.energies)
            batches = torch.split(points, SCORED_TOGETHER)
            found = likelihood(self.backbone, self.prior, batches, settings, known=self.known)
        return PointScores(-found["prior"].nll_B, found["prior"].ess_B)

    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        if int(self.meta.get("dimensions", 2)) != 2:
            raise UsageError(
                f"{self.experiment}: points of {self.meta['dimensions']} numbers; the evaluation "
                "is of the plane: use `score` in Python"
            )
        from ldebm.evaluate.on_points import evaluate_points, read_snapshots
        from ldebm.evaluate.views import add_views

        states = read_snapshots(snapshots) if snapshots and snapshots.is_file() else {}
        report = evaluate_points(self, packed, config, states)
        add_views(report, self, packed)
        return report
