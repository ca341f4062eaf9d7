"""The classifier by which control over text is scored: it learns, and its answers are counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ldebm.assembly import build_backbone, build_model, build_prior
from ldebm.config import EvaluateConfig, ExperimentConfig, TextClassifierConfig, load_params, parse
from ldebm.data.packed import Measure, Packed
from ldebm.errors import UsageError
from ldebm.evaluate.classifier_training import build_classifier
from ldebm.evaluate.text_classifier import TextClassifier
from ldebm.seeding import generator
from tests.unit.text_worlds import packed_dialogues

CONFIG = TextClassifierConfig(
    embed=24, hidden=24, epochs=16, batch=32, lr=1e-2, dropout=0.1, threads=1
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Path]:
    folder = tmp_path_factory.mktemp("classifier")
    packed = packed_dialogues(folder / "packed", turns=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        metrics = build_classifier(TextClassifier, CONFIG, packed, folder / "out")
    assert metrics["classifier"]["accuracy"] > 0.6  # of 14 classes
    return packed, folder / "out"


def test_a_loaded_classifier_names_labels_of_texts(trained: tuple[Packed, Path]) -> None:
    packed, folder = trained
    classifier = TextClassifier.load(folder)
    test, names = packed.split("test"), packed.meta["labels"]["intent"]
    texts = [packed.tokenizer.decode(test.row(i)) for i in range(test.n)]
    labels = classifier.labels_of([*texts, " "], "intent")
    right = [names[k] == labels[i] for i, k in enumerate(test.labels("intent").tolist())]
    assert sum(right) / test.n == pytest.approx(classifier.accuracy["intent"], abs=0.02)
    assert labels[-1] is None
    with pytest.raises(UsageError, match="no label column 'mood'"):
        classifier.labels_of(["hello"], "mood")
    with pytest.raises(UsageError, match="section 'text_classifier'"):
        TextClassifier.load(folder.parent / "packed")


def test_control_is_counted_by_class_beside_the_diversity_of_real_text(
    trained: tuple[Packed, Path], tmp_path: Path
) -> None:
    packed, folder = trained
    content = {
        "data": "d",
        "backbone": {
            "arch": "rnn", "latent": 4, "hidden": 12, "embed": 8, "training": {"updates": 1},
        },
        "cluster": {"labels": "given", "column": "intent"},
        "prior": {
            "classes": 14, "levels": 2, "training": {"updates": 1}, "sampler": {"steps": 2},
            "energy": {"hidden": 8, "blocks": 1, "spectral_norm": False, "activation": "silu"},
        },
    }  # fmt: skip
    config = parse(ExperimentConfig, content, "experiment")
    backbone = build_backbone(config.backbone, packed.meta, generator(0))
    prior = build_prior(backbone, config.prior, generator(1))
    model = build_model(config, packed.meta, backbone, prior, packed.tokenizer, "e", 0)
    settings = EvaluateConfig(
        samples=60, rows=4, importance=8, inner=8, reverse_lm="none", per_label=6, classifier="d",
        control_draws=3,
    )  # fmt: skip
    report = model.evaluate(packed, settings, measure=Measure(classifier=folder))
    metrics = report.metrics
    names = packed.meta["labels"]["intent"]
    assert metrics["classified_samples"] == 6 * len(names)
    mean = sum(metrics[f"classified_{name}"] for name in names) / len(names)
    assert metrics["classified_accuracy"] == pytest.approx(mean)
    assert metrics["classified_low"] <= metrics["classified_accuracy"] <= metrics["classified_high"]
    wanted = {"control_self_bleu", "control_self_bleu_real", "control_distinct_2", "accuracy"}
    wanted |= {"plain_classified_accuracy", "plain_control_self_bleu_excess"}
    assert all(math.isfinite(metrics[name]) for name in wanted)
    assert 1 <= metrics["control_mean_draws"] <= 3
    assert 0 <= metrics["control_recognised"] <= 1


def test_an_experiment_may_only_name_a_classifier_that_is_trained(tmp_path: Path) -> None:
    text = """\
run: {datasets: [a], experiments: [e], seeds: [0]}
data:
  a: {kind: sentences, source: ptb}
  b: {kind: sentences, source: ptb, text_classifier: {epochs: 1}}
experiments:
  e:
    data: a
    backbone: {arch: gru, latent: 2, training: {epochs: 1}}
    prior: {training: {updates: 1}}
    evaluate: {classifier: OTHER}
"""
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("OTHER", "b"))
    assert load_params(path).datasets_of("e") == ["a", "b"]
    for name, message in (("a", "has no section 'text_classifier'"), ("c", "is no data set")):
        path.write_text(text.replace("OTHER", name))
        with pytest.raises(UsageError, match=message):
            load_params(path)


@pytest.mark.parametrize("name", ["type", "a.b", "keys", "training"])
def test_a_classifier_has_heads_for_labels_of_any_name(name: str) -> None:
    classifier = TextClassifier(
        TextClassifierConfig(), {"labels": {name: ["x", "y"]}, "vocab_size": 9}
    )
    assert list(classifier.classes) == [name]
    assert len(classifier.heads) == 1
