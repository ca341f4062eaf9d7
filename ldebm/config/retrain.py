"""The section ``retrain``: scheduled retraining, and what makes a new champion."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from ldebm.config.sections import Section

__all__ = ["GuardConfig", "RetrainConfig", "RuleConfig"]


class GuardConfig(Section):
    """A metric that a new model may not make worse by more than ``tolerance``."""

    direction: Literal["lower", "higher"]  # which way is better
    tolerance: float = Field(0.0, ge=0)


class RuleConfig(Section):
    """What a challenger has to show before it replaces the champion of an experiment."""

    metric: str = "nll"
    direction: Literal["lower", "higher"] = "lower"  # which way is better
    minimum: float = Field(0.0, ge=0)  # the whole interval of the improvement lies above this
    guards: dict[str, GuardConfig] = {}


class RetrainConfig(Section):
    """Scheduled retraining: what, over which seeds, and what makes a new champion."""

    experiments: list[str] = []  # [] : those of `run:`
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    stages: list[str] = Field(["champion"], min_length=1)  # registry stages; first: the champion's
    rule: RuleConfig = RuleConfig()  # of every experiment that `rules` does not name
    rules: dict[str, RuleConfig] = {}

    def rule_of(self, experiment: str) -> RuleConfig:
        """The rule of one experiment."""
        return self.rules.get(experiment, self.rule)

    @model_validator(mode="after")
    def _plain_stages(self) -> RetrainConfig:
        for stage in self.stages:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", stage):
                raise ValueError(f"stage {stage!r}: use letters, digits, '-' and '_' (git tags)")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each only once")
        return self
