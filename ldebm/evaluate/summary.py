"""The few metrics of a run that ``dvc metrics show``, ``metrics diff`` and ``exp show`` print.

``reports/E/S/metrics.json`` has all of them; ``reports/E/S/summary.json`` has what this table
chooses for the kind of data, under short names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ldebm.data.packed import Packed
from ldebm.model import Model

__all__ = ["DECIMALS", "SUMMARY", "summarise", "summary_of"]

DECIMALS = 3
_TEXT = {"nll": ("nll",), "ami": ("ami_{label}",)}
_CONTROL = {"control": ("classified_accuracy", "control_accuracy")}

SUMMARY: dict[str, dict[str, tuple[str, ...]]] = {
    "points": {"nll": ("nll",), "nll_gap": ("nll_gap",), "tv": ("tv_sampler",), "ami": ("ami",)},
    "text": {
        **_TEXT,
        **_CONTROL,
        "bleu": ("bleu",),
        "rppl": ("rppl",),
        "mi": ("mi_code",),
        "completion": ("completion",),
    },
    "responses": {**_TEXT, **_CONTROL, "response_bleu": ("response_bleu",), "mi": ("mi_code",)},
    "documents": {**_TEXT, "accuracy": ("accuracy",)},
    "images": {
        "fid": ("fid",),
        "fid_classifier": ("fid_classifier",),
        "ami": ("ami",),
        **_CONTROL,
    },
}
"""Kind of run -> short name -> names in metrics.json; the first that was measured counts.

``{label}`` is the label column of the experiment. ``mi`` is measured on baselines with a code,
``fid`` by the features of Inception, ``fid_classifier`` by those of the data set's own classifier.
"""
WITHOUT = {"images": {"bound_bits": ("bound_bits",)}}  # where none of these was measured


def summarise(kind: str, metrics: Mapping[str, float | None], label: str = "") -> dict[str, float]:
    """What :data:`SUMMARY` chooses of the metrics, rounded; what was not measured is left out.

    Args:
        kind: one of :data:`SUMMARY`.
        metrics: all of the run.
        label: its label column, if it has one.

    Example:
        >>> summarise("documents", {"nll": 123.48421, "ami_topic": 0.53914, "ppl": 2371.3}, "topic")
        {'nll': 123.484, 'ami': 0.539}
    """

    def chosen(table: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
        row = {}
        for short, names in table.items():
            values = [metrics.get(name.format(label=label)) for name in names]
            known = [value for value in values if value is not None and math.isfinite(value)]
            if known:
                row[short] = round(float(known[0]), DECIMALS)
        return row

    return chosen(SUMMARY[kind]) or chosen(WITHOUT.get(kind, {}))


def summary_of(
    model: Model, packed: Packed, metrics: Mapping[str, float | None]
) -> dict[str, float]:
    """The summary of a model's metrics; classes count against the labels that it was given."""
    columns = [model.config.cluster.column, *packed.meta.get("labels", {})]
    label = next((name for name in columns if name and f"ami_{name}" in metrics), "")
    return summarise(model.task, metrics, label)
