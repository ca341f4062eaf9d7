"""Bad dialogues and documents through the real commands: one clear line, nothing half-written."""

import json
from pathlib import Path

import pytest

from tests.pipeline.test_bad_input import Project
from tests.unit.published_texts import write_agnews, write_daily_dialog

pytestmark = pytest.mark.slow
LISTS = [{"text": ["hello there", "good day"], "act": ["greet", "leave"]} for _ in range(12)]
EMPTY = "talk,text\n" + "".join(f"{i},sentence number {i}\n" for i in range(20))
NUMBERS = "".join(f"it was {i} of the 12\n" for i in range(20))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        (
            "m.jsonl", "\n".join(map(json.dumps, [*LISTS, {"text": ["a", "b"], "act": ["greet"]}])),
            ["--label", "act"], "m.jsonl: row 13: 2 turns and 1 labels of 'act'",
        ),
        ("m.csv", EMPTY, ["--dialogue", "talk"], "every context is empty"),
        ("m.txt", NUMBERS, ["--kind", "documents"], "no training document has a known word"),
        ("m.csv", EMPTY, ["--tokenizer", "letters"], "'letters' is not one of"),
    ],
    ids=["unequal labels", "empty contexts", "no known word", "no such tokenizer"],
)  # fmt: skip
def test_tables_that_new_cannot_use(project: Project, name, content, options, expected):
    (project.folder / name).write_text(content)
    before = project.files()
    call = project.run("ldebm.cli", "new", "mine", "--from", name, *options)
    project.refuses(expected, call, before)


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("dialogues_act.txt", "1 2 ", "train/dialogues.txt: line 1: 3 turns and 2 labels of 'act"),
        ("dialogues_emotion.txt", "0 9 1", "dialogues_emotion.txt: line 1: label '9'; expected 0"),
    ],
    ids=["unequal labels", "unknown label"],
)
def test_dialogues_that_prepare_cannot_use(project: Project, file, line, expected):
    project.set({"data.dd": {"kind": "dialogues", "source": "daily_dialog"}})
    write_daily_dialog(project.folder / "data/raw/dd")
    path = project.folder / "data/raw/dd/train" / file
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]) + "\n")
    before = project.files()
    project.refuses(expected, project.data_stage("prepare", "dd"), before)


def test_documents_that_prepare_cannot_use(project: Project):
    project.set({"data.news": {"kind": "documents", "source": "agnews", "labels": ["topic"]}})
    raw = project.folder / "data/raw/news"
    write_agnews(raw)
    for name in ("dev", "test"):
        rows = [json.dumps({"label": 1 + i % 4, "text": f"it was {i}"}) for i in range(40)]
        (raw / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    before = project.files()
    expected = "documents: no training document has a known word"
    project.refuses(expected, project.data_stage("prepare", "news"), before)


def test_labels_that_training_lacks_stop_packing_by_their_name_where_they_are_many(
    project: Project,
):
    rows = [f"train,letter {i} to you,{'ab'[i % 2]}" for i in range(30)]
    rows += [
        f"{split},card {i} to you,{'ab'[i % 2]}" for split in ("dev", "test") for i in range(5)
    ]
    rows += [f"dev,note {i} to you,gossip" for i in range(2)]
    content = "\n".join(["split,body,topic", *rows]) + "\n"
    raw = project.folder / "data/raw/letters"
    raw.mkdir(parents=True)
    (raw / "letters.csv").write_text(content)
    assert project.data_stage("prepare", "letters").code == 0
    assert project.data_stage("validate", "letters").code == 0, "the report is kept"
    before = project.files()
    expected = "no training row has is 0.1; expected at most 0.05"
    project.refuses(expected, project.data_stage("pack", "letters"), before)
