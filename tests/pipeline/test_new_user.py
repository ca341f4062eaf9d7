"""A new user's own file: added, built through dvc, and used from the command line and Python."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ldebm
from ldebm.data.chatter import classify_soft, generate
from ldebm.data.fetch import fetch
from ldebm.data.packed import open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.training.first_stage import build_backbone_stage, load_backbone
from ldebm.yaml_text import format_yaml, parse_yaml
from pipelines.library import Library
from pipelines.selection import status
from tests.pipeline.project_copy import ProjectCopy

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
TOPICS = ("ask_weather", "farewell", "order_food", "play_music")
ROWS = 700


def corpus() -> list[tuple[str, str]]:
    """Sentences of a generated dialogue with their topics."""
    turns = [turn for turn in generate(seed=7) if turn.intent in TOPICS]
    return [(turn.text, turn.intent) for turn in turns[:ROWS]]


def write_files(folder: Path) -> None:
    """The same sentences in every format, and points far from the origin."""
    rows = corpus()
    (folder / "lines.txt").write_text("".join(f"{text}\n" for text, _ in rows))
    table = "".join(f"{i},{text},{topic}\n" for i, (text, topic) in enumerate(rows))
    (folder / "talk.csv").write_text(f"number,body,topic\n{table}")
    objects = [{"response": text, "before": ["hello", "yes"]} for text, _ in rows]
    (folder / "replies.jsonl").write_text("".join(json.dumps(item) + "\n" for item in objects))
    pq.write_table(
        pa.table(dict(zip(("east", "north"), places().T, strict=True))), folder / "m.parquet"
    )


def places() -> np.ndarray:
    """Points around four centres, in units of their own, (2000, 2)."""
    stream = np.random.default_rng(0)
    centres = np.array([[1000, 5], [1040, 5], [1000, 9], [1040, 9]])
    return centres[stream.integers(0, 4, 2000)] + stream.normal(size=(2000, 2)) * [3, 0.3]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> ProjectCopy:
    """A project to which four files were added."""
    project = ProjectCopy(tmp_path_factory.mktemp("user") / "project", params=None)
    write_files(project.folder)
    added = [
        ("lines", "lines.txt"),
        ("talk", "talk.csv", "--text", "body", "--label", "topic"),
        ("replies", "replies.jsonl", "--context", "before"),
        ("places", "m.parquet"),
    ]
    for name, file, *options in added:
        said = project.ldebm("new", name, "--from", file, *options).out
        assert said.startswith(f"{file}: ")
        assert said.endswith(f"\nadded {name}-ldebm; build it with `make repro RUN={name}-ldebm`\n")
    return project


@pytest.fixture(scope="module")
def built(project: ProjectCopy) -> ProjectCopy:
    """The labelled sentences, built with shorter trainings beside a plain VAE on them."""
    own = project.folder / "conf/experiment/talk"
    content = parse_yaml((own / "ldebm.yaml").read_text())
    content["backbone"] |= {"hidden": 64, "embed": 64}
    content["backbone"]["training"] |= {"epochs": 20, "validate_every": 5}
    content["prior"]["training"] = {"updates": 200}
    content["evaluate"] = {
        "samples": 60, "rows": 12, "importance": 8, "inner": 64, "per_label": 8
    }  # fmt: skip
    (own / "ldebm.yaml").write_text(format_yaml(content))
    prior = {"kind": "gaussian", "standardise": "none", "score_matching": 0.0}
    plain = {"prior": prior, "cluster": {"labels": "none"}}
    defaults = {"defaults": ["/experiment/talk/ldebm@_here_", "_self_"]}
    (own / "vae.yaml").write_text(format_yaml(defaults | plain))
    project.ldebm("select", "talk-ldebm", "talk-vae")
    project.dvc("repro")
    return project


def test_new_leaves_the_selection_alone_and_names_its_template(project: ProjectCopy):
    text = (project.folder / "conf/experiment/lines/ldebm.yaml").read_text()
    assert "/template/sentences-small@_here_" in text
    assert status(project.folder / "params.yaml").edits == ()


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        ("lines", "sentences", 16),
        ("talk", "sentences", len(TOPICS)),
        ("replies", "dialogues", 16),
        ("places", "points", 10),
    ],
)
def test_every_format_becomes_data_that_can_be_packed(project: ProjectCopy, name, kind, classes):
    library = Library(project.folder)
    experiment, config = library.experiment(f"{name}-ldebm"), library.dataset(name)
    assert (config.kind, experiment.prior.classes) == (kind, classes)
    raw, prepared, packed = (project.folder / part / name for part in ("r", "q", "p"))
    file = project.folder / str(config.path)
    fetch(None, config.model_copy(update={"path": str(file)}), raw)
    prepare(config, raw, prepared)
    meta = pack(config, prepared, packed)
    assert sum(meta["rows"].values()) == (2000 if kind == "points" else ROWS)
    if kind != "points":
        ids = open_packed(packed).split("train")
        unknown = sum(int((ids.row(i) == meta["unk_id"]).sum()) for i in range(ids.n))
        assert unknown == 0, "the vocabulary holds the words of the file"


def test_the_first_stage_learns_points_of_any_scale(project: ProjectCopy, tmp_path, monkeypatch):
    config = Library(project.folder).experiment("places-ldebm")
    training = config.backbone.training.model_copy(update={"updates": 600})
    section = config.backbone.model_copy(update={"training": training})
    config = config.model_copy(update={"backbone": section})
    packed = open_packed(project.folder / "p/places")
    monkeypatch.chdir(tmp_path)
    build_backbone_stage(config, packed, 0, tmp_path / "backbone")
    backbone = load_backbone(tmp_path / "backbone", config, packed)
    x = torch.from_numpy(np.array(packed.split("test").x))
    with torch.no_grad():
        decoded = backbone.decode(backbone.encode(x)[0])
    error = (decoded - x).square().mean(0).sqrt() / x.std(0)
    assert float(error.max()) < 0.25


def test_points_of_the_plane_have_two_coordinates(project: ProjectCopy):
    columns = {name: np.arange(20.0) for name in ("a", "b", "c")}
    pq.write_table(pa.table(columns), project.folder / "wide.parquet")
    failed = project.ldebm("new", "wide", "--from", "wide.parquet", code=2)
    assert "points need two coordinates, found 3 a row (a, b, c)" in failed.err


def test_generating_gives_sentences_of_the_topic_that_was_asked_for(built: ProjectCopy):
    drawn = built.json("generate", "talk-ldebm", "-n", "20", "--label", "farewell")
    assert len(drawn) == 20
    topics = [classify_soft(text)[0] for text in drawn]
    assert topics.count("farewell") >= 14, drawn
    assert built.json("generate", "talk-ldebm", "-n", "20", "--label", "farewell") == drawn
    lines = built.ldebm("generate", "talk-ldebm", "-n", "3", "--seed", "1").out.splitlines()
    assert len(lines) == 3
    assert lines != drawn[:3]


def test_classifying_names_the_topics(built: ProjectCopy):
    rows = [(t.text, t.intent) for t in generate(seed=8) if t.intent in TOPICS][:60]
    (built.folder / "texts").write_text("".join(f"{text}\n" for text, _ in rows))
    records = built.json("classify", "talk-ldebm", "--file", "texts")
    right = [row["label"] == topic for row, (_, topic) in zip(records, rows, strict=True)]
    assert sum(right) >= 45


def test_scores_tell_sentences_from_their_words_in_disorder(built: ProjectCopy):
    texts = [text for text, _ in corpus()[:40]]
    stream = np.random.default_rng(0)
    words = [text.split() for text in texts]
    mixed = [" ".join(row[i] for i in stream.permutation(len(row))) for row in words]
    for name, rows in (("ordered.txt", texts), ("mixed.txt", mixed)):
        (built.folder / name).write_text("\n".join(rows) + "\n")
    good, bad = (
        built.json("score", "talk-ldebm", "--file", name, "--importance", "16")
        for name in ("ordered.txt", "mixed.txt")
    )
    better = [one["bound"] > other["bound"] for one, other in zip(good, bad, strict=True)]
    assert sum(better) >= 34
    built.ldebm(
        "export-embeddings",
        "talk-ldebm",
        "--from",
        "talk.csv",
        "--text",
        "body",
        "--to",
        "e.parquet",
    )
    table = pq.read_table(built.folder / "e.parquet")
    assert table.num_rows == ROWS
    topics = dict(zip(*zip(*corpus(), strict=True), strict=True))
    pairs = zip(table["text"].to_pylist(), table["class"].to_pylist(), strict=True)
    assert sum(topics[text] == name for text, name in pairs) > 0.75 * ROWS


def test_classes_are_described_by_words_and_exemplars(built: ProjectCopy):
    rows = built.json("cluster", "talk-ldebm", "--top", "3")
    assert sum(row["size"] for row in rows) == 35, "the test split"
    assert {row["labels"][0][0] for row in rows} <= set(TOPICS)
    assert all(1 <= len(row["exemplars"]) <= 3 for row in rows)
    assert "class" in built.ldebm("cluster", "talk-ldebm").out


def test_interpolating_starts_and_ends_at_the_reconstructions(built: ProjectCopy):
    ends = [text for text, _ in corpus()[:2]]
    shown = built.ldebm("interpolate", "talk-ldebm", *ends, "--steps", "5").out.splitlines()
    model = ldebm.load(built.folder / "models/talk-ldebm/0")
    assert len(shown) == 5
    assert [shown[0], shown[-1]] == model.reconstruct(ends)


def test_comparing_shows_parameters_and_metrics_that_differ(built: ProjectCopy):
    (pair,) = built.json("compare", "talk-vae", "talk-ldebm")["pairs"]
    assert pair["params"]["prior.kind"] == ["gaussian", "diffusion"]
    assert math.isfinite(pair["metrics"]["nll"]["difference"])
    assert pair["metrics"]["recon_nll"]["difference"] == 0, "they share the first stage"
    assert pair["metrics"]["nll"]["verdict"] == "one seed"
    assert pair["code"] == {}
    assert "one seed on a side" in built.ldebm("compare", "talk-vae", "talk-ldebm").out


def test_the_way_back_ends_at_the_users_file_and_verifies(built: ProjectCopy):
    lineage = built.json("lineage", "talk-ldebm")
    assert lineage["steps"][-1]["stage"] == "fetch@talk"
    assert "talk.csv" in json.dumps(lineage["steps"][-1]["params"])
    assert "nothing differs" in built.ldebm("lineage", "verify", "talk-ldebm").out


def test_a_model_is_used_from_python(built: ProjectCopy):
    model = ldebm.load(str(built.folder / "models/talk-ldebm/0"))
    assert model.class_names == sorted(TOPICS)
    sentences = model.generate(5, label=3)
    assert sentences == model.generate(5, label=model.class_names[3])
    assert all(isinstance(text, str) and text for text in sentences)
    with pytest.raises(UsageError, match="expected one of"):
        model.generate(1, label=99)
    texts = [text for text, _ in corpus()[:50]]
    p = model.classify(texts)
    assert p.shape == (50, len(TOPICS))
    assert np.allclose(p.sum(1), 1, atol=1e-5)
