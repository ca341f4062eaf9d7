"""Splits: those that a source states are kept, those that it lacks come from its training rows."""

from typing import Any

import polars as pl
import pytest

from ldebm.config import DataConfig
from ldebm.data.columns import split_of, stated_split
from ldebm.data.kinds import open_kind
from ldebm.data.limits import failures
from ldebm.data.prepare import examine, with_splits
from ldebm.errors import UsageError

CONFIG = DataConfig(kind="sentences", source="file")


def rows(**numbers: int) -> pl.DataFrame:
    """A frame with so many rows of every split; ``none`` has no split."""
    splits = [None if name == "none" else name for name, n in numbers.items() for _ in range(n)]
    lines = range(1, len(splits) + 1)
    texts = [f"some words {i}" for i in lines]
    schema = {"split": pl.String, "line": pl.Int64, "text": pl.String}
    return pl.DataFrame({"split": splits, "line": lines, "text": texts}, schema=schema)


def sizes(frame: pl.DataFrame) -> dict[str, int]:
    return dict(frame.group_by("split").len().rows())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train": 100}, {"train": 90, "valid": 5, "test": 5}),
        ({"train": 100, "valid": 7}, {"train": 95, "valid": 7, "test": 5}),
        ({"train": 100, "test": 7}, {"train": 95, "valid": 5, "test": 7}),
        ({"train": 9, "valid": 3, "test": 2}, {"train": 9, "valid": 3, "test": 2}),
        ({"none": 100}, {"train": 90, "valid": 5, "test": 5}),
    ],
    ids=["train alone", "no test", "no valid", "all", "none"],
)
def test_missing_splits_are_taken_from_the_training_rows(given: Any, expected: Any) -> None:
    frame = rows(**given)
    found = with_splits(CONFIG, frame)
    assert sizes(found) == expected
    assert found["line"].to_list() == frame["line"].to_list()
    for split in {"valid", "test"} & set(given):
        same = frame.filter(pl.col("split") == split)["line"]
        assert found.filter(pl.col("split") == split)["line"].equals(same), "left as given"


def test_rows_without_training_ones_are_refused() -> None:
    with pytest.raises(UsageError, match="all rows are of the split test or valid; rows of the sp"):
        with_splits(CONFIG, rows(valid=20, test=20))


def test_a_row_without_a_split_does_not_take_it_from_the_others(tmp_path: Any) -> None:
    found = examine(open_kind(CONFIG), rows(train=40, test=10, none=3), tmp_path)
    assert {name: table.height for name, table in found.tables.items()} == {
        "train": 38,
        "valid": 2,
        "test": 10,
    }
    assert found.profile["rejects"]["reasons"] == {"of no split, though others are": 3}
    assert found.rejects["line"].to_list() == [51, 52, 53]


def test_words_for_splits_are_known_in_their_usual_forms() -> None:
    words = ["Train", "training_set", "val", "validation", "dev", "TEST", "testset", "train_images"]
    assert [split_of(word) for word in words] == [
        "train", "train", "valid", "valid", "valid", "test", "test", "train",
    ]  # fmt: skip
    assert [split_of(word) for word in ("cats", "", "set", "latest")] == [None] * 4
    assert stated_split(float("nan"), "") is None
    with pytest.raises(UsageError, match=r"a.csv: row 3: split 'holdout'; expected train, "):
        stated_split("holdout", "a.csv: row 3")


def test_the_profile_of_unusable_data_fails_by_what_is_wrong() -> None:
    facts: dict[str, Any] = {
        "rows": 100, "duplicates": 0, "labels": {"kind": {"a": 50, "b": 50}}, "mean": [100.0],
        "std": [30.0], "smallest_std": 30.0, "constant": 0,
    }  # fmt: skip
    splits = {"train": dict(facts), "valid": {**facts, "in_train": 20}, "test": {**facts, "rows": 4,
              "in_train": 2}}  # fmt: skip
    profile = {"kind": "images", "labels": ["kind"], "splits": splits, "rejects": {"rows": 5}}
    assert failures(profile) == []
    profile["rejects"] = {"rows": 60}
    splits["test"]["in_train"] = 4
    splits["train"]["duplicates"] = 80
    splits["valid"]["mean"] = [135.0]
    assert failures(profile) == [
        "train: share of rows that are left out is 0.227; expected at most 0.1",
        "train: share of rows that repeat another row is 0.8; expected at most 0.5",
        "valid: mean colour's distance from training, in standard deviations is 1.17; "
        "expected at most 1",
        "test: share of images that the training split has as well is 0.5; expected at most 0.25",
    ]


def test_a_split_of_few_images_may_differ_by_chance_but_not_grossly() -> None:
    facts: dict[str, Any] = {
        "rows": 100, "duplicates": 0, "labels": {}, "mean": [100.0], "std": [30.0],
        "smallest_std": 30.0, "constant": 1,
    }  # fmt: skip
    few = {**facts, "rows": 2, "mean": [140.0]}
    profile = {"kind": "images", "labels": [], "splits": {"train": facts, "valid": few},
               "rejects": {"rows": 0}}  # fmt: skip
    assert failures(profile) == []
    few["mean"] = [170.0]
    assert "mean colour's distance" in failures(profile)[0]
    few |= {"mean": [140.0], "rows": 80}
    assert "mean colour's distance" in failures(profile)[0]
    few |= {"mean": [100.0], "constant": 3}
    assert "images of one colour" in failures(profile)[0]
