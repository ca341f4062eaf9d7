"""The front page: the runs that are evaluated here, and the recorded ones by data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.results.glossary import describe
from pipelines.results.recorded import by_experiment, summary
from pipelines.results.tables import HEADLINE

__all__ = ["columns_of", "gains", "main_metric", "own_card", "recorded_tables"]

MAIN = ("response_bleu", "classified_accuracy", "accuracy", "fid", "fid_classifier", "nll")
"""What a task is about: the first of these that one of its runs has."""
FIRST = (
    *("nll", "gain_over_standard_normal", "gain_over_mixture", "fid_classifier_mixture"),
    *("ppl", "bleu", "control_accuracy", "ami", "ood_auroc", "modes_covered", "mmd2", "wkl"),
)
"""What follows it, as far as a table is wide."""
WIDTH = 5  # columns of metrics
EXAMPLES = 3  # samples of a run
PICTURE = 150_000  # bytes of the largest picture that is shown


def main_metric(names: Sequence[str]) -> str:
    """The main metric of a task; empty without any.

    Example:
        >>> main_metric(["nll", "accuracy", "ppl"])
        'accuracy'
    """
    return next((name for name in MAIN if name in names), "")


def columns_of(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """At most :data:`WIDTH` metrics of a task, the main one first; and the others of the tables.

    Args:
        names: of the metrics that its runs have.
    """
    main = main_metric(names)
    wanted = dict.fromkeys((main, *FIRST, *HEADLINE))
    shown = [name for name in wanted if name in names][:WIDTH]
    return shown, [name for name in HEADLINE if name in names and name not in shown]


def gains(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """How far the prior is better than N(0, I) and than the best mixture, as far as is known.

    Example:
        >>> gains({"gain_over_mixture": 0.5, "nll": 2.0, "nll_standard_normal": 3.0})
        [('over N(0, I), nats', 1.0), ('over a mixture, nats', 0.5)]
    """

    def less(name: str, *others: str) -> float | None:
        """What is below the smallest of the others."""
        known = [metrics[item] for item in others if metrics.get(item) is not None]
        return min(known) - metrics[name] if known and metrics.get(name) is not None else None

    fid = "fid_classifier"
    found: list[tuple[str, float | None]] = []
    for words, gain, simpler, images in (
        ("N(0, I)", "gain_over_standard_normal", "nll_standard_normal", (f"{fid}_gaussian",)),
        (
            *("a mixture", "gain_over_mixture", "nll_mixture"),
            (f"{fid}_mixture", f"{fid}_mixture_classes"),
        ),
    ):
        nats = metrics.get(gain)
        nats = less("nll", simpler) if nats is None else nats
        found.append((f"over {words}, nats", nats))
        found.append((f"over {words}, Frechet distance", less(fid, *images)))
    return [(words, gain) for words, gain in found if gain is not None]


def own_card(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the front page shows of a run that has a page of its own.

    Args:
        run: as :func:`pipelines.site.run.run_page` has it.
    """
    metrics = {key: value for key, value, _ in run["metrics"] if value is not None}
    main = main_metric(list(metrics))
    picture = (run["images"] or {}).get("prior")
    if picture is not None and len(picture["uri"]) > PICTURE:
        picture = None
    return {
        **{key: run[key] for key in ("anchor", "experiment", "seed", "data", "description")},
        "main": (main, metrics[main], describe(main)) if main else None,
        "gains": gains(metrics),
        "samples": [
            item["text"] for item in run["samples"][:: max(1, len(run["samples"]) // EXAMPLES)]
        ][:EXAMPLES],
        "picture": picture,
        "points": run["points_chart"],
    }


def recorded_tables(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The recorded runs by data set: a table of few columns, and one of the others."""
    tables = []
    for data in sorted({str(run["params"]["data"]) for run in runs}):
        mine = [run for run in runs if str(run["params"]["data"]) == data]
        groups = by_experiment(mine)
        names = sorted({name for run in mine for name in run["metrics"]})
        parts = []
        for columns in columns_of(names):
            columns = [name for name in columns if any(summary(g, name) for g in groups.values())]
            rows = [
                (name, len(group), [summary(group, column) for column in columns])
                for name, group in groups.items()
            ]
            parts.append({"columns": [(name, describe(name)) for name in columns], "rows": rows})
        tables.append({"data": data, "first": parts[0], "more": parts[1], "runs": len(mine)})
    return tables
