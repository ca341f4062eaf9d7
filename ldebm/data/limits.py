"""What the profile of prepared data may hold: shares of each split, and their bounds.

Validation checks them, and ``ldebm new`` before it adds a data set. What they have in common with
single rows, such as types and sizes, is in ``stages/expectations.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MAX_CLASSES", "Limit", "broken", "failures", "limits", "notes", "shares"]

MAX_CLASSES = 1000
MAX_UNSEEN = 0.05  # share of labelled rows with a label that no training row has
SHOWN = 5  # values that a note names
FEW = 8  # rows of a split: with fewer, one row says little about the share


@dataclass(frozen=True)
class Limit:
    """Bounds of one number of every split.

    Attributes:
        name: of the number, among those of :func:`shares`.
        words: what it is.
        least: its lower bound; None for none.
        most: its upper bound; None for none.
    """

    name: str
    words: str
    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


COMMON = (
    Limit("rows", "rows", least=1),
    Limit("rejected", "share of rows that are left out", most=0.1),
    Limit("duplicates", "share of rows that repeat another row", most=0.5),
)
TEXT = (
    Limit("in_train", "share of rows that the training split has as well", most=0.5),
    Limit("unknown", "share of unknown words", most=0.3),
    Limit("words_mean", "words of a row, in the mean", least=1, most=1000),
    Limit("types", "different words", least=2),
)
OF_KIND: dict[str, tuple[Limit, ...]] = {
    "points": (
        Limit("in_train", "share of points that the training split has as well", most=0.5),
        Limit("smallest_std", "standard deviation of a coordinate", least=1e-6),
        # beyond it float32 networks of unit scale cannot be trained
        Limit("largest", "largest coordinate", most=1e4),
    ),
    "images": (
        Limit("in_train", "share of images that the training split has as well", most=0.25),
        Limit("smallest_std", "standard deviation of the pixels (0 to 255)", least=1),
        Limit("constant", "share of images of one colour", most=0.01),
        Limit("shift", "mean colour's distance from training, in standard deviations", most=1),
    ),
    "sentences": TEXT,
    "dialogues": (*TEXT, Limit("shared_dialogues", "dialogues in two splits", most=0)),
    "documents": (*TEXT, Limit("known_mean", "known words of a document, in the mean", least=2)),
}


def limits(kind: str, labels: Sequence[str]) -> list[Limit]:
    """The bounds that hold for a kind of data with these labels; rows without a label are fine."""
    classes = [
        Limit(f"classes of {label}", f"classes of label {label!r}", most=MAX_CLASSES)
        for label in labels
    ]
    unseen = [
        Limit(
            f"unseen in {label}",
            f"share of labelled rows whose {label!r} no training row has",
            most=MAX_UNSEEN,
        )
        for label in labels
    ]
    return [*COMMON, *classes, *unseen, *OF_KIND[kind]]


def shares(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of every split: counts of the profile over the rows that they are of."""
    rejected = profile["rejects"]["rows"]
    total = sum(facts["rows"] for facts in profile["splits"].values())
    found = []
    for split, facts in profile["splits"].items():
        rows = facts["rows"]
        row = {
            "split": split,
            "rows": rows,
            "rejected": rejected / (total + rejected),
            "duplicates": facts["duplicates"] / rows,
            "in_train": facts.get("in_train", 0) / max(FEW, rows),
        }
        row |= {f"classes of {label}": len(counts) for label, counts in facts["labels"].items()}
        row |= {f"unseen in {label}": _unseen(facts, label) for label in facts["labels"]}
        row |= {limit.name: facts[limit.name] for limit in OF_KIND[profile["kind"]]
                if limit.name in facts and limit.name not in row}  # fmt: skip
        if "unknown" in facts:
            row["unknown"] = facts["unknown"] / facts["words"]
        if "constant" in facts:
            row["constant"] = facts["constant"] / rows
            row["shift"] = _shift(facts, profile["splits"]["train"])
        found.append(row)
    return found


def _unseen(facts: dict[str, Any], label: str) -> float:
    """The share of labels that no training row has; of few labels a single one is no fault."""
    unseen = sum(facts.get("unseen_labels", {}).get(label, {}).values())
    return float(unseen / max(1 / MAX_UNSEEN, unseen + sum(facts["labels"][label].values())))


def notes(profile: dict[str, Any]) -> list[str]:
    """What a user should know of data that pass, a line each.

    Example:
        >>> test = {"labels": {"intent": {"a": 8}}, "unseen_labels": {"intent": {"b": 2}}}
        >>> notes({"splits": {"train": {"labels": {}}, "test": test}})
        ["2 of 10 labelled rows of test count as unlabelled: no training row has their intent 'b'"]
    """
    found = []
    for split, facts in profile["splits"].items():
        for label, counts in facts.get("unseen_labels", {}).items():
            rows = sum(counts.values())
            names = [repr(name) for name in list(counts)[:SHOWN]]
            more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
            found.append(
                f"{rows} of {rows + sum(facts['labels'][label].values())} labelled rows of {split} "
                f"count as unlabelled: no training row has their {label} {', '.join(names)}{more}"
            )
    return found


def _shift(facts: dict[str, Any], train: dict[str, Any]) -> float:
    """The largest difference of a channel's mean from training over the spread of training."""
    difference = np.abs(np.array(facts["mean"]) - np.array(train["mean"]))
    return float((difference / np.maximum(train["std"], 1e-6)).max())


def failures(profile: dict[str, Any]) -> list[str]:
    """What of a profile is out of bounds, a line each; a number of all splits only once.

    Example:
        >>> facts = {"rows": 20, "duplicates": 18, "labels": {}, "smallest_std": 1, "largest": 2}
        >>> failures({"kind": "points", "splits": {"train": facts}, "rejects": {"rows": 0}})
        ['train: share of rows that repeat another row is 0.9; expected at most 0.5']
    """
    return [line for lines in broken(profile).values() for line in lines]


def broken(profile: dict[str, Any]) -> dict[str, list[str]]:
    """The lines of :func:`failures` by the name of the limit."""
    found: dict[str, dict[str, str]] = {}
    for row in shares(profile):
        for limit in limits(profile["kind"], profile.get("labels", ())):
            value = row.get(limit.name)
            if value is None or limit.holds(value):
                continue
            bounds = [
                f"{word} {bound:g}"
                for word, bound in (("at least", limit.least), ("at most", limit.most))
                if bound is not None
            ]
            text = f"{limit.words} is {value:.3g}; expected {' and '.join(bounds)}"
            found.setdefault(limit.name, {}).setdefault(text, f"{row['split']}: {text}")
    return {name: list(lines.values()) for name, lines in found.items()}
