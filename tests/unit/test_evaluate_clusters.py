"""Cluster metrics and densities fitted beside the prior, on cases with known answers."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score, homogeneity_score

from ldebm.config import MixtureConfig
from ldebm.evaluate.clusters import (
    add_label_information,
    ami_error,
    cluster_metrics,
    describe_clusters,
    distinctive_words,
    homogeneity_legacy,
    label_agreement,
    label_information,
    mutual_information,
)
from ldebm.evaluate.priors import fit_densities
from ldebm.evaluate.report import Report
from ldebm.files import json_text
from ldebm.priors import DiffusionPrior, Posteriors, SymbolPrior
from ldebm.seeding import generator
from pipelines.results.glossary import describe
from tests.unit.evaluate_models import config, wavy_energy

STREAM = np.random.default_rng(0)
LABELS = STREAM.integers(0, 10, 3000)


def test_renamed_labels_score_one_and_the_shuffled_control_zero() -> None:
    metrics = cluster_metrics((LABELS * 7 + 3) % 10, LABELS)
    for name in ("homogeneity", "completeness", "v", "nmi", "ami"):
        assert metrics[name] == pytest.approx(1)
    assert abs(metrics["shuffled"]) < 0.01


def test_scores_equal_sklearn_on_noisy_clusters_and_leave_unlabelled_rows_out() -> None:
    noisy = np.where(STREAM.random(3000) < 0.3, STREAM.integers(0, 10, 3000), LABELS)
    metrics = cluster_metrics(noisy, LABELS)
    assert metrics["homogeneity"] == pytest.approx(homogeneity_score(LABELS, noisy))
    assert metrics["ami"] == pytest.approx(adjusted_mutual_info_score(LABELS, noisy))
    hidden = np.concatenate([LABELS, np.full(500, -1)])
    assert cluster_metrics(np.concatenate([noisy, np.arange(500)]), hidden) == metrics
    assert cluster_metrics(np.zeros(4), np.full(4, -1)) == {}


@pytest.mark.parametrize(
    ("cluster", "label"),
    [
        ([0, 1, 2, 0], [1, 1, 1, 1]),
        ([0, 0, 0, 0], [1, 1, 1, 1]),
        ([0, 1, 2, 0], [1, 1, 1, -1]),
        ([2], [0]),
    ],
    ids=["one label", "one label and one cluster", "one label that is known", "one row"],
)
def test_agreement_with_a_single_label_is_undefined(cluster: list[int], label: list[int]) -> None:
    """Scores of any clusters would be 1, those of shuffled labels too."""
    agreement = label_agreement(np.array(cluster), np.array(label), "grade")
    assert {"ami_grade", "shuffled_grade", "homogeneity_grade", "ami_grade_se"} < agreement.keys()
    assert all(math.isnan(value) for value in agreement.values())
    assert json.loads(json_text(agreement)) == dict.fromkeys(agreement)
    assert math.isnan(homogeneity_legacy(np.zeros(256, int), np.ones(256, int)))
    assert "undefined where all test rows have one label" in describe("ami_grade").meaning


def test_a_single_cluster_agrees_as_chance_does_and_its_completeness_is_undefined() -> None:
    metrics = cluster_metrics(np.zeros(6, int), np.array([0, 1, 0, 1, 2, 1]))
    assert math.isnan(metrics.pop("completeness"))
    assert set(metrics.values()) == {0.0}


def test_the_error_of_ami_is_undefined_where_one_block_has_all_rows_of_the_second_label() -> None:
    label = np.array([0] * 99 + [1])
    assert math.isnan(ami_error(np.arange(100) % 2, label))


def test_the_error_of_ami_is_its_spread_over_samples_and_grows_with_rows_that_are_alike() -> None:
    stream = np.random.default_rng(1)

    def draw(n: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
        label = stream.integers(0, 4, n)
        cluster = np.where(stream.random(n) < 0.6, stream.integers(0, 6, n), label)
        return cluster.repeat(copies), label.repeat(copies)

    drawn = [draw(1000, 1) for _ in range(100)]
    spread = np.std([cluster_metrics(*rows)["ami"] for rows in drawn])
    independent = np.mean([ami_error(*rows) for rows in drawn[:20]])
    assert independent == pytest.approx(spread, rel=0.25)
    alike = np.mean([ami_error(*draw(200, 5)) for _ in range(20)])
    assert alike > 1.6 * independent


def test_agreement_is_named_after_its_column_and_has_an_error_of_labelled_rows() -> None:
    noisy = np.where(STREAM.random(3000) < 0.3, STREAM.integers(0, 10, 3000), LABELS)
    agreement = label_agreement(noisy, LABELS, "intent")
    assert agreement["ami_intent"] == cluster_metrics(noisy, LABELS)["ami"]
    assert 0 < agreement["ami_intent_se"] == ami_error(noisy, LABELS) < 0.05
    hidden = np.concatenate([LABELS, np.full(500, -1)])
    assert ami_error(np.concatenate([noisy, np.arange(500)]), hidden) == agreement["ami_intent_se"]
    assert label_agreement(np.zeros(4), np.full(4, -1), "intent") == {}
    assert math.isnan(ami_error(np.zeros(1), np.zeros(1)))
    assert describe("ami_intent_se").meaning.startswith("standard error of ami_intent")


def test_the_published_homogeneity_is_mostly_chance() -> None:
    chance = STREAM.integers(0, 125, 3000)
    assert homogeneity_legacy(chance, LABELS, 128) > 0.5
    assert cluster_metrics(chance, LABELS)["homogeneity"] < 0.1


def test_mutual_information_is_log_k_for_certain_balanced_classes_and_zero_for_one() -> None:
    certain = 50 * torch.eye(8).repeat(10, 1)
    assert mutual_information(certain) == pytest.approx(math.log(8), abs=1e-6)
    assert mutual_information(certain[:1].repeat(30, 1)) == pytest.approx(0, abs=1e-6)
    assert mutual_information(torch.zeros(20, 8)) == pytest.approx(0, abs=1e-6)


def test_mutual_information_of_rows_in_parts_is_that_of_all() -> None:
    logits = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    parts = logits.split([7, 40, 3])
    assert mutual_information(parts) == pytest.approx(mutual_information(logits), abs=1e-9)


@pytest.mark.parametrize("levels", [3])
def test_label_information_does_not_rise_with_the_level(levels: int) -> None:
    """y depends on z_t only through z_0, so information can only be lost on the way.

    Yu et al. (2022), eq. A22.
    """
    prior = wavy_energy(DiffusionPrior(4, config(levels=levels), generator(0)), 3.0)
    rows = label_information(prior, 300, 32)
    values = [row["information"] for row in rows]
    assert [row["t"] for row in rows] == [0, 1, 2]
    assert values[0] > values[1] > values[2] - 0.02
    assert values[2] < 0.5 * values[0]
    single = label_information(SymbolPrior(4, config("svebm"), generator(0)), 50)
    assert len(single) == 1


def test_descriptions_name_exemplars_and_distinctive_words() -> None:
    texts = ["book a table for two", "book a room now", "cancel the order", "cancel it please"]
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    described = describe_clusters(logits, texts, ["book", "book", "cancel", "cancel"])
    first, second = described
    assert first.exemplars == ["book a table for two", "book a room now"]
    assert second.exemplars[0] == "cancel it please"
    assert {first.words[0][0], second.words[0][0]} <= {"book", "a", "cancel"}
    assert second.labels == [("cancel", 1.0)]
    assert first.size == 2


def test_distinctive_words_prefer_what_is_frequent_inside_and_rare_outside() -> None:
    inside = Counter(the=50, refund=20)
    corpus = Counter(the=500, refund=21, hello=80)
    ranked = distinctive_words(inside, corpus, 5)
    assert ranked[0][0] == "refund"
    assert distinctive_words(corpus, corpus, 5) == []


def test_fitted_densities_are_normalised_and_rank_as_they_should() -> None:
    stream = generator(1)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])

    def draw(n: int) -> Posteriors:
        mu = centres[torch.arange(n) % 2] + torch.randn(n, 2, generator=stream)
        return Posteriors(mu, torch.full_like(mu, -9.0))

    one = MixtureConfig(components=[2, 40], draws=1)
    fitted = fit_densities(draw(4000), draw(2000), 0, one)
    assert fitted.turned
    assert fitted.components == 2
    assert fitted.gain["mixture"] > fitted.gain["gaussian"] + 0.5 > 0.5
    axis = torch.linspace(-20, 20, 401)
    grid = torch.cartesian_prod(axis, axis)
    for density in fitted.densities.values():
        assert float(density(grid).exp().sum()) * 0.01 == pytest.approx(1, abs=1e-3)
    small = fit_densities(draw(30), draw(10), 0, one)
    assert small.components == 1  # too few rows for a mixture: the Gaussian stands in


def test_a_mixture_of_classes_weighs_every_class_by_its_frequency() -> None:
    stream = generator(2)
    sizes = {"train": (3000, 1000), "valid": (600, 200)}

    def draw(name: str) -> tuple[Posteriors, np.ndarray]:
        label = np.repeat([0, 1], sizes[name])
        spread, place = torch.tensor([0.2, 2.0])[label], torch.tensor([4.0, -4.0])[label]
        mu = place[:, None] + spread[:, None] * torch.randn(len(label), 2, generator=stream)
        return Posteriors(mu, torch.full_like(mu, -20.0)), label

    (train, label), (valid, valid_label) = draw("train"), draw("valid")
    settings = MixtureConfig(components=[1], draws=1)
    fitted = fit_densities(train, valid, 0, settings, (label, valid_label))
    exact = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.75, 0.25])),
        torch.distributions.Independent(
            torch.distributions.Normal(
                torch.tensor([[4.0, 4.0], [-4.0, -4.0]]), torch.tensor([[0.2, 0.2], [2.0, 2.0]])
            ),
            1,
        ),
    )
    z = valid.mu_ND
    assert torch.allclose(
        fitted.densities["mixture_classes"](z).mean().float(), exact.log_prob(z).mean(), atol=0.02
    )
    assert fitted.gain["mixture_classes"] > fitted.gain["mixture"] + 0.5


def test_draws_have_the_posteriors_spread_and_keep_to_the_limit() -> None:
    posteriors = Posteriors(torch.full((3000, 3), 2.0), torch.full((3000, 3), math.log(0.25)))
    z = posteriors.draw(2, 4000, 0, "test")
    assert z.shape == (4000, 3)
    assert float(z.mean()) == pytest.approx(2, abs=0.02)
    assert float(z.std()) == pytest.approx(0.5, abs=0.02)
    assert posteriors.draw(2, 10**6, 0, "test").shape == (6000, 3)


@pytest.mark.parametrize("samples", [1, 100])
def test_few_samples_still_give_a_row_of_every_level(samples: int) -> None:
    prior = DiffusionPrior(4, config(levels=3), generator(0))
    report = Report()
    rows = add_label_information(report, prior, samples, 4, 0)
    header, table = report.tables["label_information"]
    assert [row[0] for row in table] == list(range(prior.levels))
    assert table == [[row[name] for name in header] for row in rows]
    assert all(math.isfinite(value) for row in table for value in row)
