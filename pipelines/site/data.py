"""The data page: counts, histograms and examples of every data set, and what was expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldebm.files import read_json
from pipelines.curves import Series
from pipelines.site.charts import bar_chart, line_chart

__all__ = ["data_section"]

OFFENDING = 5  # values that are shown of a failed expectation
WORDS = 20  # values of a label that its chart shows
SPLITS = ("train", "valid", "test")


def data_section(path: Path) -> dict[str, Any]:
    """Verdict on a data set, its expectations (those that failed first), and what it is like.

    Args:
        path: ``reports/validation/D/report.json``; ``docs/facts.json`` beside it may be missing.
    """
    report, beside = read_json(path), path.parent / "docs" / "facts.json"
    facts: dict[str, Any] = read_json(beside) if beside.is_file() else {}
    rows = [_expectation(item, facts.get("found", {})) for item in report.get("results", [])]
    return {
        "data": path.parts[-2],
        "kind": report.get("kind", ""),
        "success": report["success"],
        "notes": report.get("notes", []),
        "failed": [row for row in rows if not row["success"]],
        "rows": sorted(rows, key=lambda row: (row["success"], row["frame"], row["column"])),
        "counts": _counts(facts.get("splits", {})),
        "charts": _charts(path.parts[-2], facts),
        "examples": [
            {name: row[name] for name in sorted(row, key=_text_first)}
            for row in facts.get("examples", [])
        ],
    }


def _text_first(name: str) -> tuple[bool, bool, str]:
    return name != "text", not name.startswith("label"), name


def _expectation(item: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """An expectation as a row: what was asked for, and what there is."""
    observed = item.get("observed") or {}
    rule = ", ".join(f"{key} {value}" for key, value in sorted((item.get("rule") or {}).items()))
    values = found.get(item["column"], {}) if item["frame"] == "profile" else {}
    shown = [_number(values[split]) for split in SPLITS if split in values]
    count = observed.get("element_count")
    if count is not None and not shown:
        shown = [f"{count - (observed.get('unexpected_count') or 0)} of {count} rows"]
    return {
        "frame": item["frame"],
        "column": item["column"],
        "expectation": str(item["expectation"]).removeprefix("expect_").replace("_", " "),
        "rule": rule.replace("_", " "),
        "success": bool(item["success"]),
        "checked": count,
        "found": " / ".join(shown),
        "unexpected": observed.get("unexpected_count"),
        "examples": [str(v) for v in observed.get("partial_unexpected_list", [])[:OFFENDING]],
    }


def _counts(splits: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """What the profile counts, by split; what differs in kind or is a list is left out."""
    names = dict.fromkeys(name for facts in splits.values() for name in facts)
    shown = [name for name in names if _plain(splits, name)]
    shown.sort(key=lambda name: (name != "rows", name))
    return [
        (name.replace("_", " "), [_number(splits.get(split, {}).get(name)) for split in SPLITS])
        for name in shown
    ]


def _plain(splits: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(facts.get(name, 0), int | float) for facts in splits.values())


def _charts(data: str, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Histograms of the labels, as shares of every split's rows, and of the lengths."""
    charts = []
    splits = {name: facts["splits"][name] for name in SPLITS if name in facts.get("splits", {})}
    legend = list(splits)
    for label in splits.get("train", {}).get("labels", {}):
        known = splits["train"]["labels"][label]
        largest = sorted(known, key=lambda value: (-known[value], value))[:WORDS]
        order = [value for value in known if value in set(largest)]
        shares = {
            split: {value: mine["labels"][label].get(value, 0) / mine["rows"] for value in order}
            for split, mine in splits.items()
            if mine["rows"]
        }
        more = f", the {WORDS} most frequent of {len(known)}" if len(known) > WORDS else ""
        title = f"{label}{more}"
        drawn = bar_chart(shares, f"{title} of {data}, share of the rows", "share of the rows")
        charts.append({"title": title, "chart": drawn, "legend": legend})
    lines = [
        Series(split, "words", tuple((float(x), float(y)) for x, y in points))
        for split, points in facts.get("lengths", {}).items()
        if points
    ]
    if lines:
        drawn = line_chart(lines, "words of a row", "share of the rows", zero=True)
        charts.append({"title": "words of a row", "chart": drawn, "legend": legend})
    return charts


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
