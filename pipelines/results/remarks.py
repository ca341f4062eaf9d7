"""What a reader of a table must know beside its numbers, made from the runs that it shows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.results.recorded import by_experiment, numbers

__all__ = ["remarks"]

Run = Mapping[str, Any]

_PUBLISHED_RPPL = (
    "Published rPPL is of an AWD-LSTM trained for 20 epochs on 40,000 greedily decoded samples, so "
    "that ours compares among our rows only; rppl_real is that of as much real text."
)
_MODELS = {"gru": "a GRU", "awd_lstm": "an AWD-LSTM"}
_DECODED = {"sample": "samples whose words are drawn", "greedy": "greedily decoded samples"}
_RIVALS = {
    "fitted": "the fitted Gaussian",
    "mixture": "the fitted mixture",
    "mixture_classes": "the mixture of every class",
}


def remarks(data: str, runs: Sequence[Run]) -> list[str]:
    """Sentences to stand under the tables of a data set.

    Args:
        data: its name.
        runs: those in the tables.
    """
    groups = by_experiment(runs)
    found = [_reverse_perplexity(runs), _classes_over_levels(data, groups), _worse(groups)]
    return [item for item in found if item]


def _reverse_perplexity(runs: Sequence[Run]) -> str:
    """By what language model, of how many samples of which kind rPPL is."""
    kinds = dict.fromkeys(
        (
            _MODELS.get(str(settings.get("reverse_lm")), str(settings.get("reverse_lm"))),
            settings.get("reverse_lm_epochs"),
            int(settings.get("samples", 0)) * 40 // 43,
            _DECODED.get(str(settings.get("decode")), "samples"),
        )
        for run in runs
        if numbers([run], "rppl")
        for settings in [run["params"].get("evaluate", {})]
    )
    if not kinds:
        return ""
    said = [
        f"{model} trained for {epochs} epoch{'' if epochs == 1 else 's'} on {count:,} {decoded}"
        for model, epochs, count, decoded in kinds
    ]
    return f"rPPL here is of {'; or of '.join(said)}. {_PUBLISHED_RPPL}"


def _classes_over_levels(data: str, groups: Mapping[str, Sequence[Run]]) -> str:
    """I(z_t; y) of the data set of which a figure was published."""
    if data != "yelp":
        return ""
    said = []
    for name, runs in groups.items():
        levels = 0
        while numbers(runs, f"label_information_{levels}"):
            levels += 1
        if levels > 1:
            found = (numbers(runs, f"label_information_{t}") for t in range(1, levels))
            values = ", ".join(f"{statistics.median(value):.2f}" for value in found)
            said.append(f"{name} {values} nats at t = 1 to {levels - 1}")
    if not said:
        return ""
    return (
        "Figure A1 of Yu et al. (2022) shows p(y|z_t) constantly about 0.5 on Yelp: no information "
        f"about the class above t = 0. Here z_t tells it: I(z_t; y) is {'; '.join(said)}, of at "
        "most 0.69. These models are trained in two stages, not by the published scheme."
    )


def _worse(groups: Mapping[str, Sequence[Run]]) -> str:
    """Energy-based priors that lose to a simpler prior of their backbone by KID or FID."""
    said = []
    for name, runs in groups.items():
        if runs[0]["params"].get("prior", {}).get("kind") == "gaussian":
            continue
        for metric, label in (("kid_classifier", "KID"), ("fid_classifier", "FID")):
            own = numbers(runs, metric)
            for end, rival in _RIVALS.items():
                theirs = numbers(runs, f"{metric}_{end}")
                if not own or not theirs:
                    continue
                ours, other = statistics.median(own), statistics.median(theirs)
                if ours > other:
                    said.append(f"{name} than {rival} by {label} ({ours:.3g} against {other:.3g})")
    return f"Worse than a simpler prior of the same backbone: {'; '.join(said)}." if said else ""
