"""Parameters of what measures text: the classifier of a data set's labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ldebm.config.sections import Section

__all__ = ["TextJudgeConfig"]


class TextJudgeConfig(Section):
    """A bidirectional GRU classifier, by which control over a label is scored.

    It is trained on the data set that names it, which need not be the one that a model learns.
    """

    embed: int = Field(128, gt=0)
    """Size of the word embeddings."""
    hidden: int = Field(128, gt=0)
    """Hidden size of the GRU in each direction."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Dropout rate."""
    epochs: float = Field(3, gt=0)
    """Passes over the training rows."""
    batch: int = Field(128, gt=0)
    """Rows per update."""
    lr: float = Field(2e-3, gt=0)
    """Largest learning rate."""
    threads: int = Field(2, gt=0)
    """CPU threads of the training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto`: the GPU if there is one."""
    seed: int = 0
    """Seed of weights and batches."""
