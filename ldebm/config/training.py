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
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(None, gt=0)  # global L2 norm
    schedule: Literal["constant", "one_cycle", "linear", "cosine", "exponential"] = "constant"
    warmup: int = Field(0, ge=0)  # updates of linear warm-up
    hold: float = Field(0.5, ge=0, le=1)  # "linear": share of updates before the decay starts
    final: float = Field(0.02, ge=0, le=1)  # last learning rate over the largest
    decay: float = Field(0.9, gt=0, le=1)  # "exponential": factor after every epoch (MR 6.5)
    ema: float | None = Field(None, gt=0, lt=1)  # decay of the averaged weights that are kept


class TrainingConfig(Section):
    """What the one trainer needs to know."""

    epochs: float | None = Field(None, ge=0)  # 0: initial weights only
    updates: int | None = Field(None, ge=0)
    batch: int = Field(128, gt=0)
    threads: int = Field(1, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"  # of the backbone's products only
    device: Literal["auto", "cpu", "cuda"] = "auto"
    optimiser: OptimiserConfig = OptimiserConfig()
    checkpoint_seconds: float = Field(60.0, ge=0)
    validate_every: float | None = Field(1.0, gt=0)  # epochs between validations

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give exactly one of 'epochs' and 'updates'")
        return self
