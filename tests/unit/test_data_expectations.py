"""Validation: reports of good and bad data, without times, and a page that escapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldebm.config import DataConfig
from ldebm.data.limits import measured
from ldebm.data.packed import require_valid
from ldebm.errors import UsageError
from ldebm.files import read_json, read_parquet, write_json, write_parquet
from stages.validate import page
from tests.unit.data_worlds import World, table
from tests.unit.published_texts import write_agnews


class Checked(World):
    """Prepared data that are changed and validated."""

    def report(self, **options: Any) -> dict[str, Any]:
        """Loaded only where it is used: collecting tests would take seconds longer."""
        reason = "Great Expectations is absent"
        config = DataConfig.model_validate({"kind": "sentences", "source": "file", **options})
        report: dict[str, Any] = pytest.importorskip("stages.expectations", reason=reason).validate(
            prepared := self.folder / "prepared", config, measured(prepared, config)
        )
        return report

    def failed(self) -> set[tuple[str, str]]:
        results = self.report()["results"]
        return {(item["frame"], item["column"]) for item in results if not item["success"]}

    def change(self, split: str, **cells: tuple[int, Any]) -> None:
        """Sets one cell of each of these columns of a split."""
        path = self.folder / "prepared" / f"{split}.parquet"
        columns = read_parquet(path)
        for name, (row, value) in cells.items():
            name = name.replace("__", ".")
            columns[name] = columns[name].copy()
            columns[name][row] = value
        write_parquet(path, columns)

    def change_profile(self, **facts: dict[str, Any]) -> dict[str, Any]:
        """Changes facts of splits, or what is said of rejects."""
        path = self.folder / "prepared" / "profile.json"
        profile: dict[str, Any] = read_json(path)
        for name, changed in facts.items():
            (profile if name == "rejects" else profile["splits"])[name] |= changed
        write_json(path, profile)
        return profile


@pytest.fixture
def world(tmp_path: Path) -> Checked:
    return Checked(tmp_path)


def _generated(source: str) -> DataConfig:
    kind = "dialogues" if source == "chatter" else "points"
    return DataConfig(kind=kind, source=source, train=300, valid=100, test=100)


@pytest.mark.parametrize("source", ["gaussians16", "chatter"])
def test_good_data_pass_with_the_same_report_every_time(source: str, world: Checked) -> None:
    world.prepared(_generated(source))
    report = world.report()
    assert (report["success"], report["failed"]) == (True, 0)
    assert report["checked"] > 10
    assert world.report() == report
    write_json(world.folder / "report.json", report)
    require_valid(world.folder / "report.json")


def test_bad_rows_and_shares_fail_and_are_listed(
    world: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.prepared(_generated("chatter"))
    first = world.rows("valid")["id"][0]
    world.change("valid", text=(3, "two  spaces <b>"), label__intent=(5, "gossip"), id=(60, first))
    world.change_profile(test={"in_train": 99, "shared_dialogues": 4})
    assert world.failed() == {
        ("valid", "text"), ("valid", "label.intent"), ("valid", "id"),
        ("profile", "in_train"), ("profile", "shared_dialogues"),
    }  # fmt: skip
    report = world.report()
    monkeypatch.setattr("ldebm.data.kinds.base.PART", 30)  # rows are checked in parts
    assert world.report() == report
    write_json(world.folder / "report.json", report)
    expected = r"5 failed expectation\(s\): .*training split has as well.*gossip"
    with pytest.raises(UsageError, match=expected):
        require_valid(world.folder / "report.json")
    html = page("<mine>", report)
    assert "two  spaces &lt;b&gt;" in html
    assert "&lt;mine&gt;" in html
    assert "<b>" not in html
    assert "http" not in html


def test_rows_without_a_label_pass_and_labels_that_training_lacks_are_noted(
    world: Checked,
) -> None:
    rows = [("train", f"c{i % 3}" if i % 2 else "") for i in range(60)]
    rows += [("valid", "")] * 8 + [("test", "c0")] * 30 + [("test", "<rare>")]
    lines = [f"{split},say {i} things,{label}" for i, (split, label) in enumerate(rows)]
    content = table(["split", "text", "topic"], lines)
    world.prepared(world.config("m.csv", content, labels=["topic"]))
    report = world.report()
    assert report["success"]
    (note,) = report["notes"]
    assert note.startswith("1 of 31 labelled rows of test count as unlabelled")
    assert "&lt;rare&gt;" in page("m", report)


def test_documents_need_words_that_the_vocabulary_has(world: Checked) -> None:
    write_agnews(world.raw)
    config = DataConfig(kind="documents", source="agnews", labels=["topic"], valid=4, vocab_size=40)
    world.prepared(config)
    same = {"duplicates": 0, "in_train": 0}  # four texts again and again
    world.change_profile(train=same, valid=same, test=same)
    assert world.report()["success"]
    world.change("test", known=(3, 0), label__topic=(5, "gossip"))
    world.change_profile(test={"known_mean": 1.5})
    assert world.failed() == {
        ("test", "known"), ("test", "label.topic"), ("profile", "known_mean"),
    }  # fmt: skip


DIGITS = DataConfig(kind="images", source="digits", valid=100, test=100, labels=["digit"])


def test_good_images_pass_and_bad_ones_fail_by_what_is_wrong(world: Checked) -> None:
    world.prepared(DIGITS)
    report = world.report()
    assert report["success"]
    assert report == world.report()
    path = world.folder / "prepared/valid.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["image"] = bytes(63)
    rows[4]["height"] = 9
    rows[5]["label.digit"] = "11"
    for row in rows[10:14]:
        row["image"] = bytes(64)
    pq.write_table(pa.Table.from_pylist(rows), path)
    world.change_profile(test={"mean": [250.0]}, train={"constant": 700}, rejects={"rows": 400})
    assert world.failed() == {
        ("valid", "images and labels"), ("valid", "bytes"), ("valid", "height"),
        ("valid", "label.digit"), ("valid", "range"), ("profile", "shift"),
        ("profile", "constant"), ("profile", "rejected"),
    }  # fmt: skip


@pytest.mark.parametrize("swapped", ["image", "label.digit"])
def test_images_with_labels_of_others_fail(swapped: str, world: Checked) -> None:
    world.prepared(DIGITS)
    path = world.folder / "prepared/test.parquet"
    rows = pq.read_table(path).to_pylist()
    assert rows[0]["label.digit"] != rows[1]["label.digit"]
    rows[0][swapped], rows[1][swapped] = rows[1][swapped], rows[0][swapped]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert world.failed() == {("test", "images and labels")}


def test_text_whose_words_the_vocabulary_lacks_fails_with_what_to_do(world: Checked) -> None:
    stream = np.random.default_rng(0)
    marks = list("\u79cb\u96e8\u6708\u590f\u82b1\u5c71")
    rows = ["".join(stream.choice(marks, 8)) for _ in range(80)]
    world.prepared(world.config("mine.txt", "\n".join(rows)))
    assert world.failed() == {("profile", "unknown")}
    write_json(world.folder / "report.json", world.report())
    remedy = "valid: share of words that the vocabulary lacks is 1; .*--tokenizer unigram"
    with pytest.raises(UsageError, match=remedy):
        require_valid(world.folder / "report.json")
    assert world.report(tokenizer="unigram", vocab_size=30)["success"]


def test_a_split_that_is_not_there_and_empty_texts_fail(world: Checked) -> None:
    rows = "\n".join(f"the word {i % 9} and {i}" for i in range(100))
    world.prepared(world.config("mine.txt", rows))
    profile = world.change_profile(rejects={"rows": 30, "reasons": {"empty": 30}})
    del profile["splits"]["test"]
    write_json(world.folder / "prepared/profile.json", profile)
    assert world.failed() == {("profile", "split"), ("profile", "empty"), ("profile", "rejected")}
