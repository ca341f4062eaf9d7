"""The whole evaluation of small untrained models: every promised metric is there and finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ldebm.assembly import build_backbone, build_model, build_prior
from ldebm.config import BackboneConfig, EvaluateConfig, ExperimentConfig, TrainingConfig
from ldebm.data import chatter, points
from ldebm.data.batches import make_batch
from ldebm.data.packed import Packed, open_packed
from ldebm.data.tokenizer import train_tokenizer
from ldebm.evaluate import language, on_text
from ldebm.evaluate import report as rows_of_split
from ldebm.evaluate.control import classifiers_for
from ldebm.evaluate.figures import draw_figures
from ldebm.evaluate.report import encode_rows
from ldebm.files import write_model
from ldebm.model import Model
from ldebm.seeding import generator
from pipelines.compare.compare import class_words
from tests.unit.evaluate_models import config

CPU = torch.device("cpu")
POINT_METRICS = {
    "nll", "nll_true", "modes_covered", "mode_share_min", "share_within_2_sigma", "mmd2",
    "mmd2_data", "tv_sampler", "tv_floor", "acceptance", "ami",
}  # fmt: skip
TEXT_METRICS = {
    "nll", "nll_ess", "nll_legacy", "recon_nll", "bleu", "wkl", "rppl", "mi", "ami_intent",
    "ami_shuffled", "control_accuracy", "nll_standard_normal", "nll_gaussian", "nll_mixture",
}  # fmt: skip


def packed_points(folder: Path) -> Packed:
    meta = {
        "kind": "points",
        "source": "gaussians16",
        "labels": {"mode": [str(i) for i in range(16)]},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    for index, (name, n) in enumerate((("train", 400), ("valid", 50), ("test", 300))):
        drawn = points.generate("gaussians16", n, index)
        np.save(folder / f"{name}.x.npy", drawn["x"])
        np.save(folder / f"{name}.labels.npy", drawn["mode"].astype(np.int16)[None])
        np.save(folder / f"{name}.id.npy", np.arange(n))
    return open_packed(folder)


def packed_text(folder: Path) -> Packed:
    rows = chatter.generate(400, 0)
    tokenizer = train_tokenizer([row.text for row in rows], "word", 600)
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    intents = sorted(chatter.INTENTS)
    meta = {
        "kind": "sentences", "source": "chatter", "labels": {"intent": intents}, "max_len": 24,
        "vocab_size": tokenizer.vocab_size, "tokenizer": "word",
        "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3,
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, part in (("train", rows[:300]), ("valid", rows[300:340]), ("test", rows[340:])):
        ids = [tokenizer.encode(row.text) for row in part]
        np.save(folder / f"{name}.ids.npy", np.concatenate(ids).astype(np.uint16))
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *map(len, ids)]))
        label = np.array([intents.index(row.intent) for row in part], dtype=np.int16)
        np.save(folder / f"{name}.labels.npy", label[None])
        np.save(folder / f"{name}.id.npy", np.arange(len(part)))
    return open_packed(folder)


def untrained(packed: Packed, kind: str, latent: int) -> Model:
    points_kind = packed.meta["kind"] == "points"
    backbone = BackboneConfig(
        arch="mlp" if points_kind else "gru", latent=latent, hidden=16, embed=16,
        training=TrainingConfig(updates=1),
    )  # fmt: skip
    prior = config(kind, levels=3)
    experiment = ExperimentConfig(data="d", backbone=backbone, prior=prior)
    return build_model(
        experiment, packed.meta, build_backbone(backbone, packed.meta, generator(0)),
        build_prior(latent, prior, generator(1)),
        None if points_kind else packed.tokenizer, "e", 0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["diffusion", "svebm", "gaussian"])
def test_points_report_has_the_promised_metrics_and_the_same_bytes_twice(
    tmp_path: Path, kind: str
) -> None:
    packed = packed_points(tmp_path)
    model = untrained(packed, kind, 2)
    settings = EvaluateConfig(samples=300)
    snapshots = tmp_path / "snapshots.safetensors"
    state = {f"{u}/{k}": v for u in (1, 2) for k, v in model.prior.state_dict().items()}
    write_model(snapshots, state, {})
    files = []
    for run in ("a", "b"):
        report = model.evaluate(packed, settings, snapshots=snapshots)
        report.write(tmp_path / run / "metrics.json", tmp_path / run / "details")
        draw_figures(report, tmp_path / run / "details")
        written = sorted(path for path in (tmp_path / run).rglob("*") if path.is_file())
        files.append([(path.name, path.read_bytes()) for path in written])
    assert files[0] == files[1]
    wanted = POINT_METRICS - ({"ami"} if kind == "gaussian" else set())
    assert wanted <= set(report.metrics)
    undefined = {name for name, value in report.metrics.items() if not math.isfinite(value)}
    # an untrained prior puts all rows into one class
    assert undefined <= {"completeness_mode"}
    assert {"kde.png", "evolution.png", "scatter.png"} <= {name for name, _ in files[0]}


@pytest.mark.parametrize("kind", ["diffusion", "svebm", "gaussian"])
def test_text_report_has_the_promised_metrics(tmp_path: Path, kind: str) -> None:
    packed = packed_text(tmp_path)
    model = untrained(packed, kind, 4)
    settings = EvaluateConfig(
        samples=60, rows=8, importance=20, inner=8, reverse_lm_epochs=1, per_label=5
    )
    report = model.evaluate(packed, settings)
    missing = (
        {"mi", "ami_intent", "ami_shuffled", "control_accuracy"} if kind == "gaussian" else set()
    )
    assert TEXT_METRICS - missing <= set(report.metrics)
    assert report.metrics["nll_rows"] == 8
    assert report.metrics["nll_lower"] <= report.metrics["nll"] <= report.metrics["nll_upper"]
    if kind == "gaussian":
        same = report.metrics["nll_standard_normal"]
        assert report.metrics["nll"] == pytest.approx(same, abs=1e-5)
    header, rows = report.tables["nll_rows"]
    assert header[:2] == ["row", "nll"]
    assert len(rows) == 8
    assert report.samples[0]["kind"] == "sample"


def test_an_evaluation_in_parts_is_that_of_all_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_text(tmp_path)
    model = untrained(packed, "diffusion", 4)
    settings = EvaluateConfig(
        samples=20, rows=4, importance=8, inner=8, reverse_lm="none", per_label=5
    )
    whole = model.evaluate(packed, settings)
    for module, name in ((on_text, "PART"), (language, "PART"), (rows_of_split, "AT_ONCE")):
        monkeypatch.setattr(module, name, 7)  # of 60 rows
    parts = model.evaluate(packed, settings)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-4, abs=1e-5, nan_ok=True)
    assert parts.metrics["bleu_sacrebleu"] == whole.metrics["bleu_sacrebleu"]
    assert parts.samples == whole.samples
    assert parts.details == whole.details


def test_encoded_rows_are_in_the_order_asked_for_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_text(tmp_path)
    backbone, split = untrained(packed, "gaussian", 4).backbone, packed.split("test")
    rows = np.random.default_rng(0).permutation(split.n)[:40]
    with torch.no_grad():
        alone = [backbone.encode(make_batch(split, rows[i : i + 1], CPU)) for i in range(40)]
    for size in (512, 7, 1):
        monkeypatch.setattr(rows_of_split, "AT_ONCE", size)
        for place, encoded in enumerate(encode_rows(backbone, split, rows, CPU)):
            torch.testing.assert_close(encoded, torch.cat([item[place] for item in alone]))


def test_texts_and_class_logits_of_parts_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = untrained(packed_text(tmp_path), "diffusion", 4)
    z = torch.randn(40, 4, generator=generator(0, "z"))
    texts, logits = on_text._decoded(model, z), on_text._class_logits(model, z)
    monkeypatch.setattr(on_text, "PART", 7)
    assert on_text._decoded(model, z) == texts
    torch.testing.assert_close(on_text._class_logits(model, z), logits)


def test_samples_of_discovered_classes_do_not_have_the_label_that_most_rows_have(
    tmp_path: Path,
) -> None:
    packed = packed_text(tmp_path)
    settings = EvaluateConfig(
        samples=60, rows=8, importance=8, inner=8, reverse_lm="none", per_label=5
    )
    report = untrained(packed, "diffusion", 4).evaluate(packed, settings)
    drawn = [row for row in report.samples if row["kind"] == "sample"]
    assert {row["label"] for row in drawn} == {None}
    known = [row for row in drawn if "mostly" in row]
    assert known
    assert {row["mostly"] for row in known} <= set(packed.meta["labels"]["intent"])
    assert all(0 < row["share"] <= 1 for row in known)
    words = class_words(known[0])
    assert words.startswith(f"class {known[0]['class']}, mostly {known[0]['mostly']} (")
    assert report.metrics["control_given"] == 0


def test_the_label_of_a_discovered_class_is_that_of_validation_rows(tmp_path: Path) -> None:
    packed = packed_text(tmp_path)
    for name, label in (("valid", 3), ("test", 0)):
        path = packed.path / f"{name}.labels.npy"
        np.save(path, np.full_like(np.load(path), label))
    settings = EvaluateConfig(
        samples=60, rows=8, importance=8, inner=8, reverse_lm="none", per_label=5
    )
    report = untrained(packed, "diffusion", 4).evaluate(open_packed(packed.path), settings)
    known = [row for row in report.samples if row.get("mostly")]
    assert {(row["mostly"], row["share"]) for row in known} == {
        (packed.meta["labels"]["intent"][3], 1.0)
    }


def test_word_classifier_recovers_the_labels_of_the_grammar(tmp_path: Path) -> None:
    packed = packed_text(tmp_path)
    packed.meta["source"] = "mine"
    classify = classifiers_for(packed)["intent"]
    test, names = packed.split("test"), packed.meta["labels"]["intent"]
    right = [
        classify(packed.tokenizer.decode(test.row(i))) == names[test.labels("intent")[i]]
        for i in range(test.n)
    ]
    assert np.mean(right) > 0.8
    assert classify("") is None
    assert torch.is_grad_enabled()
