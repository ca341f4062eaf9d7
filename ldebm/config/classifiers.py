"""Parameters of the evaluation classifiers: of the labels of images, and of texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ldebm.config.sections import Section

__all__ = ["ImageClassifierConfig", "TextClassifierConfig"]


class ImageClassifierConfig(Section):
    """The classifier that measures images: its features give distances, its classes control."""

    width: int = Field(16, gt=0)
    """Channels of the stem; doubled at every halving of the image."""
    blocks: int = Field(1, ge=0)
    """Residual blocks after every halving."""
    epochs: float = Field(8, gt=0)
    """Passes over the training images."""
    batch: int = Field(128, gt=1)
    """Images per update."""
    lr: float = Field(5e-3, gt=0)
    """Largest learning rate."""
    smoothing: float = Field(0.05, ge=0, lt=1)
    """Label smoothing."""
    shift: int = Field(2, ge=0)
    """Training images are moved at random by up to this many pixels."""
    flip: bool = False
    """Training images are mirrored at random."""
    threads: int = Field(2, gt=0)
    """CPU threads of the training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the convolutions in training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto`: the GPU if there is one."""
    seed: int = 0
    """Seed of weights and batches."""


class TextClassifierConfig(Section):
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
