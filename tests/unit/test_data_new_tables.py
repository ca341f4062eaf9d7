"""Adding a user's table: labelled, partly labelled, dialogues in every form, documents, pieces."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldebm.config import DataConfig
from ldebm.data.fetch import fetch
from ldebm.data.packed import Packed, open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.files import read_parquet
from pipelines.library import Library
from pipelines.new.dataset import add_dataset

PARAMS = """run: {datasets: [], experiments: [], seeds: [0]}
data:
  a: {kind: points, source: gaussians16}
experiments:
  one:
    data: a
    backbone: {arch: mlp, latent: 2, training: {epochs: 1}}
    prior: {training: {epochs: 1}}
"""


class Project:
    """A folder with a params.yaml to which files are added."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.params = folder, folder / "params.yaml"
        self.params.write_text(PARAMS)

    def add(self, file: str, content: str, *labels: str, **options: Any) -> DataConfig:
        (self.folder / file).write_text(content)
        columns = {key: options.pop(key) for key in ("text", "context", "dialogue", "turn",
                                                     "speaker") if key in options}  # fmt: skip
        add_dataset("mine", self.folder / file, columns, labels, root=self.params.parent, **options)
        config = Library(self.params.parent).dataset("mine")
        return config.model_copy(update={"path": str(self.folder / file)})

    def built(self, config: DataConfig) -> Packed:
        fetch(None, config, self.folder / "raw")
        prepare(config, self.folder / "raw", self.folder / "prepared")
        pack(config, self.folder / "prepared", self.folder / "packed")
        return open_packed(self.folder / "packed")

    def rows(self, split: str = "train") -> dict[str, Any]:
        return read_parquet(self.folder / "prepared" / f"{split}.parquet")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def turns(order: Callable[[int], int] = lambda turn: turn) -> str:
    """Twelve dialogues of three turns, a turn a row."""
    rows = [
        f"d{d},{turn},{'me' if turn % 2 else 'you'},words {d} of turn {turn},{'ab'[turn % 2]}"
        for d in range(12)
        for turn in map(order, range(3))
    ]
    return "\n".join(["talk,nr,who,said,act", *rows]) + "\n"


def test_a_partly_labelled_file_keeps_rows_without_a_label(project: Project) -> None:
    rows = [f"sentence number {i},{'ab'[i % 2] if i < 30 else ''}" for i in range(60)]
    config = project.add("mine.csv", "\n".join(["text,y", *rows]), "y")
    labels = project.built(config).split("train").labels("y")
    assert {*labels.tolist()} == {-1, 0, 1}
    experiment = Library(project.params.parent).experiment("mine-ldebm")
    assert experiment.cluster.column == "y"
    assert experiment.prior.classes == 2
    assert "60 rows, 30 of them labelled" in experiment.description
    assert experiment.prior.labelled_batch == 0, "half of the rows: enough for every batch"
    assert experiment.backbone.supervision is not None, "the latent has to tell the labels"
    assert experiment.backbone.supervision.column == "y"


def test_few_labels_get_a_batch_of_their_own(project: Project) -> None:
    rows = [f"sentence number {i},{'ab'[i % 2] if i < 12 else ''}" for i in range(60)]
    project.add("mine.csv", "\n".join(["text,y", *rows]), "y")
    experiment = Library(project.params.parent).experiment("mine-ldebm")
    assert experiment.prior.labelled_batch == 12
    assert experiment.backbone.supervision is None, "too few to shape the latent of all rows"


def test_an_unlabelled_file_gets_classes_by_clustering(project: Project) -> None:
    project.add("mine.txt", "\n".join(f"sentence number {i}" for i in range(60)))
    experiment = Library(project.params.parent).experiment("mine-ldebm")
    assert experiment.cluster.labels == "gc"
    assert experiment.backbone.supervision is None
    assert experiment.backbone.hidden < 128, "a small file, a small network"


@pytest.mark.parametrize("order", [lambda turn: turn, lambda turn: 2 - turn])
def test_a_turn_a_row_is_put_in_order_and_gets_its_context(project: Project, order) -> None:
    config = project.add(
        "mine.csv", turns(order), "act", text="said", dialogue="talk", turn="nr", speaker="who"
    )
    assert (config.kind, config.context_turns) == ("dialogues", 5)
    packed = project.built(config)
    rows = project.rows()
    last = rows["turn"].tolist().index(2)
    number = rows["text"][last].split()[2]
    assert rows["text"][last] == f"<you> words {number} of turn 2"
    assert rows["context"][last] == [
        f"<you> words {number} of turn 0", f"<me> words {number} of turn 1",
    ]  # fmt: skip
    assert packed.split("train").labels("act")[last] == 0
    assert len(packed.split("train").context(rows["turn"].tolist().index(0))) == 0
    backbone = Library(project.params.parent).experiment("mine-ldebm").backbone
    assert backbone.arch == "dialogue"
    assert backbone.supervision is not None
    assert backbone.supervision.column == "act"


def test_a_dialogue_a_row_has_lists_of_turns_and_of_labels(project: Project) -> None:
    items = [
        {"utterances": [f"hello {i}", f"yes {i}", f"so long {i}"], "act": ["greet", "", "leave"],
         "topic": "ab"[i % 2]}
        for i in range(14)
    ]  # fmt: skip
    config = project.add("mine.jsonl", "\n".join(map(json.dumps, items)), "act", "topic")
    packed = project.built(config)
    assert config.kind == "dialogues"
    assert config.columns["text"] == "utterances"
    rows = project.rows()
    assert rows["label.act"][:3] == ["greet", None, "leave"]
    assert len(set(rows["label.topic"][:3])) == 1, "one label for a dialogue holds for its turns"
    assert rows["context"][2] == rows["text"][:2]
    assert packed.meta["labels"] == {"act": ["greet", "leave"], "topic": ["a", "b"]}


def test_documents_are_taken_as_words_where_that_is_asked_for(project: Project) -> None:
    rows = "\n".join(f"The market of number{i} fell and markets rose" for i in range(40))
    config = project.add("mine.txt", rows, kind="documents")
    packed = project.built(config)
    assert packed.kind == "documents"
    assert Library(project.params.parent).experiment("mine-ldebm").backbone.arch == "bow"
    assert len(packed.split("train").row(0)) == len(packed.split("test").row(0)) == 4


def test_labels_of_points_are_left_to_the_prior_and_those_of_documents_supervise(
    project: Project,
) -> None:
    rows = "\n".join(f"{i},{i % 5}.5,{'ab'[i % 2]}" for i in range(40))
    project.add("mine.csv", f"x,y,side\n{rows}\n", "side")
    assert Library(project.params.parent).experiment("mine-ldebm").backbone.supervision is None
    shutil.rmtree(project.folder / "conf")
    rows = "\n".join(f"The market of number{i} fell and rose,{'ab'[i % 2]}" for i in range(40))
    project.add("mine.csv", f"text,side\n{rows}\n", "side", kind="documents")
    assert Library(project.params.parent).experiment("mine-ldebm").backbone.supervision is not None


def test_pieces_of_words_are_a_choice(project: Project) -> None:
    words = [f"un{stem}able re{stem}ing" for stem in ("read", "think", "writ", "stop", "lov")]
    lines = "\n".join(f"{a} {b}" for a in words for b in words)
    config = project.add("mine.txt", lines, tokenizer="bpe")
    assert (config.tokenizer, config.vocab_size) == ("bpe", 200)
    tokenizer = project.built(config).tokenizer
    assert tokenizer.decode(tokenizer.encode("unstoping")) == "unstoping"


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
    "a turn without a number": (
        "m.csv", "d,n,text\n1,0,a\n1,one,b\n", [], {"dialogue": "d", "turn": "n"},
        "column 'n': row 2 is 'one'; expected the number of the turn",
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
    "labels all empty": (
        "m.csv", "text,y\n" + "".join(f"text {i},\n" for i in range(20)), ["y"], {},
        "label 'y' has no value",
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
def test_bad_tables_are_one_clear_line_and_change_nothing(case: str, project: Project) -> None:
    file, content, labels, options, message = BAD[case]
    with pytest.raises(UsageError, match=message) as error:
        project.add(file, content, *labels, **options)
    assert "\n" not in str(error.value)
    assert not (project.folder / "conf").exists()


def test_an_address_is_no_file(project: Project) -> None:
    with pytest.raises(UsageError, match=r"https://a\.org/b\.csv: expected a file or a folder"):
        add_dataset("mine", "https://a.org/b.csv", root=project.folder)
    assert not (project.folder / "conf").exists()
