"""Preparing: canonical tables, splits, rejects with reasons, and errors that name the cause.

Splits that a source states are kept; those that it lacks come from its training rows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ldebm.config import DataConfig
from ldebm.data.columns import split_of, stated_split
from ldebm.data.fetch import fetch
from ldebm.data.kinds import open_kind
from ldebm.data.limits import failures, notes
from ldebm.data.prepare import examine, prepare, with_splits
from ldebm.errors import UsageError
from ldebm.files import hash_path, write_parquet
from tests.unit.data_worlds import World, sizes, table

CONFIG = DataConfig(kind="sentences", source="file")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def frame_of(**numbers: int) -> pl.DataFrame:
    """A frame with so many rows of every split; ``none`` has no split."""
    splits = [None if name == "none" else name for name, n in numbers.items() for _ in range(n)]
    lines = range(1, len(splits) + 1)
    texts = [f"some words {i}" for i in lines]
    schema = {"split": pl.String, "line": pl.Int64, "text": pl.String}
    return pl.DataFrame({"split": splits, "line": lines, "text": texts}, schema=schema)


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
    frame = frame_of(**given)
    table = with_splits(CONFIG, frame)
    assert dict(table.group_by("split").len().rows()) == expected
    assert table["line"].to_list() == frame["line"].to_list()
    for split in {"valid", "test"} & set(given):
        same = frame.filter(pl.col("split") == split)["line"]
        assert table.filter(pl.col("split") == split)["line"].equals(same), "left as given"


def test_rows_without_training_ones_are_refused() -> None:
    with pytest.raises(UsageError, match="all rows are of the split test or valid; rows of the sp"):
        with_splits(CONFIG, frame_of(valid=20, test=20))


def test_a_row_without_a_split_does_not_take_it_from_the_others(tmp_path: Path) -> None:
    prepared = examine(open_kind(CONFIG), frame_of(train=40, test=10, none=3), tmp_path)
    assert [table.height for table in prepared.tables.values()] == [38, 2, 10]
    assert prepared.profile["rejects"]["reasons"] == {"of no split, though others are": 3}
    assert prepared.rejects["line"].to_list() == [51, 52, 53]


def test_words_for_splits_are_known_in_their_usual_forms() -> None:
    words = ["Train", "training_set", "val", "validation", "dev", "TEST", "testset", "train_images"]
    assert [split_of(word) for word in words] == [
        "train", "train", "valid", "valid", "valid", "test", "test", "train",
    ]  # fmt: skip
    assert [split_of(word) for word in ("cats", "", "set", "latest")] == [None] * 4
    assert stated_split(float("nan"), "") is None
    with pytest.raises(UsageError, match=r"a.csv: row 3: split 'holdout'; expected train, "):
        stated_split("holdout", "a.csv: row 3")


def test_a_text_file_is_split_90_5_5_and_rejects_have_reasons(world: World) -> None:
    lines = [f"Line  number {i}\t." for i in range(100)]
    lines[7], lines[9] = "   ", "x" * 20001
    config = world.config("mine.txt", "\ufeff" + "\r\n".join(lines) + "\r\n", lowercase=True)
    profile = world.prepared(config)
    assert sizes(profile) == [88, 5, 5]
    train = world.rows("train")
    assert train["text"][0] == "line number 0 ."
    rejects = world.rows("rejects")
    assert rejects["line"].tolist() == [8, 10]
    assert rejects["reason"] == ["empty", "longer than 20000 characters"]
    assert profile["rejects"]["reasons"] == {"empty": 1, "longer than 20000 characters": 1}
    ids = np.concatenate([world.rows(split)["id"] for split in ("train", "valid", "test")])
    assert ids.tolist() == list(range(98))


def test_the_profile_counts_duplicates_leaks_and_unknown_words(world: World) -> None:
    rows = [f"train,row {i} <unk>,a" for i in range(10)] + ["train,row 0 <unk>,b"]
    rows += ["dev,row 1 <unk>,a", "dev,new,b", "test,row 2 <unk>,b"]
    config = world.config(
        "mine.csv", "\n".join(["split,text,label", *rows]), columns={"label": "label"}
    )
    splits = world.prepared(config)["splits"]
    assert splits["train"]["duplicates"] == 1
    assert splits["train"]["labels"] == {"label": {"a": 10, "b": 1}}
    assert splits["valid"]["in_train"] == 1
    assert splits["test"]["unknown"] == 1
    assert splits["test"]["words"] == 3


def _intents(valid: list[str], test: list[str]) -> str:
    """100 training rows of five intents, and rows of the other splits with the given ones."""
    rows = [("train", f"i{number % 5}") for number in range(100)]
    rows += [("valid", name) for name in valid] + [("test", name) for name in test]
    lines = [f"{split},say number {i},{name}" for i, (split, name) in enumerate(rows)]
    return "\n".join(["split,text,intent", *lines])


def test_labels_that_no_training_row_has_become_none_and_are_counted(world: World) -> None:
    """As in a corpus with its own splits and a long tail of rare labels."""
    valid, test = ["i0", "i1"] * 30, ["i2"] * 58 + ["rare", "rarer"]
    content = _intents(valid, test)
    profile = world.prepared(world.config("m.csv", content, labels=["intent"]))
    assert sizes(profile) == [100, 60, 60]
    assert world.rows("test")["label.intent"][-2:] == [None, None]
    assert profile["splits"]["test"]["labels"] == {"intent": {"i2": 58}}
    assert profile["splits"]["test"]["unseen_labels"] == {"intent": {"rare": 1, "rarer": 1}}
    assert "unseen_labels" not in profile["splits"]["valid"]
    assert failures(profile) == []
    assert notes(profile) == [
        "2 of 60 labelled rows of test count as unlabelled: "
        "no training row has their intent 'rare', 'rarer'"
    ]


@pytest.mark.parametrize(
    ("unseen", "rows", "stops"),
    [(3, 60, False), (4, 60, True), (1, 4, False), (2, 4, True), (4, 4, True), (0, 0, False)],
)
def test_only_a_gross_share_of_labels_that_training_lacks_stops(
    world: World, unseen: int, rows: int, stops: bool
) -> None:
    """A split without a labelled row is no fault."""
    test = ["other"] * unseen + ["i1"] * (rows - unseen) or [""] * 20
    content = _intents(["i0"] * 20, test)
    profile = world.prepared(world.config("m.csv", content, labels=["intent"]))
    share = f"{unseen / max(20, rows):.3g}"
    words = (
        f"test: share of labelled rows whose 'intent' no training row has is {share}; expected at "
        "most 0.05"
    )
    assert failures(profile) == ([words] if stops else [])


def test_preparing_twice_gives_the_same_bytes_and_the_seed_moves_the_split(world: World) -> None:
    config = world.config("mine.txt", "\n".join(f"row {i}" for i in range(50)))
    fetch(None, config, world.raw)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare(config.model_copy(update={"seed": seed}), world.raw, world.folder / name)
    assert hash_path(world.folder / "one") == hash_path(world.folder / "two")
    assert hash_path(world.folder / "one") != hash_path(world.folder / "three")


def test_wanted_numbers_of_rows_are_kept_to(world: World) -> None:
    config = world.config(
        "mine.txt", "\n".join(f"row {i}" for i in range(60)), train=20, valid=10, test=7
    )
    profile = world.prepared(config)
    assert sizes(profile) == [20, 10, 7]
    with pytest.raises(UsageError, match="take all 60 rows"):
        prepare(config.model_copy(update={"valid": 50, "test": 10}), world.raw, world.folder / "x")


def test_dialogues_stay_in_one_split(world: World) -> None:
    config = DataConfig(kind="dialogues", source="chatter", labels=["intent"], valid=500, test=500)
    profile = world.prepared(config)
    assert profile["splits"]["valid"]["rows"] == 500
    assert all(facts["shared_dialogues"] == 0 for facts in profile["splits"].values())
    train = world.rows("train")
    assert list(train) == ["id", "text", "context", "dialogue", "turn", "label.intent"]
    assert train["context"][0] == []
    first = train["dialogue"][0]
    assert (
        train["turn"][train["dialogue"] == first] == np.arange((train["dialogue"] == first).sum())
    ).all()


def test_generated_points_keep_their_splits(world: World) -> None:
    config = DataConfig(kind="points", source="gaussians16", train=500, valid=50, test=60)
    profile = world.prepared(config)
    train = world.rows("train")
    assert train["x"].shape == (500, 2)
    assert train["x"].dtype == np.float32
    assert set(train["label.mode"]) == set(range(16))
    assert profile["splits"]["test"]["in_train"] == 0


def test_points_of_a_file_come_from_its_numeric_columns(world: World) -> None:
    rows = [f"{i},{i * 2},{'ab'[i % 2]}" for i in range(40)]
    rows[3] = "1,nan,a"
    content = "\n".join(["u,v,label", *rows])
    config = world.config("mine.csv", content, kind="points", columns={"label": "label"})
    profile = world.prepared(config)
    assert profile["rejects"]["reasons"] == {"not finite": 1}
    assert profile["splits"]["train"]["dimensions"] == 2
    x = np.concatenate([world.rows(split)["x"] for split in ("train", "valid", "test")])
    assert np.array_equal(x[:, 1], 2 * x[:, 0])


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.parquet"])
def test_contexts_of_a_file_are_lists_of_turns(world: World, name: str) -> None:
    lines = [f'{{"reply": "r {i}", "before": ["a", "b"]}}' for i in range(20)]
    config = world.config(
        name, "\n".join(lines), kind="dialogues", columns={"text": "reply", "context": "before"}
    )
    if name.endswith("parquet"):
        columns = {"reply": [f"r {i}" for i in range(20)], "before": [["a", "b"]] * 20}
        write_parquet(world.folder / name, columns)
    world.prepared(config)
    assert world.rows("train")["context"][0] == ["a", "b"]


BAD: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "no such column": ("a.csv", "a,b\n1,2\n", {"columns": {"text": "body"}},
                       "no column 'body' for text; .*a, b"),
    "one class": ("a.csv", table(["text", "y"], [f"row {i},x" for i in range(20)]),
                  {"columns": {"label": "y"}}, "label 'y' has only 'x'"),
    "no numbers": ("a.csv", table(["a", "b"], ["x,y"] * 20), {"kind": "points"},
                   "no numeric columns; columns there are: a, b"),
    "no context": ("a.txt", "a row\n" * 20, {"kind": "dialogues"}, "no column 'context'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_writes_nothing(case: str, world: World) -> None:
    name, content, options, message = BAD[case]
    world.refuses(message, world.config(name, content, **options))


def test_an_unknown_label_column_names_those_there_are(world: World) -> None:
    config = DataConfig(
        kind="points", source="pinwheel10", train=50, valid=20, test=20, labels=["mode"]
    )
    world.refuses("no label column 'mode'; label columns there: arm", config)


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
