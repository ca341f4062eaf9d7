"""What came out of a build: one line an experiment, and a warning where it came to nothing.

Read from ``reports/E/S/metrics.json`` and ``summary.json``; needs neither torch nor Prefect.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.results.glossary import present_names
from pipelines.types import StageOutcome

__all__ = ["experiment_line", "numbers", "outcome_lines", "read_numbers"]

EMPTY_KL = 0.1  # nats a row, below: the encoder says nothing of its text
NO_AGREEMENT = 0.05  # AMI, below: classes and labels have nothing to do with each other
CHANCE_MARGIN = 0.05  # control accuracy above chance that counts for nothing
SURE = 2.0  # standard errors by which a prior has to improve on N(0, I)

Metrics = Mapping[str, float]


def outcome_lines(root: Path, stages: Sequence[StageOutcome]) -> list[str]:
    """Lines on the experiments of which this build evaluated a run.

    Args:
        root: folder of the project that holds the result.
        stages: what became of each.
    """
    runs_of: dict[str, list[Metrics]] = {}
    for stage in stages:
        experiment, _, seed = stage.name.removeprefix("evaluate@").rpartition("-")
        ran = stage.attempts or stage.seconds  # DVC may have restored it: no attempt
        built = ran and stage.status in ("built", "cached")
        if not stage.name.startswith("evaluate@") or not built:
            continue
        metrics = read_numbers(root / "reports" / experiment / seed)
        if metrics:
            runs_of.setdefault(experiment, []).append(metrics)
    lines = []
    for experiment, runs in runs_of.items():
        lines += experiment_line(experiment, runs)
    return lines


def read_numbers(folder: Path) -> dict[str, float]:
    """The numbers of an evaluated run, ``reports/E/S``."""
    return {**_read(folder / "summary.json"), **_read(folder / "metrics.json")}


def _read(path: Path) -> dict[str, float]:
    """The numbers of a file of metrics; none if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return numbers(content)
    except (OSError, ValueError, AttributeError):
        return {}


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those metrics that are finite numbers, under the names that they have now."""
    items = metrics.items()
    finite = {k: float(v) for k, v in items if isinstance(v, int | float) and math.isfinite(v)}
    return present_names(finite)


def experiment_line(name: str, runs: Sequence[Metrics]) -> list[str]:
    """One line on an experiment, means over its seeds, and a line for each warning.

    Args:
        name: of the experiment.
        runs: numbers of each seed, those of ``summary.json`` included.

    Example:
        >>> experiment_line("talk", [{"nll": 24.1, "nll_standard_normal": 26.9, "ami": 0.7}])
        ['talk: NLL 24.10 nats (26.90 with N(0, I)); AMI with the labels 0.70']
    """
    shared = set.intersection(*(set(run) for run in runs))
    mean = {key: fmean(run[key] for run in runs) for key in shared}
    parts = _quality(mean)
    if "ami" in mean:
        parts.append(f"AMI with the labels {mean['ami']:.2f}")
    control = mean.get("control", mean.get("control_accuracy"))
    if control is not None:
        parts.append(f"{control:.0%} of class-conditional samples classified as asked")
    seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
    said = "; ".join(parts) or "evaluated"
    return [f"{name}{seeds}: {said}", *(f"  warning: {text}" for text in _warnings(mean, control))]


def _quality(mean: Metrics) -> list[str]:
    """How good the density or the samples are, beside N(0, I) in place of the learned prior."""
    for measure, plain, words, unit in (
        ("nll", "nll_standard_normal", "NLL", " nats"),
        ("fid", "fid_gaussian", "FID", ""),
        ("fid_classifier", "fid_classifier_gaussian", "FID by the classifier's features", ""),
    ):
        if measure in mean:
            beside = f" ({mean[plain]:.2f} with N(0, I))" if plain in mean else ""
            return [f"{words} {mean[measure]:.2f}{unit}{beside}"]
    return []


def _warnings(mean: Metrics, control: float | None) -> list[str]:
    warnings = []
    kl = mean.get("kl_standard_normal")
    if kl is not None and kl < EMPTY_KL:
        warnings.append(
            f"the latent holds nothing of the text (KL {kl:.2f} nats); lower backbone.kl_weight "
            "or raise backbone.word_dropout"
        )
    if "ami" in mean and mean["ami"] < NO_AGREEMENT:
        warnings.append(
            f"classes and labels have nothing to do with each other (AMI {mean['ami']:.2f}); "
            "longer training, or backbone.supervision, makes the latent tell the labels"
        )
    labels = mean.get("control_labels", mean.get("classes_used", 0.0))
    if control is not None and labels > 1 and control < 1 / labels + CHANCE_MARGIN:
        warnings.append(
            f"samples for a class are no better than chance ({control:.0%} of them are "
            f"classified as asked, {1 / labels:.0%} by chance)"
        )
    gain, error = (mean.get(f"gain_over_standard_normal{end}") for end in ("", "_se"))
    if gain is not None and error and gain < SURE * error:  # no error: N(0, I) is the prior
        warnings.append(
            f"the learned prior is not better than N(0, I) (by {gain:.2f} nats, standard error "
            f"{error:.2f})"
        )
    for measure in ("fid", "fid_classifier"):
        if mean.get(measure, 0.0) > mean.get(f"{measure}_gaussian", math.inf):
            warnings.append("samples of the learned prior are worse than those of N(0, I)")
            break
    return warnings
