"""The few metrics that DVC shows: of every kind of run, short, rounded, and only what there is."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ldebm.evaluate.summary import SUMMARY, summarise, summary_of

ROOT = Path(__file__).parents[2]
RECORDED = {  # kind -> a recorded run of it, its label column and what its summary has
    "points": ("gaussians16-ldebm", "mode", {"nll", "nll_gap", "tv", "ami"}),
    "text": ("chatter-ldebm", "intent", {"nll", "ami", "control", "bleu", "rppl"}),
    "responses": ("dd-gen-ldebm", "action", {"nll", "ami", "control", "response_bleu"}),
    "documents": ("agnews-200-ldebm", "topic", {"nll", "ami", "accuracy"}),
    "images": ("digits-hvae", "digit", {"fid_classifier", "ami", "control"}),
}
EMBEDDED = {
    "points": ("gaussians16-ldebm", "pinwheel10-ldebm"),
    "text": ("chatter-ldebm", "chatter-ldebm-labels", "chatter-svebm-ib"),
    "images": ("digits-hvae",),
}


def recorded(experiment: str) -> dict[str, float]:
    content = json.loads((ROOT / "results" / experiment / "0.json").read_text())
    metrics: dict[str, float] = content["metrics"]
    return metrics


def model(kind: str, column: str | None = None) -> Any:
    return SimpleNamespace(
        task=kind,
        config=SimpleNamespace(cluster=SimpleNamespace(column=column)),
    )


def packed(*labels: str) -> Any:
    return SimpleNamespace(meta={"labels": {name: [] for name in labels}})


@pytest.mark.parametrize("kind", SUMMARY)
def test_every_kind_of_run_has_a_handful_of_metrics(kind: str) -> None:
    experiment, label, expected = RECORDED[kind]
    chosen = summary_of(model(kind), packed(label, "another"), recorded(experiment))
    assert set(chosen) == expected
    assert chosen == {key: round(value, 3) for key, value in chosen.items()}


def test_the_embedded_set_has_at_most_twelve_columns_that_fit_a_terminal() -> None:
    rows = {
        f"reports/{name}/0/summary.json": summarise(kind, recorded(name), RECORDED[kind][1])
        for kind, names in EMBEDDED.items()
        for name in names
    }
    columns = {name for row in rows.values() for name in row}
    assert len(columns) + 1 <= 12
    widths = [  # as DVC prints them
        max(len(name) + 2, *(len(str(row.get(name, "-"))) for row in rows.values()))
        for name in columns
    ]
    assert max(map(len, rows)) + sum(widths) + 2 * len(columns) <= 120


def test_classes_count_against_the_labels_that_the_model_was_given() -> None:
    data = packed("intent", "sentiment")
    metrics = {"ami_intent": 0.9, "ami_sentiment": 0.4}
    assert summary_of(model("text"), data, metrics) == {"ami": 0.9}
    assert summary_of(model("text", "sentiment"), data, metrics) == {"ami": 0.4}


def test_what_was_not_measured_is_left_out() -> None:
    metrics = {"nll": math.nan, "nll_gap": None, "ami": 0.51239}
    assert summarise("points", metrics) == {"ami": 0.512}


def test_images_without_labels_have_at_least_their_bound() -> None:
    assert summarise("images", {"bound_bits": 0.69835, "rate": 13.7}) == {"bound_bits": 0.698}


def test_the_evaluation_classifier_counts_before_naive_bayes() -> None:
    metrics = {"control_accuracy": 0.7, "classified_accuracy": 0.9}
    assert summarise("text", metrics) == {"control": 0.9}
