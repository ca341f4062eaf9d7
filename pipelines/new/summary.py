"""What ``ldebm new`` says: what it has found in a file, and how long a build takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldebm.config import ExperimentConfig

__all__ = ["Summary", "expected_minutes", "start_from"]

SHOWN = 6  # classes
MOVES = 48  # levels times Langevin moves of the runs that the numbers below are fitted to


@dataclass(frozen=True)
class Summary:
    """What a data set is.

    Attributes:
        kind: sentences, dialogues, documents, points or images.
        source: the file or folder.
        rows: by split.
        own_splits: whether the source has all of them.
        left_out: by reason.
        classes: label column to class to rows.
        facts: further lines by name, such as ``columns`` or ``lengths``.
        minutes: of a build of one seed on two CPU cores, roughly; None: not known.
    """

    kind: str
    source: str
    rows: Mapping[str, int]
    own_splits: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    minutes: float | None = None

    def lines(self) -> list[str]:
        """The summary, one fact a line.

        Example:
            >>> found = Summary("sentences", "a.txt", {"train": 90, "valid": 5, "test": 5})
            >>> print("\\n".join(found.lines()))
            a.txt: sentences
              rows      100: 90 train, 5 valid, 5 test (divided at random)
        """
        parts = ", ".join(f"{rows} {split}" for split, rows in self.rows.items())
        how = "as the source has them" if self.own_splits else "divided at random"
        facts = {"rows": f"{sum(self.rows.values())}: {parts} ({how})"}
        if self.left_out:
            why = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            facts["left out"] = why
        facts |= self.facts
        lines = [f"  {name:<9} {text}" for name, text in facts.items()]
        for name, counts in self.classes.items():
            without = sum(self.rows.values()) - sum(counts.values())
            more = f"; {without} rows have none" if without else ""
            lines.append(f"  {'label':<9} {name}: {_classes(counts)}{more}")
        if self.minutes is not None:
            lines.append(f"  {'build':<9} {_about(self.minutes)} on two CPU cores")
        return [f"{self.source}: {self.kind}", *lines]


def _classes(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {rows}" for name, rows in ordered[:SHOWN])
    more = f", and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{len(ordered)} classes ({shown}{more})"


def _about(minutes: float) -> str:
    if minutes < 1.5:
        return "about a minute"
    if minutes < 90:
        return f"about {minutes:.0f} minutes"
    return f"about {minutes / 60:.0f} hours"


def expected_minutes(config: ExperimentConfig) -> float | None:
    """Minutes of one seed on one CPU core; None where nothing is known.

    Fitted to the recorded runs of hierarchical models on digits (8 x 8), CIFAR-10 (32 x 32) and
    CelebA (64 x 64): right to a factor of two.
    """
    backbone, prior = config.backbone, config.prior
    updates, more = backbone.training.updates, prior.training.updates
    if backbone.hvae is None or updates is None or more is None:
        return None
    last = backbone.hvae.layers[-1].conv
    if last is None:
        return None
    side = last[1] * 2 ** (len(backbone.hvae.widths) - 1)
    moves = prior.levels * prior.sampler.steps / MOVES
    first = updates * (0.02 + 2e-6 * backbone.training.batch * side**2)
    second = more * (0.03 + 0.0032 * side * moves)
    evaluation = 30 + config.evaluate.samples * 0.004 * side * moves
    return float(first + second + evaluation) / 60


def start_from(template: str) -> dict[str, Any]:
    """The defaults list of an experiment that starts from ``conf/template/``."""
    return {"defaults": [f"/template/{template}@_here_", "_self_"]}
