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
from ldebm.data.columns import kind_of, label_names, labels, texts
from ldebm.data.csv_tables import parse_csv
from ldebm.data.text_files import decode, read_table
from ldebm.data.user_texts import as_texts, read_stream, read_texts
from ldebm.errors import UsageError
from pipelines.new.tables import inspect_file
from tests.unit.data_worlds import World, encoded, table

ROWS = 60
TEXTS = [f"the number {i} goes, {'slowly' if i % 2 else 'quickly'}" for i in range(ROWS)]
MOODS = ["calm", "busy", "odd"]
LABELS = [MOODS[i % 3] for i in range(ROWS)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def separated(by: str, end: str = "\n") -> bytes:
    """Texts and labels with a separator; texts that hold it are in quotes."""
    rows = [("text", "mood"), *zip(TEXTS, LABELS, strict=True)]
    cells = [[f'"{cell}"' if by in cell else cell for cell in row] for row in rows]
    return (end.join(by.join(row) for row in cells) + end).encode()


def parquet(change: Callable[[pa.Array], pa.Array] = lambda column: column) -> bytes:
    sink = pa.BufferOutputStream()
    columns = {"text": pa.array(TEXTS), "mood": pa.array(LABELS)}
    pq.write_table(pa.table({name: change(column) for name, column in columns.items()}), sink)
    return bytes(sink.getvalue())


OBJECTS = [
    {"text": text, "mood": mood, "meta": {"id": i, "tags": []}}
    for i, (text, mood) in enumerate(zip(TEXTS, LABELS, strict=True))
]
FILES: dict[str, tuple[str, bytes]] = {
    "commas": ("a.csv", separated(",")),
    "semicolons": ("a.csv", separated(";")),
    "tabs in a csv": ("a.csv", separated("\t")),
    "tabs in a tsv": ("A.TSV", separated("\t")),
    "bars": ("a.csv", separated("|")),
    "a stated separator": ("a.csv", b"sep=;\n" + separated(";")),
    "carriage returns": ("a.csv", separated(",", "\r")),
    "line ends of Windows": ("a.csv", separated(",", "\r\n")),
    "a byte order mark": ("a.csv", b"\xef\xbb\xbf" + separated(",")),
    "UTF-16": ("a.tsv", separated("\t").decode().encode("utf-16")),
    "gzip": ("a.csv.gz", gzip.compress(separated(","))),
    "lines of JSON": ("a.jsonl", "\n\n".join(map(json.dumps, OBJECTS)).encode()),
    "a list of JSON": ("a.json", json.dumps(OBJECTS, indent=1).encode()),
    "parquet": ("a.parquet", parquet()),
    "categories": ("a.parquet", parquet(lambda column: column.dictionary_encode())),
    "large strings": ("a.parquet", parquet(lambda column: column.cast(pa.large_string()))),
}


@pytest.mark.parametrize("case", FILES)
def test_every_format_gives_the_same_rows_to_every_reader(case: str, world: World) -> None:
    path = world.write(*FILES[case])
    rows = read_table(path)
    assert (texts(rows["text"], ""), labels(rows["mood"], "")) == (TEXTS, LABELS)
    assert read_texts(path).texts == TEXTS
    packed = world.built(world.add(path, "mood"))
    assert (packed.kind, packed.meta["labels"]) == ("sentences", {"mood": sorted(MOODS)})
    assert sum(packed.meta["rows"].values()) == ROWS
    assert packed.tokenizer.decode(packed.split("train").row(0)) in TEXTS


def test_quoted_cells_hold_line_ends_and_quotes_in_files_of_any_size(world: World) -> None:
    long = "word " * 40_000
    rows = ['"one\nand ""two"""', f'"{long}\n{long}"', "three"] * 3
    path = world.write("a.csv", table(["id", "text"], [f"{i},{row}" for i, row in enumerate(rows)]))
    assert path.stat().st_size > 1 << 20
    texts = read_texts(path)
    assert texts.texts[:1] == ['one and "two"']
    assert texts.rows == list(range(1, 10))


def test_tables_with_tabs_may_have_quotes_as_marks() -> None:
    said = parse_csv('text\tmood\n"Wow" he said\tcalm\nan "odd" one\tbusy\n', "a.tsv", tabs=True)
    assert said["text"] == ['"Wow" he said', 'an "odd" one']
    quoted = parse_csv('text\tmood\n"He said ""hi"""\tcalm\n', "a.tsv", tabs=True)
    assert quoted["text"] == ['He said "hi"']


def test_points_with_decimal_commas_are_numbers(world: World) -> None:
    rows = "".join(f"{i},5;{i * 2},25\n" for i in range(20))
    packed = world.built(world.add(world.write("p.csv", "east;north\n" + rows)))
    assert packed.kind == "points"
    assert {tuple(row) for row in np.round(packed.split("train").x % 1, 2).tolist()} == {
        (0.5, 0.25)
    }


def test_only_line_ends_end_lines() -> None:
    texts = read_stream("one\r\ntwo\u2028still two\rthree\n\x0bfour".encode())
    assert texts.texts == ["one", "two still two", "three", "four"]
    expected = r"standard input: line 2 is not UTF-8 text .* 'caf\u00e9'"
    with pytest.raises(UsageError, match=expected):
        read_stream(b"tea\ncaf\xe9\n")


NOT_READ: dict[str, tuple[str, bytes, str]] = {
    "Windows-1252": ("a.csv", b"text,y\nok,a\ncaf\xe9 au lait,b\n",
                     r"line 3 is not UTF-8 .*convert .* where 'caf\u00e9 au lait"),
    "NUL bytes": ("a.txt", b"one\ntw\0o\n", "line 2 has a NUL byte"),
    "UTF-16 without a mark": ("a.txt", "one\ntwo\n".encode("utf-16-le"), "UTF-16"),
    "white space only": ("a.csv", b" \n\n", "the file is empty"),
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
    "broken parquet": ("a.parquet", b"PAR1 not really", "cannot be read as parquet"),
    "a spreadsheet": ("a.xlsx", b"PK", r"format '\.xlsx'; expected \.txt, \.csv"),
    "damaged UTF-16": ("a.txt", b"\xff\xfea\x00b", "damaged UTF-16"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_READ)
def test_what_cannot_be_read_is_refused_in_one_line_by_every_reader(
    case: str, world: World
) -> None:
    name, data, message = NOT_READ[case]
    path = world.write(name, data)
    world.new_refuses(f"{name}.*{message}", path)
    with pytest.raises(UsageError, match=f"{name}.*{message}"):
        read_texts(path)
    if case != "a spreadsheet":  # which preparing does not look at
        world.refuses(message, world.config(name, data))


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


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, None], "numbers"), ([True, False], "text"), ([[1.0, 2.0]], "vectors"),
        ([["1", "2"]], "texts"), ([{"a": 1}, "b"], "nested"), ([[["a"]]], "nested"),
        ([None, ""], "empty"),
    ],
)  # fmt: skip
def test_kinds_of_columns_are_told_by_their_values(values: list[Any], kind: str) -> None:
    assert kind_of(values) == kind


TOO_LATE: dict[str, tuple[str, list[str], str]] = {
    "too few rows": ("text\n" + "a b\n" * 9, [], "a.csv: 9 usable rows"),
    "more classes than rows": (
        table(["text"], [f"row {i} of it" for i in range(12)]), [],
        "a.csv: prior.classes 16: more classes than the 8 training rows",
    ),
    "one class": (
        table(["text", "y"], [f"row {i},a" for i in range(30)]), ["y"], "label 'y' has only 'a'"),
    "one class in training": (
        table(["text", "y", "split"],
              [f"row {i},{'ab'[i > 24]},{'train' if i < 25 else 'test'}" for i in range(30)]),
        ["y"], "label 'y' has only 'a' in the training split"),
    "labels all empty": (
        table(["text", "y"], [f"text {i}," for i in range(20)]), ["y"], "label 'y' has no value"),
    "no training rows": (
        table(["text", "split"], [f"row {i},dev" for i in range(30)]), [],
        "all rows are of the split valid; rows of the split train are missing",
    ),
    "an unknown split": (
        table(["text", "split"], [f"row {i},fold {i % 2}" for i in range(30)]), [],
        "row 1: column 'split': split 'fold 0'; expected train",
    ),
    "an identifier as label": (
        table(["text", "y"], [f"row {i},id{i}" for i in range(1200)]), ["y"],
        "1080 classes, more"),
    "mostly empty": (
        table(["text", "n"], [f"row {i},1" if i % 2 else " ,1" for i in range(60)]), [],
        "train: share of rows without text is 0.5; .*is it the right column",
    ),
    "the same again": ("text\n" + "all the same\n" * 60, [], "repeat another row is 0.98"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_LATE)
def test_new_refuses_what_a_build_would_and_changes_nothing(case: str, world: World) -> None:
    text, wanted, message = TOO_LATE[case]
    path = world.write("a.csv", text)
    world.new_refuses(f"a.csv.*{message.removeprefix('a.csv')}", path, *wanted)
    assert [item for item in world.folder.rglob("*") if item.is_file()] == [path]


@pytest.mark.parametrize("missing", ["valid", "test"])
def test_a_source_without_one_split_gives_it_some_training_rows(missing: str, world: World) -> None:
    other = "test" if missing == "valid" else "val"
    rows = [f"row number {i},{other if i % 5 == 0 else 'Train'}" for i in range(100)]
    packed = world.built(world.add(world.write("a.csv", table(["text", "split"], rows))))
    assert packed.meta["rows"] == {"train": 76, "valid": 20, "test": 20} | {missing: 4}


def test_every_split_of_few_labels_has_some(world: World) -> None:
    rows = [f"row number {i},{'ab'[i % 2] if i < 12 else ''}" for i in range(400)]
    packed = world.built(world.add(world.write("a.csv", table(["text", "y"], rows)), "y"))
    known = {
        split: int((packed.split(split).labels("y") >= 0).sum()) for split in packed.meta["rows"]
    }
    assert known == {"train": 8, "valid": 2, "test": 2}
    assert world.says("  label     y: 2 classes (a 6, b 6); 388 rows have none")


ZH = "\u79cb\u96e8\u6708\u590f\u82b1\u5c71\u4eba\u98ce\u6625\u65e5\u51ac\u5929\u5fc3\u6c34"


def test_text_without_spaces_is_cut_into_pieces(world: World) -> None:
    stream = np.random.default_rng(0)
    rows = ["".join(stream.choice(list(ZH), 9 + i % 4)) for i in range(200)]
    path = world.write("zh.txt", "\n".join(rows))
    words = r"words that the vocabulary lacks is 1; .*unigram"
    world.new_refuses(words, path, tokenizer="word")
    packed = world.built(world.add(path))
    assert packed.meta["tokenizer"] == "unigram"
    test = packed.split("test")
    assert (test.ids != packed.tokenizer.unk_id).all()
    assert test.lengths.max() <= packed.meta["max_len"]
    assert packed.tokenizer.decode(test.row(0)) in rows


def test_new_says_what_it_has_found(world: World) -> None:
    path = world.write("a.csv", separated(";") + b";calm\n")
    assert inspect_file(path, {}, ["mood"]).summary.lines()[1:] == [
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_encodings_are_read_and_nothing_else(encoding: str) -> None:
    assert decode("caf\u00e9".encode(encoding), "a.txt") == "caf\u00e9"


def test_a_label_called_as_a_role_is_never_taken_for_it(world: World) -> None:
    rows = [{"text": text, "context": mood, "turn": mood}
            for text, mood in zip(TEXTS, LABELS, strict=True)]  # fmt: skip
    path = world.write("a.jsonl", "\n".join(map(json.dumps, rows)))
    packed = world.built(world.add(path, "context", "turn"))
    assert packed.kind == "sentences"
    assert set(packed.meta["labels"]) == {"context", "turn"}


NAMES = (  # of columns of the pipeline, and others that could be mistaken
    "number", "digest", "reason", "line", "place", "fault", "group", "turn", "dialogue", "context",
    "known", "x", "height", "width", "channels", "bytes", "range", "label.a", "labels", "a/b", "..",
    "n" * 300, "Mood", "text", "split", "label", "id",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["images", "sentences", "points"])
def test_a_label_may_have_any_name_and_stays_with_its_row(kind: Any, world: World) -> None:
    """Every row shows its number: as pixels, words or a coordinate."""
    expected = {
        label: {row: f"{label} {(row + shift) % 3}"[-190:] for row in range(40)}
        for shift, label in enumerate(NAMES)
    }
    columns: dict[str, Any] = {label: list(rows.values()) for label, rows in expected.items()}
    roles: dict[Any, str] = {}
    if kind == "images":
        names = [name for name in NAMES if name not in ("id", "split")]  # are none of images'
        expected = {name: expected[name] for name in names}
        columns = {name: columns[name] for name in names} | {
            "image": pa.array(map(tile, range(40)))
        }
    elif kind == "points":
        columns |= {"a": [float(row) for row in range(40)], "b": [row / 7 for row in range(40)]}
        roles = {"x": "a,b"}
    else:
        columns["body"] = [" ".join(f"{row:02}") for row in range(40)]
        roles = {"text": "body"}
    world.raw.mkdir()
    pq.write_table(pa.table(columns), world.raw / "mine.parquet")
    config = DataConfig(kind=kind, source="file", columns=roles, labels=list(expected))
    packed = world.built(config)
    label_of: dict[str, dict[int, str]] = {label: {} for label in expected}
    for split in map(packed.split, ("train", "valid", "test")):
        for row in range(split.n):
            if kind == "sentences":
                own = int("".join(packed.tokenizer.decode(split.row(row)).split()))
            else:
                own = int(split.x[row, 0, 4, 4] if kind == "images" else split.x[row, 0])
            for label, rows in label_of.items():
                rows[own] = packed.meta["labels"][label][split.labels(label)[row]]
    assert label_of == expected


def tile(value: int) -> bytes:
    """A picture whose every pixel has the value; a corner has another."""
    pixels = np.full((8, 8), value, dtype=np.uint8)
    pixels[0, 0] = 255
    return encoded(pixels)
