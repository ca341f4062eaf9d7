"""The section ``evaluate``: what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ldebm.config.plugged import Plugged
from ldebm.config.prior import MixtureConfig
from ldebm.config.sections import Section

__all__ = ["OOD_TRANSFORMS", "TOLERANCE", "CompletionConfig", "EvaluateConfig"]

TOLERANCE = 1.0  # nats by which the two sides of an estimate's normalisers may differ
OOD_TRANSFORMS = ("rotated", "inverted", "shuffled", "noise")


class CompletionConfig(Section):
    """Sentence completion as in Yu et al. (2022), appendix B.3, which gives no sizes."""

    rows: int | None = Field(500, gt=0)
    """Test rows that are completed, a random subset; null: all."""
    share: float = Field(0.5, gt=0, lt=1)
    """Share of the words of a row that are masked. Yu et al. (2022), appendix B.3, mask half."""
    hidden: int = Field(200, gt=0)
    """Hidden size of the network that splits z_0 into an observed and an unknown part."""
    observed: int | None = Field(None, gt=0)
    """Dimensions of the observed part of z_0; null: half of them."""
    updates: int = Field(500, gt=0)
    """Updates of the training of that network."""
    batch: int = Field(64, gt=0)
    """Rows per update."""
    lr: float = Field(2e-3, gt=0)
    """Learning rate of that training."""
    draws: int = Field(8, gt=0)
    """Draws of the unknown part for each row."""
    beam: int = Field(16, gt=0)
    """Hypotheses that the beam search keeps per row while it fills the gaps."""
    steps: int = Field(50, gt=0)
    """Langevin moves per noise level."""


class EvaluateConfig(Section):
    """What is measured, and with how many samples."""

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "chains", "inception", "ood", "ood_rows", "classifier", "word_vectors", "completion",
            "control_draws", "metrics", "mixture",
        }
    )  # fmt: skip
    unlisted: ClassVar[frozenset[str]] = frozenset({"metrics"})
    former: ClassVar[Mapping[str, str]] = {"judge": "classifier"}
    threads: int = Field(1, gt=0)
    """CPU threads of the evaluation; results can differ in the last digits with another number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto`: the GPU if there is one."""
    samples: int = Field(5000, gt=0)
    """Samples drawn from the prior."""
    rows: int | None = Field(None, gt=0)
    """Test rows of the likelihood, a random subset; null: all."""
    importance: int = Field(500, gt=1)
    """Importance samples (trajectories) per row of the likelihood. Yu et al. (2022), appendix
    B.2, use 500.
    """
    inner: int = Field(64, gt=1)
    """Draws per estimate of a normalising constant, on average over the levels."""
    mixture: MixtureConfig | None = None
    """Sizes of the Gaussian mixtures that stand beside the prior of a model of text or images;
    null: their defaults.
    """
    decode: Literal["greedy", "sample"] = "sample"
    """Take the most probable word at every place, or draw words; for images, the mean of the
    pixels or a draw.
    """
    reverse_lm: Literal["gru", "awd_lstm", "none"] = "gru"
    """Language model that is trained on samples for the reverse perplexity; `none`: skip that
    metric.
    """
    reverse_lm_epochs: int = Field(4, gt=0)
    """Epochs of the training of that language model."""
    label_column: list[str] = []
    """Label columns with which the classes are compared; empty: all that the data have."""
    per_label: int = Field(200, gt=0)
    """Samples per class for the accuracy of control."""
    completion: CompletionConfig | None = None
    """Train and score sentence completion, for text; null: skip it."""
    ood: list[str] = []
    """Out-of-distribution images to tell from the test images: names of data sets, or of the
    transforms rotated, inverted, shuffled and noise.
    """
    ood_rows: int = Field(500, gt=1)
    """Test images of either kind that are told apart."""
    chains: int = Field(64, ge=0)
    """Langevin chains of images that are followed for the figures; 0: none."""
    classifier: str | None = None
    """Text data set whose `text_classifier` scores control; null: none."""
    control_draws: int = Field(1, gt=0)
    """Draws per sample of a class, of which the first that the model itself recognises is kept;
    1: no choice is made.
    """
    word_vectors: str | None = None
    """GloVe file for the embedding scores of responses; null: vectors made from the training
    text.
    """
    inception: str | None = None
    """Local file of Inception's weights, for FID; null: no FID by Inception."""
    metrics: Annotated[list[str], Plugged("metrics", "a list of plugins")] = []
    """Metrics of yours to add (docs/extending.md)."""
