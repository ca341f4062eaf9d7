"""What the training of a prior reads: the first stage, its latents and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ldebm.backbones.base import Backbone
from ldebm.config import ExperimentConfig
from ldebm.data.packed import Packed, Split
from ldebm.priors import Posteriors, Prior

__all__ = ["PriorInputs"]


@dataclass(frozen=True)
class PriorInputs:
    """A second stage with all that it reads.

    Attributes:
        config: the experiment, with the length of this run.
        packed: its data.
        seed: of the run.
        device: where to train.
        latents: columns of latents.parquet.
        labels: class of every training row or -1; ``None`` without labels.
        backbone: the trained first stage.
        prior: with initial weights.
        checkpoint: where the training stands, keyed by all that it depends on.
    """

    config: ExperimentConfig
    packed: Packed
    seed: int
    device: torch.device
    latents: dict[str, np.ndarray]
    labels: np.ndarray | None
    backbone: Backbone
    prior: Prior
    checkpoint: Path

    @property
    def train(self) -> Split:
        """The training rows."""
        return self.packed.split("train")

    def column(self, name: str, split: int = 0) -> np.ndarray:
        """A column of latents.parquet: of the training rows, or of split 1, the validation rows."""
        rows: np.ndarray = self.latents[name][self.latents["split"] == split]
        return rows

    def posteriors(self, split: int = 0) -> Posteriors:
        """q(z|x) of the training rows, or of split 1, the validation rows."""
        return Posteriors.of(self.latents, split, self.device)
