"""Remarks under the tables of recorded runs."""

from __future__ import annotations

from typing import Any

from pipelines.results.remarks import remarks

GRU = {"reverse_lm": "gru", "reverse_lm_epochs": 2, "samples": 23000, "decode": "sample"}


def run(
    experiment: str,
    seed: int = 0,
    evaluate: dict[str, Any] | None = None,
    kind: str = "diffusion",
    **metrics: float,
) -> dict[str, Any]:
    params = {"prior": {"kind": kind}, "evaluate": evaluate or {}}
    return {"experiment": experiment, "seed": seed, "params": params, "metrics": metrics}


def test_a_prior_that_loses_to_a_simpler_one_by_kid_is_named():
    runs = [
        run("faces", seed, kid_classifier=0.49 + shift, kid_classifier_fitted=0.475,
            fid_classifier=18.7, fid_classifier_fitted=19.2)
        for seed, shift in enumerate((-0.1, 0.0, 0.1))
    ]  # fmt: skip
    (said,) = remarks("celeba64", runs)
    assert said == (
        "Worse than a simpler prior of the same backbone: faces than the fitted Gaussian by KID "
        "(0.49 against 0.475)."
    )
    better = run("good", kid_classifier=0.1, kid_classifier_mixture=0.2)
    assert remarks("celeba64", [better]) == []
    plain = run("plain", kind="gaussian", kid_classifier=0.3, kid_classifier_fitted=0.2)
    assert remarks("celeba64", [plain]) == []


def test_mixtures_count_as_simpler_priors():
    (said,) = remarks("digits", [run("d", fid_classifier=2.0, fid_classifier_mixture_classes=1.0)])
    assert "d than the mixture of every class by FID (2 against 1)" in said


def test_the_reverse_perplexity_says_how_it_differs_from_the_published_one():
    greedy = {"reverse_lm": "awd_lstm", "reverse_lm_epochs": 20, "samples": 43000,
              "decode": "greedy"}  # fmt: skip
    runs = [run("a", evaluate=GRU, rppl=200.0), run("b", evaluate=GRU, rppl=210.0),
            run("c", evaluate=greedy, rppl=220.0), run("d", evaluate=GRU)]  # fmt: skip
    (said,) = remarks("ptb", runs)
    assert said.startswith(
        "rPPL here is of a GRU trained for 2 epochs on 21,395 samples whose words are drawn; or of "
        "an AWD-LSTM trained for 20 epochs on 40,000 greedily decoded samples. Published"
    )
    assert remarks("ptb", [run("d", evaluate=GRU, nll=1.0)]) == []


def test_the_classes_over_levels_stand_beside_the_published_figure():
    levels = {f"label_information_{t}": 0.6 - 0.1 * t for t in range(4)}
    one = {"label_information_0": 0.6}
    (said,) = remarks("yelp", [run("yelp-ldebm", **levels), run("yelp-svebm", **one)])
    assert "Figure A1 of Yu et al. (2022)" in said
    assert "I(z_t; y) is yelp-ldebm 0.50, 0.40, 0.30 nats at t = 1 to 3" in said
    assert "yelp-svebm" not in said
    assert remarks("sst2", [run("sst2-ldebm", **levels)]) == []
