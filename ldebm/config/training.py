"""The section ``training`` of either stage: its length, its batches and its optimiser."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ldebm.config.sections import Section

__all__ = ["OptimiserConfig", "TrainingConfig"]


class OptimiserConfig(Section):
    """Adam with clipping, a schedule and (off by default) an average of the weights."""

    added: ClassVar[frozenset[str]] = frozenset({"name", "eps", "decay"})
    name: Literal["adam", "adamax"] = "adam"
    """Optimiser: Adam or Adamax."""
    lr: float = Field(1e-3, gt=0)
    """Largest learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Small number that is added to the denominator."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight of the L2 penalty."""
    clip: float | None = Field(None, gt=0)
    """Largest L2 norm of the gradient; null: no clipping."""
    schedule: Literal["constant", "one_cycle", "linear", "cosine", "exponential"] = "constant"
    """Course of the learning rate: constant; one cycle (rise over 30 % of the updates, then
    cosine); linear, cosine or exponential decay.
    """
    warmup: int = Field(0, ge=0)
    """Updates over which the learning rate rises linearly; not for one_cycle."""
    hold: float = Field(0.5, ge=0, le=1)
    """Share of the updates before the linear decay starts."""
    final: float = Field(0.02, ge=0, le=1)
    """Last learning rate, as a share of the largest; for one_cycle, linear and cosine."""
    decay: float = Field(0.9, gt=0, le=1)
    """Factor of the learning rate after every epoch, for exponential decay."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an average of the weights, which then is what is kept; null: no average."""


class TrainingConfig(Section):
    """What the one trainer needs to know."""

    added: ClassVar[frozenset[str]] = frozenset({"patience"})

    epochs: float | None = Field(None, ge=0)
    """Length in passes over the training rows; 0: keep the initial weights. Give either this or
    `updates`.
    """
    updates: int | None = Field(None, ge=0)
    """Length in updates; 0: keep the initial weights. Give either this or `epochs`."""
    batch: int = Field(128, gt=0)
    """Rows per update."""
    threads: int = Field(1, gt=0)
    """CPU threads; the same number gives the same bytes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products of the backbone in training, and of the score matching of
    a prior on images; weights, losses and densities stay in float32.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto`: the GPU if there is one."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser and learning rate."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """Seconds between checkpoints, from which a stopped run continues."""
    validate_every: float | None = Field(1.0, gt=0)
    """Epochs between validations; null: only at the end."""
    patience: int | None = Field(None, gt=0)
    """Validations in a row that may be no better than the best before training stops; null: it
    does not stop before its length. Needs `validate_every`.
    """

    def length(self, steps_per_epoch: int) -> int:
        """Updates of the training; 0 where the initial weights are kept."""
        if self.updates is not None:
            return self.updates
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch)) if self.epochs else 0

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give exactly one of 'epochs' and 'updates'")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("'patience' counts validations: set 'validate_every' too")
        return self
