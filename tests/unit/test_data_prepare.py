"""Preparing: canonical tables, rejects with reasons, and errors that name the cause."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldebm.config import DataConfig
from ldebm.data.fetch import fetch
from ldebm.data.limits import failures, notes
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.files import hash_path, read_json, read_parquet, write_parquet
from pipelines.library import Library
from pipelines.new.dataset import add_dataset


def _file(tmp_path: Path, name: str, content: str | bytes, **config: Any) -> DataConfig:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return DataConfig(**{"kind": "sentences", "source": "file", "path": str(path), **config})


def _prepare(config: DataConfig, tmp_path: Path) -> dict[str, Any]:
    fetch(None, config, tmp_path / "raw")
    return prepare(config, tmp_path / "raw", tmp_path / "prepared")


def _rows(tmp_path: Path, split: str) -> dict[str, Any]:
    return read_parquet(tmp_path / "prepared" / f"{split}.parquet")


def test_a_text_file_is_split_90_5_5_and_rejects_have_reasons(tmp_path: Path) -> None:
    lines = [f"Line  number {i}\t." for i in range(100)]
    lines[7], lines[9] = "   ", "x" * 20001
    config = _file(tmp_path, "mine.txt", "\ufeff" + "\r\n".join(lines) + "\r\n", lowercase=True)
    profile = _prepare(config, tmp_path)
    sizes = {split: facts["rows"] for split, facts in profile["splits"].items()}
    assert sizes == {"train": 88, "valid": 5, "test": 5}
    train = _rows(tmp_path, "train")
    assert train["text"][0] == "line number 0 ."
    rejects = read_parquet(tmp_path / "prepared" / "rejects.parquet")
    assert rejects["line"].tolist() == [8, 10]
    assert rejects["reason"] == ["empty", "longer than 20000 characters"]
    assert profile["rejects"]["reasons"] == {"empty": 1, "longer than 20000 characters": 1}
    ids = np.concatenate([_rows(tmp_path, split)["id"] for split in ("train", "valid", "test")])
    assert ids.tolist() == list(range(98))


def test_the_profile_counts_duplicates_leaks_and_unknown_words(tmp_path: Path) -> None:
    rows = [f"train,row {i} <unk>,a" for i in range(10)] + ["train,row 0 <unk>,b"]
    rows += ["dev,row 1 <unk>,a", "dev,new,b", "test,row 2 <unk>,b"]
    config = _file(
        tmp_path, "mine.csv", "\n".join(["split,text,label", *rows]), columns={"label": "label"}
    )
    splits = _prepare(config, tmp_path)["splits"]
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


def test_labels_that_no_training_row_has_become_none_and_are_counted(tmp_path: Path) -> None:
    """As in a corpus with its own splits and a long tail of rare labels."""
    valid, test = ["i0", "i1"] * 30, ["i2"] * 58 + ["rare", "rarer"]
    content = _intents(valid, test)
    profile = _prepare(_file(tmp_path, "m.csv", content, labels=["intent"]), tmp_path)
    assert [facts["rows"] for facts in profile["splits"].values()] == [100, 60, 60]
    assert _rows(tmp_path, "test")["label.intent"][-2:] == [None, None]
    assert profile["splits"]["test"]["labels"] == {"intent": {"i2": 58}}
    assert profile["splits"]["test"]["unseen_labels"] == {"intent": {"rare": 1, "rarer": 1}}
    assert "unseen_labels" not in profile["splits"]["valid"]
    assert failures(profile) == []
    assert notes(profile) == [
        "2 of 60 labelled rows of test count as unlabelled: "
        "no training row has their intent 'rare', 'rarer'"
    ]


@pytest.mark.parametrize(("unseen", "rows", "stops"), [(3, 60, False), (4, 60, True), (1, 4, False),
                                                       (2, 4, True), (4, 4, True)])  # fmt: skip
def test_only_a_gross_share_of_labels_that_training_lacks_stops(
    tmp_path: Path, unseen: int, rows: int, stops: bool
) -> None:
    test = ["other"] * unseen + ["i1"] * (rows - unseen)
    content = _intents(["i0"] * 20, test)
    profile = _prepare(_file(tmp_path, "m.csv", content, labels=["intent"]), tmp_path)
    found = failures(profile)
    assert bool(found) == stops
    if stops:
        share = f"{unseen / max(20, rows):.3g}"
        assert found == [
            f"test: share of labelled rows whose 'intent' no training row has is {share}; "
            "expected at most 0.05"
        ]


def test_a_split_without_a_labelled_row_is_no_fault(tmp_path: Path) -> None:
    content = _intents(["i0"] * 20, [""] * 20)
    profile = _prepare(_file(tmp_path, "m.csv", content, labels=["intent"]), tmp_path)
    assert profile["splits"]["test"]["labels"] == {"intent": {}}
    assert failures(profile) == []


def test_preparing_twice_gives_the_same_bytes_and_the_seed_moves_the_split(tmp_path: Path) -> None:
    config = _file(tmp_path, "mine.txt", "\n".join(f"row {i}" for i in range(50)))
    fetch(None, config, tmp_path / "raw")
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare(config.model_copy(update={"seed": seed}), tmp_path / "raw", tmp_path / name)
    assert hash_path(tmp_path / "one") == hash_path(tmp_path / "two")
    assert hash_path(tmp_path / "one") != hash_path(tmp_path / "three")


def test_wanted_numbers_of_rows_are_kept_to(tmp_path: Path) -> None:
    config = _file(
        tmp_path, "mine.txt", "\n".join(f"row {i}" for i in range(60)), train=20, valid=10, test=7
    )
    profile = _prepare(config, tmp_path)
    assert [facts["rows"] for facts in profile["splits"].values()] == [20, 10, 7]
    with pytest.raises(UsageError, match="take all 60 rows"):
        prepare(
            config.model_copy(update={"valid": 50, "test": 10}), tmp_path / "raw", tmp_path / "x"
        )


def test_dialogues_stay_in_one_split(tmp_path: Path) -> None:
    config = DataConfig(kind="dialogues", source="chatter", labels=["intent"], valid=500, test=500)
    fetch(None, config, tmp_path / "raw")
    profile = prepare(config, tmp_path / "raw", tmp_path / "prepared")
    assert profile["splits"]["valid"]["rows"] == 500
    assert all(facts["shared_dialogues"] == 0 for facts in profile["splits"].values())
    train = _rows(tmp_path, "train")
    assert list(train) == ["id", "text", "context", "dialogue", "turn", "label.intent"]
    assert train["context"][0] == []
    first = train["dialogue"][0]
    assert (
        train["turn"][train["dialogue"] == first] == np.arange((train["dialogue"] == first).sum())
    ).all()


def test_generated_points_keep_their_splits(tmp_path: Path) -> None:
    config = DataConfig(kind="points", source="gaussians16", train=500, valid=50, test=60)
    fetch(None, config, tmp_path / "raw")
    profile = prepare(config, tmp_path / "raw", tmp_path / "prepared")
    train = _rows(tmp_path, "train")
    assert train["x"].shape == (500, 2)
    assert train["x"].dtype == np.float32
    assert set(train["label.mode"]) == set(range(16))
    assert profile["splits"]["test"]["in_train"] == 0


def test_points_of_a_file_come_from_its_numeric_columns(tmp_path: Path) -> None:
    rows = [f"{i},{i * 2},{'ab'[i % 2]}" for i in range(40)]
    rows[3] = "1,nan,a"
    content = "\n".join(["u,v,label", *rows])
    config = _file(tmp_path, "mine.csv", content, kind="points", columns={"label": "label"})
    profile = _prepare(config, tmp_path)
    assert profile["rejects"]["reasons"] == {"not finite": 1}
    assert profile["splits"]["train"]["dimensions"] == 2
    x = np.concatenate([_rows(tmp_path, split)["x"] for split in ("train", "valid", "test")])
    assert np.array_equal(x[:, 1], 2 * x[:, 0])


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.parquet"])
def test_contexts_of_a_file_are_lists_of_turns(tmp_path: Path, name: str) -> None:
    rows = 20
    if name.endswith("parquet"):
        columns = {"reply": [f"r {i}" for i in range(rows)], "before": [["a", "b"]] * rows}
        write_parquet(tmp_path / name, columns)
        content = (tmp_path / name).read_bytes()
    else:
        lines = [f'{{"reply": "r {i}", "before": ["a", "b"]}}' for i in range(rows)]
        content = "\n".join(lines).encode()
    config = _file(
        tmp_path, name, content, kind="dialogues", columns={"text": "reply", "context": "before"}
    )
    _prepare(config, tmp_path)
    assert _rows(tmp_path, "train")["context"][0] == ["a", "b"]


TWENTY = "\n".join(f"row {i}" for i in range(20))
BAD = {
    "non-UTF-8 text": ("a.txt", b"one\ntwo\nthr\xe9e\n", {}, "line 3 is not UTF-8 text .byte 0xe9"),
    "white space only": ("a.txt", b" \n\n ", {}, "the file is empty"),
    "too few rows": ("a.txt", b"one\ntwo\n", {}, "2 usable rows"),
    "no such column": (
        "a.csv", b"a,b\n1,2\n", {"columns": {"text": "body"}},
        "no column 'body' for text; .*a, b",
    ),
    "header only": ("a.csv", b"text,label\n", {}, "no rows"),
    "broken jsonl": ("a.jsonl", b'{"text": "a"\n{"text"', {}, "cannot be read as jsonl"),
    "broken parquet": ("a.parquet", b"PAR1 not really", {}, "cannot be read as parquet"),
    "one class": (
        "a.csv", ("text,y\n" + "\n".join(f"row {i},x" for i in range(20))).encode(),
        {"columns": {"label": "y"}}, "label 'y' has only 'x'",
    ),
    "unknown split": (
        "a.csv", b"text,split\nrow,held-out\n", {}, "row 1: .* split 'held-out'; expected train",
    ),
    "no numbers": (
        "a.csv", ("a,b\n" + "\n".join("x,y" for _ in range(20))).encode(),
        {"kind": "points"}, "no numeric columns; columns there are: a, b",
    ),
    "context missing": ("a.txt", TWENTY.encode(), {"kind": "dialogues"}, "no column 'context'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_writes_nothing(case: str, tmp_path: Path) -> None:
    name, content, options, message = BAD[case]
    config = _file(tmp_path, name, content, **options)
    with pytest.raises(UsageError, match=message) as error:
        _prepare(config, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "prepared").exists()


def test_an_unknown_label_column_names_those_there_are(tmp_path: Path) -> None:
    config = DataConfig(kind="points", source="pinwheel10", train=50, valid=20, test=20)
    fetch(None, config, tmp_path / "raw")
    with pytest.raises(UsageError, match="no label column 'mode'; label columns there: arm"):
        prepare(config.model_copy(update={"labels": ["mode"]}), tmp_path / "raw", tmp_path / "p")


def test_new_writes_a_data_set_and_an_experiment_and_names_of_others_are_refused(
    tmp_path: Path,
) -> None:
    rows = [f"sentence number {i} of,{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "mine.csv").write_text("\n".join(["body,y", *rows]))
    name = add_dataset("mine", tmp_path / "mine.csv", {"text": "body"}, ["y"], root=tmp_path)
    library = Library(tmp_path)
    config = library.dataset("mine")
    assert config.path == "mine.csv"
    assert config.sha256 == hash_path(tmp_path / "mine.csv")
    assert library.experiment(name).cluster.column == "y"
    assert library.experiment(name).prior.classes == 2
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}
    with pytest.raises(UsageError, match=r"'mine' is in .* already"):
        add_dataset("mine", tmp_path / "mine.csv", {"text": "body"}, root=tmp_path)
    with pytest.raises(UsageError, match=r"no column 'z' for --text; columns there: body, y"):
        add_dataset("other", tmp_path / "mine.csv", {"text": "z"}, root=tmp_path)
    with pytest.raises(UsageError, match="Give --text"):
        add_dataset("other", tmp_path / "mine.csv", root=tmp_path)
    for bad in ("../x", "2024", "007", "1e5", "no", "null", "Mine"):
        with pytest.raises(UsageError, match=f"name '{bad}'"):
            add_dataset(bad, tmp_path / "mine.csv", {"text": "body"}, root=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")} == before


def test_new_tells_points_sentences_and_dialogues_apart(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("u,v\n" + "\n".join(f"{i},{i}" for i in range(30)))
    (tmp_path / "s.txt").write_text("\n".join(f"some words {i}" for i in range(30)))
    lines = [f'{{"text": "r {i}", "before": ["a"]}}' for i in range(30)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    for name, file, context in (
        ("p", "p.csv", None),
        ("s", "s.txt", None),
        ("d", "d.jsonl", "before"),
    ):
        columns = {"context": context} if context else {}
        add_dataset(name, tmp_path / file, columns, root=tmp_path)
    data = {name: Library(tmp_path).dataset(name) for name in "psd"}
    assert [data[name].kind for name in "psd"] == ["points", "sentences", "dialogues"]
    for name in "psd":
        config = data[name].model_copy(update={"path": str(tmp_path / str(data[name].path))})
        fetch(None, config, tmp_path / "raw" / name)
        prepare(config, tmp_path / "raw" / name, tmp_path / "prepared" / name)
        assert read_json(tmp_path / "prepared" / name / "profile.json")["kind"] == data[name].kind
