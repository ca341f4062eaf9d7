"""Scores and embeddings of a user's texts, from Python and the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ldebm
from ldebm.assembly import build_backbone, build_model, build_prior
from ldebm.cli import models
from ldebm.config import ExperimentConfig
from ldebm.data.chatter import generate
from ldebm.data.tokenizer import train_tokenizer
from ldebm.data.user_texts import read_texts
from ldebm.errors import UsageError
from ldebm.files import read_parquet, write_parquet
from ldebm.model import Model, save
from ldebm.priors import EnergyPrior
from ldebm.seeding import generator
from tests.unit.evaluate_models import constant_energy
from tests.unit.imports import imported

TEXTS = [turn.text for turn in generate(400, seed=0)]
TOKENIZER = train_tokenizer(TEXTS, "word", 600)
META: dict[str, Any] = {
    "kind": "sentences",
    "vocab_size": TOKENIZER.vocab_size,
    "max_len": 12,
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "labels": {},
}


def _config(kind: str) -> ExperimentConfig:
    content = {
        "data": "talk",
        "backbone": {"arch": "gru", "latent": 6, "hidden": 16, "embed": 12,
                     "training": {"updates": 1}},
        "prior": {"kind": kind, "classes": 3, "levels": 2, "standardise": "none",
                  "level_noise": False, "energy": {"hidden": 16, "blocks": 1,
                                                   "spectral_norm": False},
                  "training": {"updates": 1}},
    }  # fmt: skip
    return ExperimentConfig.model_validate(content)


def _model(kind: str = "diffusion") -> Model:
    config = _config(kind)
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone, META, generator(0, "backbone"))
    prior = build_prior(backbone, config.prior, generator(1, "prior"))
    return build_model(config, META, backbone, prior, TOKENIZER, "talk-ldebm", 0)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A complete model file of an untrained model."""
    model, path = _model(), tmp_path_factory.mktemp("model") / "model.safetensors"
    header = {"experiment": "talk-ldebm", "seed": 0, "meta": META,
              "config": model.config.model_dump(mode="json")}  # fmt: skip
    save(path, model.backbone, model.prior, header, TOKENIZER)
    return path


def test_a_constant_energy_scores_texts_as_the_gaussian_prior_does() -> None:
    flat, plain = _model(), _model("gaussian")
    assert isinstance(flat.prior, EnergyPrior)
    constant_energy(flat.prior, 0.7)
    first, second = (model.score(TEXTS[:6], importance=200) for model in (flat, plain))
    np.testing.assert_allclose(first.bound, second.bound, atol=0.3)
    assert second.energy is None
    assert first.energy is not None
    assert np.ptp(first.energy) == pytest.approx(0, abs=1e-5)
    assert (first.ess >= 1).all()


def test_bounds_repeat_and_tokens_are_what_was_predicted() -> None:
    model, long = _model(), " ".join(["pizza"] * 30)
    rows = [*TEXTS[:5], long]
    one, two = model.score(rows, importance=8), model.score(rows, importance=8)
    np.testing.assert_array_equal(one.bound, two.bound)
    assert one.tokens.tolist() == [min(len(text.split()) + 1, 11) for text in rows]
    other = model.score(rows, seed=1, importance=8)
    assert (one.bound != other.bound).any()
    with pytest.raises(UsageError, match="got an empty one"):
        model.score([" "])


def test_scores_are_printed_or_written_with_their_rows(run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXTS[0]}\n\n  {TEXTS[1]}\n")
    said = run("score", file, "--file", tmp_path / "a.txt", "--importance", 4, "--json")
    rows = json.loads(said.out)
    assert [row["row"] for row in rows] == [1, 3]
    assert [row["text"] for row in rows] == TEXTS[:2]
    for row in rows:
        assert row["perplexity"] == pytest.approx(np.exp(-row["bound"] / row["tokens"]))
    out = tmp_path / "scores.parquet"
    done = run("score", file, "--file", tmp_path / "a.txt", "--importance", 4, "--out", out)
    assert done.out == f"{out}: 2 texts\n"
    assert read_parquet(out)["energy"].tolist() == [row["energy"] for row in rows]
    shown = run("score", file, "--file", tmp_path / "a.txt", "--importance", 4).out.splitlines()
    assert shown[0].split("\t") == ["bound", "tokens", "perplexity", "ess", "energy", "text"]
    assert len(shown) == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "txt"])
def test_embeddings_are_the_posterior_means(run, file: Path, tmp_path: Path, suffix: str) -> None:
    source, to = tmp_path / f"mine.{suffix}", tmp_path / "mine.embedded.parquet"
    texts = TEXTS[:300]
    if suffix == "csv":
        source.write_text("\n".join(["number,body", *(f"{i},{t}" for i, t in enumerate(texts))]))
    elif suffix == "jsonl":
        source.write_text("\n".join(json.dumps({"text": t, "other": "x"}) for t in texts))
    elif suffix == "parquet":
        write_parquet(source, {"body": texts, "text": texts})
    else:
        source.write_text("\n".join(texts))
    done = run("export-embeddings", file, "--from", source, "--to", to)
    assert done.out == f"{to}: 300 rows of 6 numbers\n", done.err
    written, model = read_parquet(to), ldebm.load(file)
    assert written["text"] == texts
    assert written["row"].tolist() == list(range(1, 301))
    np.testing.assert_allclose(written["embedding"], model.encode(texts), atol=1e-5)
    assert written["embedding"].dtype == np.float32
    p = model.classify(texts)
    assert written["class"] == [str(k) for k in p.argmax(1)]
    np.testing.assert_allclose(written["probability"], p.max(1), atol=1e-5)


def _dialogue_model() -> Model:
    plain = _model()
    config = plain.config.model_dump()
    config["backbone"] |= {"arch": "dialogue", "cell": "lstm",
                           "context": {"utterance": 6, "hidden": 10}}  # fmt: skip
    parsed = ExperimentConfig.model_validate(config)
    meta = META | {"kind": "dialogues", "context_turns": 2}
    backbone = build_backbone(parsed.backbone, meta, generator(0, "backbone"))
    prior = build_prior(backbone, parsed.prior, generator(1, "prior"))
    return build_model(parsed, meta, backbone, prior, TOKENIZER, "talk-ldebm", 0)


def test_responses_are_scored_given_the_turns_before() -> None:
    model = _dialogue_model()
    texts, turns = TEXTS[:3], [["hello there"], [], TEXTS[5:8]]
    given = model.score(texts, turns, importance=8)
    alone = model.score(texts, importance=8)
    assert given.bound[1] == pytest.approx(alone.bound[1], abs=1e-4)
    assert given.bound[0] != alone.bound[0]
    cut = model.score(texts, [*turns[:2], TEXTS[6:8]], importance=8)
    assert cut.bound[2] == pytest.approx(given.bound[2], abs=1e-4), "it reads two turns"
    z, logits = model.encode_texts(texts, turns)
    assert z.shape == (3, 6)
    assert logits is not None
    assert logits.shape == (3, 3)
    with pytest.raises(UsageError, match="reads no contexts; leave --context out"):
        _model().score(texts, turns)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_contexts_come_from_a_column(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        source.write_text('before,text\n"hi there\nhello",good day\n,thanks\n')
    else:
        rows = [{"before": ["hi there", "hello "], "text": "good day"}, {"before": [], "text": "a"}]
        source.write_text("\n".join(map(json.dumps, rows)))
    texts = read_texts(source, None, "before")
    assert texts.turns == [["hi there", "hello"], []]
    with pytest.raises(UsageError, match="no column 'after' for --context"):
        read_texts(source, "text", "after")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UsageError, match="no column 'before' for --context; columns there: text"):
        read_texts(tmp_path / "a.txt", None, "before")


def test_encoding_in_parts_is_encoding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    whole = model.encode(TEXTS[:20])
    monkeypatch.setattr("ldebm.modalities.sentences.ENCODED", 7)
    np.testing.assert_allclose(model.encode_texts(TEXTS[:20])[0], whole, atol=1e-5)


BAD = {
    "no column": ("a.csv", "u,v\nx,y\n", ["--text", "w"], "no column 'w' for --text"),
    "two columns": ("a.csv", "u,v\nx,y\n", [], "which column is the text? Give --text"),
    "empty cells": ("a.csv", "u,v\n1, \n2,\n", ["--text", "v"], "no text in it; expected some in"),
    "an empty file": ("a.txt", "\n \n", [], "the file is empty"),
    "broken": ("a.jsonl", '{"text": ', [], "cannot be read as jsonl"),
    "absent": (None, "", [], "no such file"),
    "another ending": ("a.txt", "hello", ["--out", "x.csv"], "ends in .parquet or .json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_line(run, file: Path, tmp_path: Path, case: str) -> None:
    name, content, options, message = BAD[case]
    source = tmp_path / (name or "none.txt")
    if name:
        source.write_text(content)
    done = run("score", file, "--file", source, *options)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_embeddings_go_to_parquet_alone(run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    done = run("export-embeddings", file, "--from", tmp_path / "a.txt", "--to", tmp_path / "x.csv")
    assert (done.code, "ends in .parquet" in done.err) == (2, True)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UsageError, match=r"line 1 is not UTF-8 text .* where 'café'"):
        read_texts(tmp_path / "latin.txt")


def test_classes_are_the_less_sure_the_wider_the_posterior_and_rows_do_not_matter_to_each_other():
    model = _model()
    torch.manual_seed(1)
    for parameter in model.prior.net.output.parameters():  # type: ignore[union-attr]
        parameter.data.normal_(0, 3)
    texts = TEXTS[:300]
    p = model.class_probabilities(texts)
    assert p.shape == (300, 3)
    np.testing.assert_array_equal(p, model.classify(texts))
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(model.class_probabilities(texts[270:273]), p[270:273], atol=1e-4)
    at_mean = model.classify(texts, at_mean=True)
    assert p.max(1).mean() < at_mean.max(1).mean()
    encode = model.backbone.encode
    model.backbone.encode = lambda batch: (encode(batch)[0], encode(batch)[1] - 40)  # type: ignore
    np.testing.assert_allclose(model.class_probabilities(texts), at_mean, atol=1e-4)


def test_unknown_words_are_named():
    assert _model().unknown_words(f"{TEXTS[0]} flabbergasted") == ["flabbergasted"]


def test_a_prior_without_classes_gives_none(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "load_target", lambda target, device="auto": _model("gaussian"))
    refused = run("classify", "first", TEXTS[0])
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "ldebm: label 0: a Gaussian prior has no classes\n"


def test_a_bare_string_is_one_text_and_not_its_letters() -> None:
    model, dialogue = _model(), _dialogue_model()
    np.testing.assert_allclose(model.encode(TEXTS[0]), model.encode([TEXTS[0]]))
    assert model.classify(TEXTS[0]).shape == (1, 3)
    assert len(model.reconstruct(TEXTS[0])) == 1
    assert model.score(TEXTS[0], importance=4).bound.shape == (1,)
    assert dialogue.respond(TEXTS[1], 2) == dialogue.respond([TEXTS[1]], 2)
    turns = [TEXTS[1]]  # one row whose turns are a bare string
    np.testing.assert_allclose(
        dialogue.encode_texts(TEXTS[0], turns)[0], dialogue.encode_texts(TEXTS[0], [turns])[0]
    )
    with pytest.raises(UsageError, match="item 1 is None; expected a string"):
        model.encode([TEXTS[0], None])


def test_classifying_a_table_takes_its_text_and_not_its_lines(run, file, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id;said\n1;{TEXTS[0]}\n2;\n3;{TEXTS[1]}\n")
    done = run("classify", file, "--file", tmp_path / "a.csv", "--json")
    assert [row["text"] for row in json.loads(done.out)] == TEXTS[:2]
    assert "1 of 3 rows have no text and are left out" in done.err
    refused = run("classify", file, "--file", tmp_path / "a.csv", "--text", "mood")
    assert (refused.code, "no column 'mood' for --text" in refused.err) == (2, True)


def test_using_a_model_imports_torch_but_none_of_what_builds_it(file: Path, tmp_path: Path) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("\n".join(TEXTS[:3]))
    for command in (
        ["generate", file, "-n", "1"],
        ["classify", file, TEXTS[0]],
        ["score", file, "--file", texts, "--importance", "2"],
        ["export-embeddings", file, "--from", texts, "--to", tmp_path / "e.parquet"],
    ):
        modules = imported(tmp_path, *command)
        assert "torch" in modules
        assert not modules & {"dvc", "pandas", "polars", "prefect", "scipy", "sklearn"}, command
