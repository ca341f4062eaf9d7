"""What the report shows of prepared data beside the verdicts."""

from pathlib import Path
from typing import Any

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.limits import measured
from ldebm.files import write_json
from stages.data_facts import BINS, data_facts

SPLITS = ("train", "valid", "test")


def prepared(folder: Path, texts: dict[str, list[str]]) -> Path:
    """Sentences with a label, and the profile of them."""
    splits = {}
    for split in SPLITS:
        rows = texts[split]
        frame = {"id": range(len(rows)), "text": rows, "label.topic": ["a"] * len(rows)}
        pl.DataFrame(frame).write_parquet(folder / f"{split}.parquet")
        counts = {"rows": len(rows), "duplicates": 0, "types": 2, "words_mean": 2.0}
        splits[split] = {**counts, "unknown": 0, "words": 9, "labels": {"topic": {"a": len(rows)}}}
    profile = {"kind": "sentences", "labels": ["topic"], "splits": splits, "source": "file"}
    write_json(folder / "profile.json", {**profile, "rejects": {"rows": 0, "reasons": {}}})
    return folder


def facts_of(folder: Path) -> dict[str, Any]:
    return data_facts(folder, measured(folder, DataConfig(kind="sentences", source="file")))


def test_lengths_are_shares_of_every_split_and_long_ones_share_bins(tmp_path: Path):
    texts = {"train": ["a b", "a b", "a"], "valid": ["a b c"], "test": ["a " * (3 * BINS) + "a"]}
    facts = facts_of(prepared(tmp_path, texts))
    assert facts["lengths"]["train"] == [[0, 1.0]]
    assert all(sum(s for _, s in rows) == 1 for rows in facts["lengths"].values())
    assert len(facts["lengths"]["test"]) == 1
    short = facts_of(prepared(tmp_path, texts | {"test": ["a b c d"]}))
    assert short["lengths"]["train"] == [[1, 0.333333], [2, 0.666667]]
    assert facts["found"]["rows"] == {"train": 3, "valid": 1, "test": 1}
    assert facts["splits"]["train"]["labels"] == {"topic": {"a": 3}}


def test_examples_are_the_first_training_rows_and_short(tmp_path: Path):
    texts = {"train": ["x" * 500, *"abcdefg"], "valid": ["v"], "test": ["t"]}
    rows = facts_of(prepared(tmp_path, texts))["examples"]
    assert len(rows) == 5
    assert rows[0]["text"] == "x" * 199 + "…"
    assert rows[1] == {"text": "a", "label.topic": "a"}
