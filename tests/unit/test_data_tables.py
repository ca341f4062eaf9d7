"""Files as users have them: every reader takes them alike, or says in one line why it cannot."""

import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldebm.config import DataConfig
from ldebm.data.columns import kind_of, labels, texts
from ldebm.data.fetch import fetch
from ldebm.data.packed import Packed, open_packed
from ldebm.data.packing import label_names, pack
from ldebm.data.prepare import prepare
from ldebm.data.text_files import decode, parse_csv, read_table
from ldebm.data.user_texts import as_texts, read_stream, read_texts
from ldebm.errors import UsageError
from pipelines.library import Library
from pipelines.new.dataset import add_dataset
from pipelines.new.tables import inspect_file

ROWS = 60
TEXTS = [f"the number {i} goes, {'slowly' if i % 2 else 'quickly'}" for i in range(ROWS)]
MOODS = ["calm", "busy", "odd"]
LABELS = [MOODS[i % 3] for i in range(ROWS)]


def separated(by: str, end: str = "\n") -> str:
    """Texts and labels with a separator; texts that hold it are in quotes."""
    rows = [("text", "mood"), *zip(TEXTS, LABELS, strict=True)]
    cells = [[f'"{cell}"' if by in cell else cell for cell in row] for row in rows]
    return end.join(by.join(row) for row in cells) + end


def objects() -> list[dict[str, Any]]:
    return [
        {"text": text, "mood": mood, "meta": {"id": i, "tags": []}}
        for i, (text, mood) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]


def parquet(text: pa.Array, mood: pa.Array) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table({"text": text, "mood": mood}), path)


def content(data: str | bytes) -> Callable[[Path], object]:
    raw = data.encode() if isinstance(data, str) else data
    return lambda path: path.write_bytes(raw)


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "commas": ("a.csv", content(separated(","))),
    "semicolons": ("a.csv", content(separated(";"))),
    "tabs in a csv": ("a.csv", content(separated("\t"))),
    "tabs in a tsv": ("A.TSV", content(separated("\t"))),
    "bars": ("a.csv", content(separated("|"))),
    "a stated separator": ("a.csv", content("sep=;\n" + separated(";"))),
    "carriage returns": ("a.csv", content(separated(",", "\r"))),
    "line ends of Windows": ("a.csv", content(separated(",", "\r\n"))),
    "a byte order mark": ("a.csv", content(b"\xef\xbb\xbf" + separated(",").encode())),
    "UTF-16": ("a.tsv", content(separated("\t").encode("utf-16"))),
    "gzip": ("a.csv.gz", content(gzip.compress(separated(",").encode()))),
    "lines of JSON": ("a.jsonl", content("\n\n".join(map(json.dumps, objects())))),
    "a list of JSON": ("a.json", content(json.dumps(objects(), indent=1))),
    "parquet": ("a.parquet", parquet(pa.array(TEXTS), pa.array(LABELS))),
    "categories": (
        "a.parquet",
        parquet(pa.array(TEXTS).dictionary_encode(), pa.array(LABELS).dictionary_encode()),
    ),
    "large strings": (
        "a.parquet",
        parquet(pa.array(TEXTS, pa.large_string()), pa.array(LABELS, pa.large_string())),
    ),
}  # fmt: skip


def built(file: Path, name: str = "mine", *wanted: str, **options: Any) -> Packed:
    """A file as `ldebm new` and the stages of data make it."""
    folder = file.parent
    add_dataset(name, file, options.pop("columns", {}), wanted, root=folder, **options)
    config = Library(folder).dataset(name).model_copy(update={"path": str(file)})
    fetch(None, config, folder / "raw" / name)
    prepare(config, folder / "raw" / name, folder / "prepared" / name)
    pack(config, folder / "prepared" / name, folder / "packed" / name)
    return open_packed(folder / "packed" / name)


@pytest.mark.parametrize("case", FILES)
def test_every_format_gives_the_same_rows_to_every_reader(case: str, tmp_path: Path) -> None:
    name, write = FILES[case]
    write(tmp_path / name)
    table = read_table(tmp_path / name)
    assert texts(table["text"], "") == TEXTS
    assert labels(table["mood"], "") == LABELS
    assert read_texts(tmp_path / name).texts == TEXTS
    facts = inspect_file(tmp_path / name, {}, ["mood"])
    assert (facts.kind, facts.columns["text"], facts.rows, facts.classes) == (
        "sentences", "text", ROWS, 3,
    )  # fmt: skip


@pytest.mark.parametrize("case", ["semicolons", "UTF-16", "gzip", "a list of JSON", "categories"])
def test_odd_files_are_built_as_they_were_read(case: str, tmp_path: Path) -> None:
    name, write = FILES[case]
    write(tmp_path / name)
    packed = built(tmp_path / name, "mine", "mood")
    assert packed.meta["labels"] == {"mood": sorted(MOODS)}
    assert sum(packed.meta["rows"].values()) == ROWS
    first = packed.split("train").row(0)
    assert packed.tokenizer.decode(first) in TEXTS


def test_quoted_cells_hold_line_ends_and_quotes_in_files_of_any_size(tmp_path: Path) -> None:
    long = "word " * 40_000
    rows = ['"one\nand ""two"""', f'"{long}\n{long}"', "three"] * 3
    (tmp_path / "a.csv").write_text(
        "id,text\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows))
    )
    assert (tmp_path / "a.csv").stat().st_size > 1 << 20
    found = read_texts(tmp_path / "a.csv")
    assert found.texts[:1] == ['one and "two"']
    assert found.rows == list(range(1, 10))


def test_tables_with_tabs_may_have_quotes_as_marks() -> None:
    said = parse_csv('text\tmood\n"Wow" he said\tcalm\nan "odd" one\tbusy\n', "a.tsv", tabs=True)
    assert said["text"] == ['"Wow" he said', 'an "odd" one']
    quoted = parse_csv('text\tmood\n"He said ""hi"""\tcalm\n', "a.tsv", tabs=True)
    assert quoted["text"] == ['He said "hi"']


def test_points_with_decimal_commas_are_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{i},5;{i * 2},25\n" for i in range(20))
    (tmp_path / "p.csv").write_text("east;north\n" + rows)
    packed = built(tmp_path / "p.csv")
    x = packed.split("train").x
    assert packed.kind == "points"
    assert {round(float(value) % 1, 2) for value in x[:, 0]} == {0.5}
    assert {round(float(value) % 1, 2) for value in x[:, 1]} == {0.25}


def test_only_line_ends_end_lines() -> None:
    found = read_stream("one\r\ntwo\u2028still two\rthree\n\x0bfour".encode())
    assert found.texts == ["one", "two still two", "three", "four"]
    with pytest.raises(
        UsageError, match=r"standard input: line 2 is not UTF-8 text .* 'caf\u00e9'"
    ):
        read_stream(b"tea\ncaf\xe9\n")


NOT_READ: dict[str, tuple[str, bytes, str]] = {
    "Windows-1252": ("a.csv", b"text,y\nok,a\ncaf\xe9 au lait,b\n",
                     r"line 3 is not UTF-8 .*convert .* where 'caf\u00e9 au lait"),
    "NUL bytes": ("a.txt", b"one\ntw\0o\n", "line 2 has a NUL byte"),
    "UTF-16 without a mark": ("a.txt", "one\ntwo\n".encode("utf-16-le"), "UTF-16"),
    "an empty file": ("a.csv", b" \n\n", "the file is empty"),
    "names alone": ("a.csv", b"text,y\n", "the file has no rows"),
    "a short row": ("a.csv", b'text,y\n"a\nb",c\nd\n', "line 4 has 1 cell and the first line 2"),
    "a long row": ("a.csv", b"text\nyes, sir\n", "line 2 has 2 cells .* name a file with one text"),
    "a column twice": ("a.csv", b"text,text\na,b\n", "column 'text' is there twice"),
    "an open quote": ("a.csv", b'text,y\n"a,b\nc,d\n', "cannot be read as csv"),
    "a broken object": ("a.jsonl", b'{"text": "a"}\n{"text": }\n', "line 2: cannot be read"),
    "a broken list": ("a.json", b'[{"text": "a"},\n{"text" 1}]', "line 2: cannot be read as json"),
    "no object": ("a.jsonl", b'{"text": "a"}\n"b"\n', "line 2 is \"b\"; expected an object"),
    "a list in a list": ("a.json", b'[{"text": "a"}, []]', r"entry 2 is \[\]; expected an object"),
    "damaged gzip": ("a.csv.gz", b"\x1f\x8bnothing", "cannot be read as gz"),
    "a spreadsheet": ("a.xlsx", b"PK", r"format '\.xlsx'; expected \.txt, \.csv"),
    "damaged UTF-16": ("a.txt", b"\xff\xfea\x00b", "damaged UTF-16"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_READ)
def test_what_cannot_be_read_is_refused_in_one_line_by_every_reader(
    case: str, tmp_path: Path
) -> None:
    name, data, message = NOT_READ[case]
    (tmp_path / name).write_bytes(data)
    for read in (inspect_file, read_texts):
        with pytest.raises(UsageError, match=message) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)


VALUES: dict[str, tuple[list[Any], list[str | None]]] = {
    "missing in several ways": (["a", "", "  ", None], ["a", None, None, None]),
    "NaN": ([0.0, 1.0, float("nan")], ["0", "1", None]),
    "flags": ([True, False, None], ["true", "false", None]),
    "whole numbers of several types": ([1, 1.0, "1", "1.0"], ["1", "1", "1", "1"]),
    "numbers and text": ([1, "b", 2.5], ["1", "b", "2.5"]),
    "numbers with zeros before": (["007", "7"], ["007", "7"]),
    "spaces around": ([" calm", "calm "], ["calm", "calm"]),
    "times": ([datetime(2024, 5, 1)], ["2024-05-01 00:00:00"]),
}


@pytest.mark.parametrize("case", VALUES)
def test_labels_of_any_type_are_text_and_missing_ones_no_class(case: str) -> None:
    values, expected = VALUES[case]
    assert labels(values, "a.csv") == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["a"], "b"], "row 1 is a list"),
        ([{"a": 1}], "row 1 is an object"),
        (["a", "x" * 300], "row 2 has a label of 300 characters"),
    ],
)
def test_what_is_no_label_is_refused(values: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labels(values, "a.jsonl: column 'y'")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["\u2460", "2", "1"], ["1", "2", "\u2460"]),
        (["--1", "1"], ["--1", "1"]),
        (["-", "1"], ["-", "1"]),
        (["\u0663", "1"], ["1", "\u0663"]),
        (["01", "1"], ["01", "1"]),
    ],
)
def test_classes_that_look_like_numbers_are_ordered(names: list[str], order: list[str]) -> None:
    assert label_names([*names, None]) == order


def test_kinds_of_columns_are_told_by_their_values() -> None:
    assert kind_of([1, 2.5, None]) == "numbers"
    assert kind_of([True, False]) == "text"
    assert kind_of([[1.0, 2.0]]) == "vectors"
    assert kind_of([["1", "2"]]) == "texts"
    assert kind_of([{"a": 1}, "b"]) == "nested"
    assert kind_of([[["a"]]]) == "nested"
    assert kind_of([None, ""]) == "empty"


@pytest.mark.parametrize("name", ["a/b", "..", "x" * 300, "Mood", "text", "split", "label", "id"])
def test_a_label_column_may_have_any_name(name: str, tmp_path: Path) -> None:
    columns = {"body": TEXTS, name: LABELS, "mood": LABELS[::-1]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    packed = built(tmp_path / "a.parquet", "mine", name, "mood", columns={"text": "body"})
    split = packed.split("train")
    names = packed.meta["labels"]
    for row in range(split.n):
        number = int(packed.tokenizer.decode(split.row(row)).split()[2])
        assert names[name][split.labels(name)[row]] == LABELS[number]
        assert names["mood"][split.labels("mood")[row]] == LABELS[::-1][number]


def lines(rows: list[str], *columns: str) -> str:
    return "\n".join([",".join(columns), *rows]) + "\n"


TOO_LATE: dict[str, tuple[str, list[str], str]] = {
    "too few rows": ("text\n" + "a b\n" * 9, [], "a.csv: 9 usable rows"),
    "more classes than rows": (
        lines([f"row {i} of it" for i in range(12)], "text"), [],
        "a.csv: prior.classes 16: more classes than the 8 training rows",
    ),
    "one class": (
        lines([f"row {i},a" for i in range(30)], "text", "y"), ["y"], "label 'y' has only 'a'"),
    "one class in training": (
        lines([f"row {i},{'ab'[i > 24]},{'train' if i < 25 else 'test'}" for i in range(30)],
              "text", "y", "split"), ["y"], "label 'y' has only 'a' in the training split"),
    "no training rows": (
        lines([f"row {i},dev" for i in range(30)], "text", "split"), [],
        "all rows are of the split valid; rows of the split train are missing",
    ),
    "an unknown split": (
        lines([f"row {i},fold {i % 2}" for i in range(30)], "text", "split"), [],
        "row 1: column 'split': split 'fold 0'; expected train",
    ),
    "an identifier as label": (
        lines([f"row {i},id{i}" for i in range(1200)], "text", "y"), ["y"], "1080 classes, more"),
    "mostly empty": (
        lines([f"row {i},1" if i % 2 else " ,1" for i in range(60)], "text", "n"), [],
        "train: share of rows without text is 0.5; .*is it the right column",
    ),
    "the same again": ("text\n" + "all the same\n" * 60, [], "repeat another row is 0.98"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_LATE)
def test_new_refuses_what_a_build_would_and_changes_nothing(case: str, tmp_path: Path) -> None:
    text, wanted, message = TOO_LATE[case]
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        built(tmp_path / "a.csv", "mine", *wanted)
    assert "a.csv" in str(error.value)
    assert "\n" not in str(error.value)
    assert [item for item in tmp_path.rglob("*") if item.is_file()] == [tmp_path / "a.csv"]
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("missing", ["valid", "test"])
def test_a_source_without_one_split_gives_it_some_training_rows(
    missing: str, tmp_path: Path
) -> None:
    other = "test" if missing == "valid" else "val"
    rows = [f"row number {i},{other if i % 5 == 0 else 'Train'}" for i in range(100)]
    (tmp_path / "a.csv").write_text(lines(rows, "text", "split"))
    sizes = built(tmp_path / "a.csv").meta["rows"]
    assert sizes == {"train": 76, "valid": 20, "test": 20} | {missing: 4}


def test_every_split_of_few_labels_has_some(tmp_path: Path) -> None:
    rows = [f"row number {i},{'ab'[i % 2] if i < 12 else ''}" for i in range(400)]
    (tmp_path / "a.csv").write_text(lines(rows, "text", "y"))
    packed = built(tmp_path / "a.csv", "mine", "y")
    known = {
        split: int((packed.split(split).labels("y") >= 0).sum()) for split in packed.meta["rows"]
    }
    assert known == {"train": 8, "valid": 2, "test": 2}
    summary = inspect_file(tmp_path / "a.csv", {}, ["y"]).summary.lines()
    assert summary[-1] == "  label     y: 2 classes (a 6, b 6); 388 rows have none"


ZH = "\u79cb\u96e8\u6708\u590f\u82b1\u5c71\u4eba\u98ce\u6625\u65e5\u51ac\u5929\u5fc3\u6c34"


def test_text_without_spaces_is_cut_into_pieces(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    rows = ["".join(stream.choice(list(ZH), 9 + i % 4)) for i in range(200)]
    (tmp_path / "zh.txt").write_text("\n".join(rows), encoding="utf-8")
    packed = built(tmp_path / "zh.txt")
    assert packed.meta["tokenizer"] == "unigram"
    test = packed.split("test")
    assert (test.ids != packed.tokenizer.unk_id).all()
    assert test.lengths.max() <= packed.meta["max_len"]
    assert packed.tokenizer.decode(test.row(0)) in rows
    (tmp_path / "other").mkdir()
    (tmp_path / "other/zh.txt").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(UsageError, match=r"words that the vocabulary lacks is 1; .*unigram"):
        built(tmp_path / "other/zh.txt", tokenizer="word")


def test_new_says_what_it_has_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(separated(";") + ";calm\n")
    facts = inspect_file(tmp_path / "a.csv", {}, ["mood"])
    assert facts.summary.lines()[1:] == [
        "  rows      60: 54 train, 3 valid, 3 test (divided at random)",
        "  left out  1 empty",
        "  columns   text text",
        "  lengths   median 5 words, 95 of 100 rows at most 5",
        "  tokens    words, a vocabulary of at most 69",
        "  label     mood: 3 classes (busy 20, calm 20, odd 20)",
    ]


def test_a_bare_string_is_one_text() -> None:
    assert as_texts("hello") == ["hello"]
    with pytest.raises(UsageError, match="item 1 is None; expected a string"):
        as_texts(["a", None])


def test_marks_of_encodings_are_read_and_nothing_else() -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode("caf\u00e9".encode(encoding), "a.txt") == "caf\u00e9"


def test_unused_config_columns_are_no_labels(tmp_path: Path) -> None:
    """A label called as a role is never taken for it."""
    rows = [
        {"text": text, "context": mood, "turn": mood}
        for text, mood in zip(TEXTS, LABELS, strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    packed = built(tmp_path / "a.jsonl", "mine", "context", "turn")
    assert packed.kind == DataConfig(kind="sentences", source="file").kind
    assert set(packed.meta["labels"]) == {"context", "turn"}
