"""What the report shows of prepared data beside the verdicts: counts, lengths and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ldebm.data.packed import SPLITS
from ldebm.files import read_json

__all__ = ["data_facts"]

EXAMPLES = 5
LONGEST = 200  # characters of an example
BINS = 40  # of the lengths


def data_facts(prepared: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of ``data/prepared/D``, the same whenever they are taken.

    Args:
        prepared: the folder.
        rows: the shares that were checked, of :func:`ldebm.data.limits.shares`.

    Returns:
        ``splits``: split -> the profile's counts; ``found``: what is bounded -> split -> value;
        ``lengths``: split -> [words, share of the rows] of text, else empty; ``examples``: the
        first training rows, without what a table cannot show.
    """
    profile = read_json(prepared / "profile.json")
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, {})[row["split"]] = value
    paths = {split: prepared / f"{split}.parquet" for split in SPLITS}
    return {
        "splits": profile["splits"],
        "found": found,
        "lengths": _lengths(paths),
        "examples": _examples(paths["train"]),
    }


def _lengths(paths: dict[str, Path]) -> dict[str, list[list[float]]]:
    """How many words the rows have, in bins of whole words; streamed."""
    if pl.read_parquet_schema(paths["train"]).get("text") != pl.String:
        return {}
    counts: dict[str, list[tuple[int, int]]] = {}
    for split, path in paths.items():
        spaces = pl.col("text").str.count_matches(" ")
        frame = pl.scan_parquet(path).select(spaces.add(1).alias("words")).group_by("words").len()
        counts[split] = frame.sort("words").collect(engine="streaming").rows()
    widest = max((words for rows in counts.values() for words, _ in rows), default=1)
    width = -(-widest // BINS)
    binned: dict[str, list[list[float]]] = {}
    for split, rows in counts.items():
        total = sum(count for _, count in rows)
        bins: dict[int, int] = {}
        for words, count in rows:
            bins[words // width * width] = bins.get(words // width * width, 0) + count
        binned[split] = [[at, round(count / total, 6)] for at, count in bins.items()]
    return binned


def _examples(path: Path) -> list[dict[str, str]]:
    rows = pl.read_parquet(path, n_rows=EXAMPLES)
    shown = [name for name, held in rows.schema.items() if name != "id" and held != pl.Binary]
    return [{name: _short(row[name]) for name in shown} for row in rows.iter_rows(named=True)]


def _short(value: Any) -> str:
    if isinstance(value, list):
        text = " / ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    else:
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
