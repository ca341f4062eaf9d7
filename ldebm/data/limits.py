"""What the profile of prepared data may hold: shares of each split, and their bounds.

Validation checks them, and ``ldebm new`` before it adds a data set, so that it takes no data that a
build then refuses. Bounds that only hold for a kind of data are with the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldebm.config import DataConfig
from ldebm.data.columns import MAX_CLASSES
from ldebm.data.kinds import kind_named
from ldebm.data.kinds.base import Limit
from ldebm.data.packed import SPLITS
from ldebm.files import read_json

__all__ = ["broken", "failures", "limits", "measured", "notes", "shares"]

MAX_UNSEEN = 0.05  # share of labelled rows with a label that no training row has
SHOWN = 5  # values that a note names
FEW = 8  # rows of a split: with fewer, one row says little about the share
COMMON = (
    Limit("rows", "rows", least=1),
    Limit("rejected", "share of rows that are left out", most=0.1),
    Limit("empty", "share of rows without text", most=0.1, remedy="is it the right column?"),
    Limit("duplicates", "share of rows that repeat another row", most=0.5),
)


def limits(kind: str, labels: Sequence[str]) -> list[Limit]:
    """The bounds that hold for a kind of data with these labels; rows without a label are fine."""
    classes = [
        Limit(f"classes of {label}", f"classes of label {label!r}", most=MAX_CLASSES)
        for label in labels
    ]
    words = "share of labelled rows whose {!r} no training row has"
    unseen = [Limit(f"unseen in {label}", words.format(label), most=MAX_UNSEEN) for label in labels]
    return [*COMMON, *classes, *unseen, *kind_named(kind).limits]


def shares(
    profile: Mapping[str, Any], unknown: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The numbers of every split: counts of the profile over the rows that they are of.

    Args:
        profile: of the prepared data.
        unknown: by split the share of words that the vocabulary lacks; None: not known.
    """
    rejects, splits, kind = profile["rejects"], profile["splits"], kind_named(profile["kind"])
    total = sum(facts["rows"] for facts in splits.values()) + rejects["rows"]
    table = []
    for split in (name for name in SPLITS if name in splits):
        facts = splits[split]
        rows = facts["rows"]
        row = {limit.name: facts[limit.name] for limit in kind.limits if limit.name in facts}
        row |= {
            "split": split,
            "rows": rows,
            "rejected": rejects["rows"] / total,
            "empty": rejects.get("reasons", {}).get("empty", 0) / total,
            "duplicates": facts["duplicates"] / rows,
            "in_train": facts.get("in_train", 0) / max(FEW, rows),
        }
        row |= {f"classes of {label}": len(counts) for label, counts in facts["labels"].items()}
        row |= {f"unseen in {label}": _unseen(facts, label) for label in facts["labels"]}
        row |= kind.shares(facts, splits["train"])
        table.append(row if unknown is None else row | {"unknown": unknown[split]})
    return table


def measured(prepared: Path, config: DataConfig) -> list[dict[str, Any]]:
    """:func:`shares` of ``data/prepared/<name>``, with those that need a tokenizer.

    Raises:
        UsageError: a file is missing or damaged, or no tokenizer can be trained.
    """
    profile = read_json(prepared / "profile.json")
    kind = kind_named(profile["kind"])(config.model_copy(update={"kind": profile["kind"]}))
    return shares(profile, kind.unknown(prepared))


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
    lines = []
    for split, facts in profile["splits"].items():
        for label, counts in facts.get("unseen_labels", {}).items():
            rows = sum(counts.values())
            names = [repr(name) for name in list(counts)[:SHOWN]]
            more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
            lines.append(
                f"{rows} of {rows + sum(facts['labels'][label].values())} labelled rows of {split} "
                f"count as unlabelled: no training row has their {label} {', '.join(names)}{more}"
            )
    return lines


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
    problems: dict[str, dict[str, str]] = {}
    for row in rows:
        for limit in limits(profile["kind"], profile.get("labels", ())):
            text = limit.failure(row[limit.name]) if limit.name in row else None
            if text:
                problems.setdefault(limit.name, {}).setdefault(text, f"{row['split']}: {text}")
    return {name: list(lines.values()) for name, lines in problems.items()}
