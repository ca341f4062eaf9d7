"""What the trainings of all judges share: the cross-entropy of every label column.

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.config import JudgeConfig, OptimiserConfig, TextJudgeConfig
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.data.packed import Split
from ldebm.optimisers import ParameterGroup
from ldebm.training.objectives import Terms

__all__ = ["LabelTask", "column_labels"]


class LabelTask(ABC):
    """A task of the trainer.

    Args:
        judge: to be trained.
        train: its rows.
        columns: label columns.
        config: of the judge.
        smoothing: of the labels.
    """

    def __init__(
        self,
        judge: nn.Module,
        train: Split,
        columns: list[str],
        config: JudgeConfig | TextJudgeConfig,
        smoothing: float = 0.0,
    ) -> None:
        self.module, self.train_split, self.smoothing = judge, train, smoothing
        self.lr, self.batch, self.seed = config.lr, config.batch, config.seed
        self.steps_per_epoch = steps_per_epoch(train.n, config.batch)
        self.labels = {name: column_labels(train, name) for name in columns}

    @abstractmethod
    def logits(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """The logits (B, K) of every column, of training rows as update ``step`` sees them."""

    @abstractmethod
    def validate(self, step: int) -> dict[str, float]:
        """Measures on the validation rows."""

    def groups(self) -> list[ParameterGroup]:
        optimiser = OptimiserConfig(lr=self.lr, schedule="one_cycle", final=0.0, clip=1.0)
        return [ParameterGroup("judge", list(self.module.parameters()), optimiser)]

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""
        return

    def loss(self, step: int) -> Terms:
        """The mean over columns of the cross-entropy of the rows that have the label."""
        rows = batch_rows(self.train_split.n, self.batch, self.seed, step)
        losses = []
        for name, logits_BK in self.logits(rows, step).items():
            label_B = torch.from_numpy(self.labels[name][rows]).to(logits_BK.device)
            total = functional.cross_entropy(
                logits_BK,
                label_B,
                ignore_index=-1,
                reduction="sum",
                label_smoothing=self.smoothing,
            )
            losses.append(total / (label_B >= 0).sum().clamp_min(1))
        loss = torch.stack(losses).mean()
        return Terms(loss, {"cross_entropy": loss.detach()})

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""
        return

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""
        return


def column_labels(split: Split, column: str) -> np.ndarray:
    """Classes of a column, int64 (n), -1 for none."""
    return np.asarray(split.labels(column), dtype=np.int64)
