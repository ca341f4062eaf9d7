"""Models of counts.

Shapes: N rows, X counts a row, D latent dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.batches import row_batches
from ldebm.data.packed import Measure, Packed
from ldebm.errors import UsageError
from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood
from ldebm.evaluate.report import Report, subset
from ldebm.evaluate.views import add_views
from ldebm.model import Model
from ldebm.seeding import generator


class CountModel(Model):
    """A model of counts (N, X)."""

    rows = "counts"

    def batch(self, rows: Any) -> Tensor:
        counts = np.asarray(rows, dtype=np.float32)
        wanted = int(self.meta["dimensions"])
        if counts.ndim != 2 or counts.shape[1] != wanted:
            raise UsageError(f"counts: expected shape (n, {wanted}), got {counts.shape}")
        return torch.from_numpy(counts).to(self.device)

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> np.ndarray:
        rates = self.backbone.rates(z_BD)
        if mode == "sample":
            rates = torch.poisson(rates, generator(seed, "decode", device=rates.device))
        return np.asarray(rates.cpu().numpy())

    @torch.no_grad()
    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        report, test = Report(), packed.split("test")
        rows = subset(test.n, config.rows, self.seed, "evaluate-rows")
        _, batches = row_batches(test, rows, 50, self.device)
        settings = LikelihoodSettings(config.importance, config.inner, seed=self.seed)
        bound = likelihood(self.backbone, self.prior, batches, settings)["prior"]
        samples = self.generate(config.samples, seed=self.seed)
        report.metrics |= bound.metrics()
        report.metrics["mean_count"] = float(samples.mean())
        report.metrics["mean_count_test"] = float(np.mean(test.x))
        texts = [" ".join(f"{count:.0f}" for count in row) for row in samples[:100]]
        report.samples = [{"kind": "sample", "text": text} for text in texts]
        add_views(report, self, packed)
        return report
