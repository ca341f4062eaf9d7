"""What the profile of prepared data may hold: shares of each split, and their bounds.

Validation checks them, and ``ldebm new`` before it adds a data set, so that it takes no data that a
build then refuses. What single rows must be is in ``stages/expectations.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.packed import SPLITS
from ldebm.data.tokenizer import Tokenizer, sample, train_tokenizer
from ldebm.errors import UsageError

__all__ = ["MAX_CLASSES", "UNKNOWN", "Limit", "broken", "check_classes", "failures", "limits",
           "notes", "shares", "unknown_shares"]  # fmt: skip

MAX_CLASSES = 1000
MAX_UNSEEN = 0.05  # share of labelled rows with a label that no training row has
SHOWN = 5  # values that a note names
UNKNOWN = 0.5  # of the words of a split: the vocabulary then is of another text
FEW = 8  # rows of a split: with fewer, one row says little about the share


@dataclass(frozen=True)
class Limit:
    """Bounds of one number of every split.

    Attributes:
        name: of the number, among those of :func:`shares`.
        words: what it is.
        least: its lower bound; None for none.
        most: its upper bound; None for none.
        remedy: what to do where it is outside.
    """

    name: str
    words: str
    least: float | None = None
    most: float | None = None
    remedy: str = ""

    def holds(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def failure(self, value: float) -> str:
        """A value outside the bounds in words."""
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.words} is {value:.3g}; expected {' and '.join(bounds)}{remedy}"


COMMON = (
    Limit("rows", "rows", least=1),
    Limit("rejected", "share of rows that are left out", most=0.1),
    Limit("empty", "share of rows without text", most=0.1, remedy="is it the right column?"),
    Limit("duplicates", "share of rows that repeat another row", most=0.5),
)
TEXT = (
    Limit("in_train", "share of rows that the training split has as well", most=0.5),
    Limit(
        "unknown", "share of words that the vocabulary lacks", most=UNKNOWN,
        remedy="take pieces of words: --tokenizer unigram of `ldebm new`, tokenizer: unigram of "
        "the data set; or raise vocab_size",
    ),
    Limit("words_mean", "words of a row, in the mean", least=1, most=1000),
    Limit("types", "different words", least=2, remedy="is it the right column?"),
)  # fmt: skip
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
        Limit("constant", "share of images of one colour, beside a first", most=0.01),
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


def shares(
    profile: Mapping[str, Any], unknown: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The numbers of every split: counts of the profile over the rows that they are of.

    Args:
        profile: of the prepared data.
        unknown: by split, as :func:`unknown_shares` gives it, of sentences and dialogues; otherwise
            only words that are unknown in the source count.
    """
    rejects, splits = profile["rejects"], profile["splits"]
    total = sum(facts["rows"] for facts in splits.values()) + rejects["rows"]
    found = []
    for split in (name for name in SPLITS if name in splits):
        facts = splits[split]
        rows = facts["rows"]
        row = {
            "split": split,
            "rows": rows,
            "rejected": rejects["rows"] / total,
            "empty": rejects.get("reasons", {}).get("empty", 0) / total,
            "duplicates": facts["duplicates"] / rows,
            "in_train": facts.get("in_train", 0) / max(FEW, rows),
        }
        row |= {f"classes of {label}": len(counts) for label, counts in facts["labels"].items()}
        row |= {f"unseen in {label}": _unseen(facts, label) for label in facts["labels"]}
        row |= {limit.name: facts[limit.name] for limit in OF_KIND[profile["kind"]]
                if limit.name in facts and limit.name not in row}  # fmt: skip
        if profile["kind"] == "points" and rows < FEW:
            row["smallest_std"] = splits["train"]["smallest_std"]
        if "unknown" in facts:
            row["unknown"] = facts["unknown"] / facts["words"]
        if unknown is not None:
            row["unknown"] = unknown[split]
        if "constant" in facts:
            row["constant"] = max(0, facts["constant"] - 1) / rows  # one may be
            row["shift"] = _shift(facts, splits["train"]) * min(1.0, rows / FEW) ** 0.5
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


def failures(profile: Mapping[str, Any], unknown: Mapping[str, float] | None = None) -> list[str]:
    """What of a profile is out of bounds, a line each; a number of all splits only once.

    Args:
        profile: of the prepared data.
        unknown: as of :func:`shares`.

    Example:
        >>> facts = {"rows": 20, "duplicates": 18, "labels": {}, "smallest_std": 1, "largest": 2}
        >>> failures({"kind": "points", "splits": {"train": facts}, "rejects": {"rows": 0}})
        ['train: share of rows that repeat another row is 0.9; expected at most 0.5']
    """
    return [line for lines in broken(profile, shares(profile, unknown)).values() for line in lines]


def broken(profile: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The lines of :func:`failures` by the name of the limit; ``rows`` is of :func:`shares`."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        for limit in limits(profile["kind"], profile.get("labels", ())):
            value = row.get(limit.name)
            if value is not None and not limit.holds(value):
                text = limit.failure(value)
                found.setdefault(limit.name, {}).setdefault(text, f"{row['split']}: {text}")
    return {name: list(lines.values()) for name, lines in found.items()}


def unknown_shares(
    config: DataConfig, texts: Mapping[str, Collection[str]]
) -> tuple[dict[str, float], Tokenizer]:
    """By split the share of tokens that are unknown, and the tokenizer, which is that of packing.

    Args:
        config: of sentences or dialogues.
        texts: of every split.

    Raises:
        UsageError: no tokenizer can be trained.
    """
    chosen = sample(texts["train"], len(texts["train"]))
    tokenizer = train_tokenizer(chosen, config.tokenizer, config.vocab_size)
    found = {}
    for split in SPLITS:
        tokens = unknown = 0
        for rows in tokenizer.encode_parts(texts[split]):
            tokens += sum(len(row) - 2 for row in rows)
            unknown += sum(row.count(tokenizer.unk_id) for row in rows)
        found[split] = unknown / max(1, tokens)
    return found, tokenizer


def check_classes(classes: int, rows: int, where: Path | str = "data") -> None:
    """Checks that clustering can find so many classes in the training rows of ``where``.

    Raises:
        UsageError: there are fewer rows.
    """
    if rows < classes:
        raise UsageError(
            f"{where}: prior.classes {classes}: more classes than the {rows} training rows; give "
            "more rows, or fewer classes"
        )
