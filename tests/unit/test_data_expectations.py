"""Validation: reports of good and bad data, without times, and a page that escapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldebm.config import DataConfig
from ldebm.data.fetch import fetch
from ldebm.data.packed import require_valid
from ldebm.data.prepare import prepare
from ldebm.data.registry import SOURCES
from ldebm.errors import UsageError
from ldebm.files import read_json, read_parquet, write_json, write_parquet
from stages.validate import page
from tests.unit.published_texts import write_agnews


def validate(prepared: Path, **options: Any) -> dict[str, Any]:
    """Loaded only where it is used: collecting tests would take seconds longer."""
    reason = "Great Expectations is absent"
    config = DataConfig.model_validate({"kind": "sentences", "source": "file", **options})
    report: dict[str, Any] = pytest.importorskip("stages.expectations", reason=reason).validate(
        prepared, config
    )
    return report


def _prepared(tmp_path: Path, source: str) -> Path:
    kind = "dialogues" if source == "chatter" else "points"
    config = DataConfig(kind=kind, source=source, train=300, valid=100, test=100)
    fetch(SOURCES[source], config, tmp_path / "raw")
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    return tmp_path / "prepared"


def _failed(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(item["frame"], item["column"]) for item in report["results"] if not item["success"]}


@pytest.mark.parametrize("source", ["gaussians16", "chatter"])
def test_good_data_pass_with_the_same_report_every_time(source: str, tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, source)
    report = validate(prepared)
    assert report["success"]
    assert report["checked"] > 10
    assert report["failed"] == 0
    assert validate(prepared) == report
    write_json(tmp_path / "report.json", report)
    require_valid(tmp_path / "report.json")


def test_bad_rows_and_shares_fail_and_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(tmp_path, "chatter")
    columns = read_parquet(prepared / "valid.parquet")
    columns["text"][3] = "two  spaces <b>"
    columns["label.intent"][5] = "gossip"
    columns["id"] = columns["id"].copy()
    columns["id"][60] = columns["id"][0]
    write_parquet(prepared / "valid.parquet", columns)
    profile = read_json(prepared / "profile.json")
    profile["splits"]["test"]["in_train"] = 99
    profile["splits"]["test"]["shared_dialogues"] = 4
    write_json(prepared / "profile.json", profile)
    report = validate(prepared)
    assert _failed(report) == {
        ("valid", "text"),
        ("valid", "label.intent"),
        ("valid", "id"),
        ("profile", "in_train"),
        ("profile", "shared_dialogues"),
    }
    monkeypatch.setattr("ldebm.data.kinds.base.PART", 30)  # rows are checked in parts
    assert validate(prepared) == report
    write_json(tmp_path / "report.json", report)
    with pytest.raises(
        UsageError, match=r"5 failed expectation\(s\): .*training split has as well.*gossip"
    ):
        require_valid(tmp_path / "report.json")
    html = page("<mine>", report)
    assert "two  spaces &lt;b&gt;" in html
    assert "&lt;mine&gt;" in html
    assert "<b>" not in html
    assert "http" not in html


def test_rows_without_a_label_pass_and_labels_that_training_lacks_are_noted(tmp_path: Path) -> None:
    rows = [("train", f"c{i % 3}" if i % 2 else "") for i in range(60)]
    rows += [("valid", "")] * 8 + [("test", "c0")] * 30 + [("test", "<rare>")]
    lines = [f"{split},say {i} things,{label}" for i, (split, label) in enumerate(rows)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "m.csv").write_text("\n".join(["split,text,topic", *lines]))
    config = DataConfig(
        kind="sentences", source="file", path=str(tmp_path / "m.csv"), labels=["topic"]
    )
    fetch(None, config, tmp_path / "raw")
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    report = validate(tmp_path / "prepared")
    assert report["success"], _failed(report)
    (note,) = report["notes"]
    assert note.startswith("1 of 31 labelled rows of test count as unlabelled")
    assert "&lt;rare&gt;" in page("m", report)


def _prepared_documents(tmp_path: Path) -> Path:
    write_agnews(tmp_path / "raw")
    config = DataConfig(kind="documents", source="agnews", labels=["topic"], valid=4, vocab_size=40)
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    profile = read_json(tmp_path / "prepared" / "profile.json")
    for facts in profile["splits"].values():  # four texts again and again
        facts |= {"duplicates": 0, "in_train": 0}
    write_json(tmp_path / "prepared" / "profile.json", profile)
    return tmp_path / "prepared"


def test_documents_need_words_that_the_vocabulary_has(tmp_path: Path) -> None:
    prepared = _prepared_documents(tmp_path)
    assert validate(prepared)["success"]
    columns = read_parquet(prepared / "test.parquet")
    columns["known"] = columns["known"].copy()
    columns["known"][3] = 0
    columns["label.topic"][5] = "gossip"
    write_parquet(prepared / "test.parquet", columns)
    profile = read_json(prepared / "profile.json")
    profile["splits"]["test"]["known_mean"] = 1.5
    write_json(prepared / "profile.json", profile)
    assert _failed(validate(prepared)) == {
        ("test", "known"),
        ("test", "label.topic"),
        ("profile", "known_mean"),
    }


def _prepared_images(tmp_path: Path) -> Path:
    config = DataConfig(kind="images", source="digits", valid=100, test=100, labels=["digit"])
    fetch(None, config, tmp_path / "raw")
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    return tmp_path / "prepared"


def test_good_images_pass_and_bad_ones_fail_by_what_is_wrong(tmp_path: Path) -> None:
    prepared = _prepared_images(tmp_path)
    report = validate(prepared)
    assert report["success"]
    assert report == validate(prepared)
    table = pq.read_table(prepared / "valid.parquet").to_pylist()
    table[3]["image"] = bytes(63)
    table[4]["height"] = 9
    table[5]["label.digit"] = "11"
    for row in table[10:14]:
        row["image"] = bytes(64)
    pq.write_table(pa.Table.from_pylist(table), prepared / "valid.parquet")
    profile = read_json(prepared / "profile.json")
    profile["splits"]["test"]["mean"] = [250.0]
    profile["splits"]["train"]["constant"] = 700
    profile["rejects"]["rows"] = 400
    write_json(prepared / "profile.json", profile)
    assert _failed(validate(prepared)) == {
        ("valid", "images and labels"),
        ("valid", "bytes"),
        ("valid", "height"),
        ("valid", "label.digit"),
        ("valid", "range"),
        ("profile", "shift"),
        ("profile", "constant"),
        ("profile", "rejected"),
    }


@pytest.mark.parametrize("swapped", ["image", "label.digit"])
def test_images_with_labels_of_others_fail(swapped: str, tmp_path: Path) -> None:
    prepared = _prepared_images(tmp_path)
    table = pq.read_table(prepared / "test.parquet").to_pylist()
    assert table[0]["label.digit"] != table[1]["label.digit"]
    table[0][swapped], table[1][swapped] = table[1][swapped], table[0][swapped]
    pq.write_table(pa.Table.from_pylist(table), prepared / "test.parquet")
    report = validate(prepared)
    assert _failed(report) == {("test", "images and labels")}


def _prepared_texts(tmp_path: Path, rows: list[str]) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.txt").write_text("\n".join(rows), encoding="utf-8")
    config = DataConfig(kind="sentences", source="file")
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    return tmp_path / "prepared"


def test_text_whose_words_the_vocabulary_lacks_fails_with_what_to_do(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    rows = [
        "".join(stream.choice(list("\u79cb\u96e8\u6708\u590f\u82b1\u5c71"), 8)) for _ in range(80)
    ]
    prepared = _prepared_texts(tmp_path, rows)
    report = validate(prepared)
    assert _failed(report) == {("profile", "unknown")}
    write_json(tmp_path / "report.json", report)
    remedy = "valid: share of words that the vocabulary lacks is 1; .*--tokenizer unigram"
    with pytest.raises(UsageError, match=remedy):
        require_valid(tmp_path / "report.json")
    assert validate(prepared, tokenizer="unigram", vocab_size=30)["success"]


def test_a_split_that_is_not_there_and_empty_texts_fail(tmp_path: Path) -> None:
    prepared = _prepared_texts(tmp_path, [f"the word {i % 9} and {i}" for i in range(100)])
    profile = read_json(prepared / "profile.json")
    profile["rejects"] = {"rows": 30, "reasons": {"empty": 30}}
    del profile["splits"]["test"]
    write_json(prepared / "profile.json", profile)
    assert _failed(validate(prepared)) == {
        ("profile", "split"), ("profile", "empty"), ("profile", "rejected"),
    }  # fmt: skip
