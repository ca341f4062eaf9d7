"""The figure of docs/results.md: BLEU against valid NLL of models of the Penn Treebank."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipelines.results.recorded import by_experiment, lengths, numbers, settings_of

__all__ = ["Mark", "draw", "tradeoff"]

OF_THE_WEIGHT = ("backbone.kl_weight", "backbone.kl_floor", "prior.kl_weight")
AXES = ("test NLL, nats a sentence (valid)", "BLEU")


class Mark(NamedTuple):
    """A labelled point; marks of one group are joined by a line."""

    group: str
    label: str
    x: float
    y: float


def tradeoff(runs: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """BLEU against valid NLL of the two-stage LDEBM runs on the Penn Treebank.

    One mark for each weight of the KL. Those of one group, which a line joins, differ in nothing
    else: neither in another setting nor in the updates of a stage.
    """
    marks = []
    groups: dict[str, str] = {}
    for group in by_experiment(runs).values():
        params = group[0]["params"]
        prior = params.get("prior", {})
        mine = params.get("data") == "ptb" and prior.get("kind") == "diffusion"
        completes = params.get("evaluate", {}).get("completion") is not None
        if not mine or completes or prior.get("scheme") != "two_stage":
            continue
        nll, bleu = numbers(group, "nll"), numbers(group, "bleu")
        if nll and bleu:
            weight = params["backbone"]["kl_weight"]
            name = f"energy scale {prior.get('energy_scale', 'paper')}, {lengths(group)} updates"
            rest = {k: v for k, v in settings_of(params).items() if k not in OF_THE_WEIGHT}
            key = json.dumps([rest, lengths(group)], sort_keys=True)
            same = sum(title.startswith(name) for title in groups.values())
            groups.setdefault(key, f"{name} ({same + 1})" if same else name)
            x, y = statistics.median(nll), statistics.median(bleu)
            marks.append(Mark(groups[key], f"lambda1 {weight:g}", x, y))
    return marks


def draw(marks: Sequence[Mark]) -> str:
    """The marks as SVG; equal marks give equal bytes.

    Example:
        >>> draw([Mark("a", "one", 1.0, 2.0)]).count("one (1, 2)")
        1
    """
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with matplotlib.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "ldebm"}):
        figure = Figure(figsize=(8.5, 4.5), layout="constrained")
        axes = figure.add_subplot(xlabel=AXES[0], ylabel=AXES[1])
        for group in dict.fromkeys(mark.group for mark in marks):
            mine = sorted((mark for mark in marks if mark.group == group), key=lambda mark: mark.x)
            axes.plot([m.x for m in mine], [m.y for m in mine], "o-", alpha=0.7, label=group)
            for mark in mine:
                text = f"{mark.label} ({mark.x:.4g}, {mark.y:.3g})"
                axes.annotate(text, (mark.x, mark.y), (5, 5), textcoords="offset points")
        axes.margins(0.12)
        axes.legend()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
