"""``ldebm compare``: how two sets of runs differ, and whether by more than their seeds do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldebm.config import EvaluateConfig, parse
from ldebm.errors import UsageError
from pipelines.compare.significance import difference, holm
from pipelines.compare.targets import Run, find
from pipelines.curves import parse_curve
from pipelines.lineage.origins import Origin, changed_code, changed_data, origin
from pipelines.lineage.records import records
from pipelines.results.glossary import describe
from pipelines.results.recorded import TRAINED, flatten
from pipelines.results.tables import HEADLINE

__all__ = [
    "DIFFERENT",
    "SAMPLES",
    "Comparison",
    "Comparisons",
    "class_words",
    "compare",
    "judge",
    "ordered",
    "pick_samples",
]

SAMPLES = 8
DIFFERENT = ("better", "worse", "differs")  # the verdicts that call a metric different
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """Runs of one experiment against runs of another, or of the same at another state.

    Attributes:
        first: name of the first side.
        second: name of the second.
        seeds: of both.
        params: dotted key -> (first, second), where they differ.
        metrics: name -> what :func:`judge` says.
        curves: "stage/series" -> last value on both sides, of the smallest seed.
        samples: some of both sides.
        code: file -> hashes, where they differ; ``None`` where the code of a side is not known.
        data: likewise for the packed data.
        facts: commit, device and versions, where they differ.
        notes: what has to be known to read this.
    """

    first: str
    second: str
    seeds: tuple[list[int], list[int]]
    params: dict[str, Pair]
    metrics: dict[str, dict[str, Any]]
    curves: dict[str, Pair] = field(default_factory=dict)
    samples: tuple[list[str], list[str]] = ([], [])
    code: dict[str, Pair] | None = None
    data: dict[str, Pair] | None = None
    facts: dict[str, Pair] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparisons:
    """All pairs of runs that two targets have in common.

    Attributes:
        first: what the user called the first.
        second: what the user called the second.
        pairs: one for experiments; of two revisions, one for each experiment of both.
        only_first: experiments that the second lacks.
        only_second: experiments that the first lacks.
        notes: what else a target may stand for.
    """

    first: str
    second: str
    pairs: list[Comparison]
    only_first: list[str]
    only_second: list[str]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "pairs": [vars(pair) for pair in self.pairs]}


def compare(first: str, second: str, root: Path = Path()) -> Comparisons:
    """Parameters, metrics, curves, samples, code and data of two targets.

    Args:
        first: see :mod:`pipelines.compare.targets`.
        second: likewise. Where one names an experiment and the other a whole state, that experiment
            is taken of the state.
        root: the project's folder.

    Raises:
        UsageError: one of them is not there, or they have no experiment in common.
    """
    one, other = find(first, root), find(second, root)
    known = records(root)
    notes = sorted({side.note for side in (one, other) if side.note})
    if one.chosen and other.chosen:
        (mine,), (theirs,) = one.runs.values(), other.runs.values()
        pair = _pair(first, second, mine, theirs, known)
        return Comparisons(first, second, [pair], [], [], notes)
    names = sorted(one.runs.keys() & other.runs.keys())
    if not names:
        raise UsageError(
            f"{first} and {second} have no experiment in common: the first has "
            f"{', '.join(one.runs)}, the second {', '.join(other.runs)}"
        )
    pairs = [
        (_name(first, name), _name(second, name), one.runs[name], other.runs[name])
        for name in names
    ]
    only_first, only_second = (
        [] if mine.chosen or theirs.chosen else sorted(mine.runs.keys() - theirs.runs.keys())
        for mine, theirs in ((one, other), (other, one))
    )
    every = [_pair(*pair, known) for pair in pairs]
    return Comparisons(first, second, every, only_first, only_second, notes)


def _name(side: str, experiment: str) -> str:
    return side if side.partition("@")[0] == experiment else f"{experiment}@{side}"


def _pair(
    first: str,
    second: str,
    one: Sequence[Run],
    other: Sequence[Run],
    known: Sequence[Mapping[str, Any]],
) -> Comparison:
    seeds = [run.seed for run in one], [run.seed for run in other]
    metrics = judge(one, other)
    origins = origin(one[0], known), origin(other[0], known)
    code, data = changed_code(*origins), changed_data(*origins)
    facts = [
        {**item.facts, **_facts(run)} for item, run in zip(origins, (one[0], other[0]), strict=True)
    ]
    return Comparison(
        first=first,
        second=second,
        seeds=seeds,
        params=_different(_params(one[0], origins[0]), _params(other[0], origins[1])),
        metrics=metrics,
        curves=_curves(one[0], other[0]),
        samples=(pick_samples(one[0]), pick_samples(other[0])),
        code=code,
        data=data,
        facts={key: pair for key, pair in _different(*facts).items() if None not in pair},
        notes=_notes(one, other, metrics, origins, data),
    )


def _params(run: Run, made: Origin) -> dict[str, Any]:
    """The parameters of a run, those of its evaluation as they were when it was evaluated."""
    params = flatten(run.params)
    if made.evaluate is None:
        return params
    try:
        section = parse(EvaluateConfig, made.evaluate, "evaluate").model_dump(mode="json")
    except UsageError:  # of a version with other parameters
        section = made.evaluate
    kept = {key: value for key, value in params.items() if not key.startswith("evaluate.")}
    return kept | flatten({"evaluate": section})


def _facts(run: Run) -> dict[str, Any]:
    """Where the run was made, as far as it was recorded with it."""
    return {
        key: value
        for key, value in run.facts.items()
        if key in ("commit", "dirty", "device") and value is not None
    }


def _different(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    keys = sorted(first.keys() | second.keys())
    both = {key: (first.get(key), second.get(key)) for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _notes(
    one: Sequence[Run],
    other: Sequence[Run],
    metrics: Mapping[str, Mapping[str, Any]],
    origins: tuple[Origin, Origin],
    data: Mapping[str, Pair] | None,
) -> list[str]:
    notes = []
    if one[0].data != other[0].data:
        notes.append(
            f"different data sets ({one[0].data}, {other[0].data}): metrics are not judged"
        )
    elif data:
        notes.append("the data differ: metrics are of different rows")
    for side, runs in (("first", one), ("second", other)):
        params = [flatten(run.params) for run in runs]
        if any(item != params[0] for item in params):
            notes.append(f"the seeds of the {side} have different parameters: those of the first")
    if min(len(one), len(other)) == 1:
        notes.append(
            "one seed on a side: how far seeds spread is not known, so nothing is called better; "
            "where a metric has a 95% interval over test rows, that is given"
        )
    judged = {name: row["p"] for name, row in metrics.items() if row["p"] is not None}
    if judged:
        different = sum(row["verdict"] in DIFFERENT for row in metrics.values())
        notes.append(
            f"{len(judged)} metrics judged one by one at 95%: about {len(judged) * 0.05:.1f} would "
            f"differ by chance; {different} do, {len(holm(judged))} of them also when all are "
            "judged together (Holm), marked *"
        )
    if not all(item.code for item in origins):
        notes.append("no lineage record or dvc.lock of these very metrics for a side: code unknown")
    return notes


def judge(one: Sequence[Run], other: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Every metric that both sides have, headline metrics first.

    Returns:
        name -> first, second and difference (means over the seeds that were used), interval (half
        width of the difference's 95% interval), p, freedom, method, seeds, holm, better (which way
        is), verdict, rows. ``verdict`` is one of ``better``, ``worse`` (the second, of a metric
        with a direction), ``differs``, ``within seed noise``, ``equal``, ``constant`` (all seeds
        differ by the same: no spread to judge by), ``one seed`` and ``other data``. ``rows``
        has, with one seed on a side, the intervals over test rows and whether they overlap.
    """
    values = [_by_name(runs) for runs in (one, other)]
    same_data = one[0].data == other[0].data
    rows: dict[str, dict[str, Any]] = {}
    for name in ordered(values[0].keys() & values[1].keys()):
        result = difference(values[0][name], values[1][name])
        better = describe(name).better
        rows[name] = {
            "first": result.first,
            "second": result.second,
            "difference": result.value,
            "interval": result.half if same_data else None,
            "p": result.p if same_data else None,
            "freedom": result.freedom,
            "method": result.method,
            "seeds": [list(seeds) for seeds in result.seeds],
            "better": better,
            "verdict": _verdict(result.method, result.differs, result.value, better)
            if same_data
            else "other data",
            "rows": _row_intervals(name, one, other) if result.method == "one seed" else None,
        }
    kept = holm({name: row["p"] for name, row in rows.items() if row["p"] is not None})
    for name, row in rows.items():
        row["holm"] = name in kept
    return rows


def _verdict(method: str, differs: bool | None, value: float, better: str) -> str:
    if method in ("equal", "constant", "one seed"):
        return method
    if not differs:
        return "within seed noise"
    if not better:
        return "differs"
    return "better" if (value < 0) == (better == "lower") else "worse"


def _by_name(runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """metric -> seed -> value."""
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        for name, value in run.metrics.items():
            values.setdefault(name, {})[run.seed] = value
    return values


def ordered(names: set[str]) -> list[str]:
    """Names of metrics, those of the tables first."""
    return [*(name for name in HEADLINE if name in names), *sorted(names - set(HEADLINE))]


def _row_intervals(name: str, one: Sequence[Run], other: Sequence[Run]) -> dict[str, Any] | None:
    """The 95% intervals of a metric over test rows, of the first seeds."""
    intervals = [_interval(name, runs[0].metrics) for runs in (one, other)]
    first, second = intervals
    if first is None or second is None:
        return None
    overlap = first[0] <= second[1] and second[0] <= first[1]
    return {"first": first, "second": second, "overlap": overlap}


def _interval(name: str, metrics: Mapping[str, float]) -> list[float] | None:
    stem = name.removesuffix("_accuracy")
    if name in ("nll", "control_accuracy") and {f"{stem}_low", f"{stem}_high"} <= metrics.keys():
        return [metrics[f"{stem}_low"], metrics[f"{stem}_high"]]
    error = metrics.get(f"{name}_se")
    if error is None or name not in metrics:
        return None
    return [metrics[name] - 1.96 * error, metrics[name] + 1.96 * error]


def _curves(one: Run, other: Run) -> dict[str, Pair]:
    """Last values of the training curves on both sides."""
    ends = []
    for run in (one, other):
        mine: dict[str, float] = {}
        for stage in TRAINED:
            for file, prefix in (("curve.csv", ""), ("validation.csv", "validation ")):
                path = f"models/{run.experiment}/{run.seed}/{stage}/{file}"
                content = run.snapshot.read(path) if run.snapshot is not None else None
                for series in parse_curve((content or b"").decode("utf-8")):
                    mine[f"{stage}/{prefix}{series.name}"] = series.points[-1][1]
        ends.append(mine)
    return {key: (ends[0].get(key), ends[1].get(key)) for key in {**ends[0], **ends[1]}}


def pick_samples(run: Run) -> list[str]:
    """Some samples of a run, spread over its classes."""
    path = f"reports/{run.experiment}/{run.seed}/details/samples.jsonl"
    content = run.snapshot.read(path) if run.snapshot is not None else None
    rows = [json.loads(line) for line in (content or b"").decode("utf-8").splitlines()]
    rows = [row for row in rows if row.get("kind", "sample") == "sample"]
    chosen = rows[:: max(1, len(rows) // SAMPLES)][:SAMPLES]
    return [_text(row) for row in chosen]


def _text(row: Mapping[str, Any]) -> str:
    text = row.get("text", row.get("x"))
    shown = text if isinstance(text, str) else json.dumps(text)
    words = class_words(row)
    return f"[{words}] {shown}" if words else shown


def class_words(row: Mapping[str, Any]) -> str:
    """What the class of a sample is called; empty if it has none.

    Example:
        >>> class_words({"class": 3, "label": "greet"}), class_words({"class": 3, "label": None})
        ('greet', 'class 3')
        >>> class_words({"class": 3, "label": None, "mostly": "greet", "share": 0.81})
        'class 3, mostly greet (81 %)'
    """
    if row.get("label") is not None:
        return str(row["label"])
    if row.get("class") is None:
        return ""
    mostly = ""
    if row.get("mostly"):
        mostly = f", mostly {row['mostly']} ({100 * row['share']:.0f} %)"
    return f"class {row['class']}{mostly}"
