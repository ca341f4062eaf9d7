"""A comparison as text for a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.compare.compare import DIFFERENT, Comparison, Comparisons
from pipelines.results.tables import HEADLINE

__all__ = ["lines"]

COLUMN = 46


def lines(comparisons: Comparisons, *, everything: bool = False) -> Iterator[str]:
    """The text, line by line.

    Of two revisions, the experiments that are the same in both are only counted.

    Args:
        comparisons: what to show.
        everything: all experiments and metrics, not only the tables' metrics and what differs.
    """
    every = everything or len(comparisons.pairs) == 1
    shown = [pair for pair in comparisons.pairs if every or not _same(pair)]
    for index, pair in enumerate(shown):
        if index:
            yield ""
        yield from _pair(pair, everything)
    if same := len(comparisons.pairs) - len(shown):
        if shown:
            yield ""
        some = "1 experiment" if same == 1 else f"{same} experiments"
        yield f"the same in both (--all shows them): {some}"
    for name, missing in (
        (comparisons.second, comparisons.only_first),
        (comparisons.first, comparisons.only_second),
    ):
        if missing:
            yield f"not in {name}: {', '.join(missing)}"
    yield from (f"note: {note}" for note in comparisons.notes)


def _same(pair: Comparison) -> bool:
    """Whether no parameter, metric, code or data is known to differ."""
    equal = all(row["verdict"] == "equal" for row in pair.metrics.values())
    return equal and pair.seeds[0] == pair.seeds[1] and not (pair.params or pair.code or pair.data)


def _pair(pair: Comparison, everything: bool) -> Iterator[str]:
    seeds = [", ".join(map(str, item)) for item in pair.seeds]
    yield f"{pair.first} (seed {seeds[0]})  ->  {pair.second} (seed {seeds[1]})"
    yield from _pairs("parameters", pair.params)
    yield from _metrics(pair, everything)
    yield from _curves(pair)
    yield from _samples(pair)
    yield from _hashes("code", pair.code)
    yield from _hashes("data", pair.data)
    yield from _pairs("made with", pair.facts)
    for note in pair.notes:
        yield from textwrap.wrap(f"note: {note}", 100, subsequent_indent="  ")


def _pairs(title: str, pairs: Mapping[str, Any]) -> Iterator[str]:
    if not pairs:
        yield f"{title}: the same"
        return
    yield f"{title}"
    width = max(map(len, pairs))
    for key, (one, other) in pairs.items():
        yield f"  {key:<{width}}  {_short(one)} -> {_short(other)}"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _metrics(pair: Comparison, everything: bool) -> Iterator[str]:
    methods = {row["method"] for row in pair.metrics.values()}
    how = [name for name in ("paired", "welch") if name in methods]
    test = {"paired": "paired by seed", "welch": "Welch, unpaired"}
    said = "; ".join(test[name] for name in how) or "no interval over seeds"
    yield f"metrics: mean over seeds, change with its 95% interval ({said})"
    shown = {
        name: row
        for name, row in pair.metrics.items()
        if everything or name in HEADLINE or row["verdict"] in DIFFERENT
    }
    width = max(map(len, shown), default=0)
    for name, row in shown.items():
        half = "" if row["interval"] is None else f" +- {row['interval']:.3g}"
        change = f"{row['difference']:+.4g}{half}"
        verdict = row["verdict"] + ("*" if row["holm"] else "")
        yield (
            f"  {name:<{width}}  {row['first']:>10.5g}  {row['second']:>10.5g}  "
            f"{change:<22}  {verdict}{_rows(row['rows'])}"
        ).rstrip()
    if len(pair.metrics) > len(shown):
        yield f"  {len(pair.metrics) - len(shown)} more, none called different (--all)"


def _rows(rows: Mapping[str, Any] | None) -> str:
    if rows is None:
        return ""
    spans = ["[{:.4g}, {:.4g}]".format(*rows[side]) for side in ("first", "second")]
    words = "overlap" if rows["overlap"] else "do not overlap"
    return f"; over test rows {spans[0]} and {spans[1]} {words}"


def _curves(pair: Comparison) -> Iterator[str]:
    both = {key: pair for key, pair in pair.curves.items() if None not in pair}
    if not both:
        return
    yield "curves, last value"
    width = max(map(len, both))
    for key, (one, other) in both.items():
        yield f"  {key:<{width}}  {one:.5g} -> {other:.5g}"


def _samples(pair: Comparison) -> Iterator[str]:
    if not all(pair.samples):
        return
    yield "samples"
    for one, other in zip(*pair.samples, strict=False):
        left, right = (textwrap.wrap(text, COLUMN) or [""] for text in (one, other))
        for row in range(max(len(left), len(right))):
            cells = [part[row] if row < len(part) else "" for part in (left, right)]
            yield f"  {cells[0]:<{COLUMN}}  | {cells[1]}".rstrip(" ")


def _hashes(title: str, differing: Mapping[str, Any] | None) -> Iterator[str]:
    if differing is None:
        yield f"{title}: not known for both sides"
        return
    yield f"{title}: the same" if not differing else f"{title}: {len(differing)} files differ"
    for path, (one, other) in differing.items():
        words = (
            "only in the second" if one is None else "only in the first" if other is None else ""
        )
        yield f"  {path}  {words or f'{one[:12]} -> {other[:12]}'}"
