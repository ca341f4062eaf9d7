"""The section ``evaluate.completion``: how sentence completion is trained and scored."""

from __future__ import annotations

from pydantic import Field

from ldebm.config.sections import Section

__all__ = ["CompletionConfig"]


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
