"""Adding a user's table: labelled, partly labelled, dialogues in every form, documents, pieces."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldebm.errors import UsageError
from ldebm.files import hash_path
from pipelines.library import Library
from pipelines.new.dataset import add_dataset
from tests.unit.data_worlds import World, table


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def turns(order: Callable[[int], int] = lambda turn: turn) -> str:
    """Twelve dialogues of three turns, a turn a row."""
    rows = [
        f"d{d},{turn},{'me' if turn % 2 else 'you'},words {d} of turn {turn},{'ab'[turn % 2]}"
        for d in range(12)
        for turn in map(order, range(3))
    ]
    return table(["talk", "nr", "who", "said", "act"], rows)


def partly(labelled: int) -> str:
    """Sixty sentences of which so many have one of two labels."""
    rows = [f"sentence number {i},{'ab'[i % 2] if i < labelled else ''}" for i in range(60)]
    return table(["text", "y"], rows)


def test_a_partly_labelled_file_keeps_rows_without_a_label(world: World) -> None:
    config = world.add(world.write("mine.csv", partly(30)), "y")
    labels = world.built(config).split("train").labels("y")
    assert {*labels.tolist()} == {-1, 0, 1}
    experiment = world.experiment()
    assert experiment.cluster.column == "y"
    assert experiment.prior.classes == 2
    assert "60 rows, 30 of them labelled" in experiment.description
    assert experiment.prior.labelled_batch == 0, "half of the rows: enough for every batch"
    assert experiment.backbone.supervision is not None, "the latent has to tell the labels"
    assert experiment.backbone.supervision.column == "y"


def test_few_labels_get_a_batch_of_their_own(world: World) -> None:
    world.add(world.write("mine.csv", partly(12)), "y")
    assert world.experiment().prior.labelled_batch == 12
    assert world.experiment().backbone.supervision is None, "too few to shape the latent of all"


def test_an_unlabelled_file_gets_classes_by_clustering(world: World) -> None:
    world.add(world.write("mine.txt", "\n".join(f"sentence number {i}" for i in range(60))))
    experiment = world.experiment()
    assert experiment.cluster.labels == "gc"
    assert experiment.backbone.supervision is None
    assert experiment.backbone.hidden < 128, "a small file, a small network"


@pytest.mark.parametrize("order", [lambda turn: turn, lambda turn: 2 - turn])
def test_a_turn_a_row_is_put_in_order_and_gets_its_context(world: World, order) -> None:
    columns = {"text": "said", "dialogue": "talk", "turn": "nr", "speaker": "who"}
    config = world.add(world.write("mine.csv", turns(order)), "act", columns=columns)
    assert (config.kind, config.context_turns) == ("dialogues", 5)
    packed, rows = world.built(config), world.rows()
    last = rows["turn"].tolist().index(2)
    number = rows["text"][last].split()[2]
    assert rows["text"][last] == f"<you> words {number} of turn 2"
    assert rows["context"][last] == [
        f"<you> words {number} of turn 0", f"<me> words {number} of turn 1",
    ]  # fmt: skip
    assert packed.split("train").labels("act")[last] == 0
    assert len(packed.split("train").context(rows["turn"].tolist().index(0))) == 0
    backbone = world.experiment().backbone
    assert backbone.arch == "dialogue"
    assert backbone.supervision is not None
    assert backbone.supervision.column == "act"


def test_a_dialogue_a_row_has_lists_of_turns_and_of_labels(world: World) -> None:
    items = [
        {"utterances": [f"hello {i}", f"yes {i}", f"so long {i}"], "act": ["greet", "", "leave"],
         "topic": "ab"[i % 2]}
        for i in range(14)
    ]  # fmt: skip
    path = world.write("mine.jsonl", "\n".join(map(json.dumps, items)))
    config = world.add(path, "act", "topic")
    packed, rows = world.built(config), world.rows()
    assert (config.kind, config.columns["text"]) == ("dialogues", "utterances")
    assert rows["label.act"][:3] == ["greet", None, "leave"]
    assert len(set(rows["label.topic"][:3])) == 1, "one label for a dialogue holds for its turns"
    assert rows["context"][2] == rows["text"][:2]
    assert packed.meta["labels"] == {"act": ["greet", "leave"], "topic": ["a", "b"]}


def test_documents_are_taken_as_words_where_that_is_asked_for(world: World) -> None:
    rows = "\n".join(f"The market of number{i} fell and markets rose" for i in range(40))
    packed = world.built(world.add(world.write("mine.txt", rows), kind="documents"))
    assert packed.kind == "documents"
    assert world.experiment().backbone.arch == "bow"
    assert len(packed.split("train").row(0)) == len(packed.split("test").row(0)) == 4


def test_labels_of_points_are_left_to_the_prior_and_those_of_documents_supervise(
    world: World,
) -> None:
    rows = [f"{i},{i % 5}.5,{'ab'[i % 2]}" for i in range(40)]
    world.add(world.write("mine.csv", table(["x", "y", "side"], rows)), "side")
    assert world.experiment().backbone.supervision is None
    shutil.rmtree(world.folder / "conf")
    rows = [f"The market of number{i} fell and rose,{'ab'[i % 2]}" for i in range(40)]
    world.add(world.write("mine.csv", table(["text", "side"], rows)), "side", kind="documents")
    assert world.experiment().backbone.supervision is not None


def test_pieces_of_words_are_a_choice(world: World) -> None:
    words = [f"un{stem}able re{stem}ing" for stem in ("read", "think", "writ", "stop", "lov")]
    lines = "\n".join(f"{a} {b}" for a in words for b in words)
    config = world.add(world.write("mine.txt", lines), tokenizer="bpe")
    assert (config.tokenizer, config.vocab_size) == ("bpe", 200)
    tokenizer = world.built(config).tokenizer
    assert tokenizer.decode(tokenizer.encode("unstoping")) == "unstoping"


def test_points_sentences_and_dialogues_are_told_apart(world: World) -> None:
    lines = [f'{{"text": "r {i}", "before": ["a"]}}' for i in range(30)]
    for kind, file, content, columns in (
        ("points", "p.csv", "u,v\n" + "\n".join(f"{i},{i}" for i in range(30)), {}),
        ("sentences", "s.txt", "\n".join(f"some words {i}" for i in range(30)), {}),
        ("dialogues", "d.jsonl", "\n".join(lines), {"context": "before"}),
    ):
        config = world.add(world.write(f"{kind}/{file}", content), columns=columns)
        assert config.kind == kind
        shutil.rmtree(world.raw, ignore_errors=True)
        assert world.built(config).kind == kind
        shutil.rmtree(world.folder / "conf")


def test_names_that_are_taken_or_none_and_columns_that_are_not_there_change_nothing(
    world: World,
) -> None:
    rows = [f"sentence number {i} of,{'ab'[i % 2]}" for i in range(60)]
    path, body = world.write("mine.csv", table(["body", "y"], rows)), {"text": "body"}
    config = world.add(path, "y", columns=body)
    assert Library(world.folder).dataset("mine").path == "mine.csv"
    assert config.sha256 == hash_path(path)
    assert (world.experiment().cluster.column, world.experiment().prior.classes) == ("y", 2)
    before = {path: path.read_bytes() for path in world.folder.rglob("*.yaml")}
    names = ("../x", "2024", "007", "1e5", "no", "null", "Mine")
    cases: list[tuple[str, dict[str, str], str]] = [
        ("mine", body, r"'mine' is in .* already"),
        ("other", {"text": "z"}, r"no column 'z' for --text; columns there: body, y"),
        ("other", {}, "Give --text"),
        *((name, body, f"name '{name}'") for name in names),
    ]
    for name, columns, message in cases:
        with pytest.raises(UsageError, match=message):
            add_dataset(name, path, columns, root=world.folder)
    with pytest.raises(UsageError, match=r"https://a\.org/b\.csv: expected a file or a folder"):
        add_dataset("other", "https://a.org/b.csv", root=world.folder)
    assert {path: path.read_bytes() for path in world.folder.rglob("*.yaml")} == before


LISTS = [{"text": ["a b", "c"], "act": ["x", "y"]} for _ in range(12)]
BAD: dict[str, tuple[str, str, list[str], dict[str, Any], str]] = {
    "unequal labels": (
        "m.jsonl", "\n".join(map(json.dumps, [*LISTS, {"text": ["a", "b", "c"], "act": ["x"]}])),
        ["act"], {}, r"m\.jsonl: row 13: 3 turns and 1 labels of 'act'",
    ),
    "empty contexts": (
        "m.csv", "d,text\n" + "".join(f"{i},text {i}\n" for i in range(20)), [],
        {"dialogue": "d"}, "every context is empty: no dialogue has two turns",
    ),
    "an empty column of contexts": (
        "m.csv", "before,text\n" + "".join(f",text {i}\n" for i in range(20)), [],
        {"context": "before"}, "every context is empty; is 'before' the column",
    ),
    "a turn with a word for its number": (
        "m.csv", "d,n,text\n1,0,a\n1,one,b\n", [], {"dialogue": "d", "turn": "n"},
        "column 'n': row 2 is 'one'; expected the number of the turn",
    ),
    "a turn without a number": (
        "m.csv", "d,n,text\n1,0,a\n1,,b\n", [], {"dialogue": "d", "turn": "n"},
        "column 'n': row 2 has no number; expected the number of the turn",
    ),
    "a turn of no dialogue": (
        "m.csv", "d,text\n1,a\n,b\n", [], {"dialogue": "d"}, "row 2: no value in column 'd'",
    ),
    "a dialogue in two splits": (
        "m.csv", "d,split,text\n1,train,a\n1,test,b\n", [], {"dialogue": "d"},
        "row 1: dialogue '1' is in the splits train and test",
    ),
    "no known word": (
        "m.txt", "\n".join(f"it is {i} of the 12" for i in range(20)), [], {"kind": "documents"},
        r"m\.txt: documents: no training document has a known word",
    ),
    "no such dialogue column": (
        "m.csv", "d,text\n1,a\n", [], {"dialogue": "e"}, "no column 'e' for --dialogue",
    ),
    "documents with turns": (
        "m.csv", "d,text\n1,a\n", [], {"dialogue": "d", "kind": "documents"},
        "kind 'documents' has no turns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_one_clear_line_and_change_nothing(case: str, world: World) -> None:
    file, content, labels, options, message = BAD[case]
    kind = options.get("kind")
    options = {role: name for role, name in options.items() if role != "kind"}
    world.new_refuses(message, world.write(file, content), *labels, columns=options, kind=kind)
