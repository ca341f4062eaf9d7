"""The section ``retrain``: scheduled retraining, and what makes a new champion."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from ldebm.config.sections import Section, Seeds

__all__ = ["GuardConfig", "RetrainConfig", "RuleConfig"]


class GuardConfig(Section):
    """A metric that a new model may not make worse by more than ``tolerance``."""

    direction: Literal["lower", "higher"]
    """Whether lower or higher values are better."""
    tolerance: float = Field(0.0, ge=0)
    """How much worse the metric may become."""


class RuleConfig(Section):
    """What a challenger has to show before it replaces the champion of an experiment."""

    metric: str = "nll"
    """Metric by which challenger and champion are compared."""
    direction: Literal["lower", "higher"] = "lower"
    """Whether lower or higher values are better."""
    minimum: float = Field(0.0, ge=0)
    """Smallest improvement: its whole confidence interval has to lie above this."""
    guards: dict[str, GuardConfig] = {}
    """Other metrics that may not become worse, with their tolerance."""


class RetrainConfig(Section):
    """Scheduled retraining: what, over which seeds, and what makes a new champion."""

    experiments: list[str] = []
    """Experiments to retrain; empty: those of `run`."""
    seeds: Seeds = [0, 1, 2]
    """Seeds of the challengers, each only once."""
    stages: list[str] = Field(["champion"], min_length=1)
    """Registry stages that a new champion gets; the first one is compared with."""
    rule: RuleConfig = RuleConfig()
    """Rule of every experiment that `rules` does not name."""
    rules: dict[str, RuleConfig] = {}
    """Rules of single experiments, by name."""

    def rule_of(self, experiment: str) -> RuleConfig:
        """The rule of one experiment."""
        return self.rules.get(experiment, self.rule)

    @model_validator(mode="after")
    def _plain_stages(self) -> RetrainConfig:
        for stage in self.stages:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", stage):
                raise ValueError(f"stage {stage!r}: use letters, digits, '-' and '_' (git tags)")
        return self
