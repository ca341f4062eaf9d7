"""Champion against challenger: whether a newly built model replaces the registered one.

The rule is declared in params.yaml (``retrain:``). The declared metric has to improve by more than
``minimum`` with all of its 95% interval; guards may not get worse by more than their tolerance. The
interval is over seeds: of the paired differences where both have the same seeds (Student's t),
Welch's otherwise. With a single seed it is that of the metric itself on the test rows, where the
reports give one (``nll_low``, ``nll_high``), and the verdict says that seeds are not in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ldebm.config import RuleConfig
from pipelines.candidates import Candidate
from pipelines.compare.significance import half_width, mean_error, welch_error

__all__ = ["MetricChange", "Verdict", "decide", "improvement", "incomparable"]

Decision = Literal["promote", "refuse"]


@dataclass(frozen=True)
class MetricChange:
    """One metric of both.

    Attributes:
        metric: its name.
        direction: which way is better.
        champion: mean over its seeds.
        challenger: mean over its seeds.
        better: how much better the challenger is; negative: worse.
        low: lower end of the 95% interval of ``better``; None where there is no interval.
        high: upper end.
        how: what the interval is over, for people.
        role: "decides", or the tolerance of a guard in words.
    """

    metric: str
    direction: str
    champion: float
    challenger: float
    better: float
    low: float | None
    high: float | None
    how: str
    role: str = "decides"


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger becomes the champion, and why.

    Attributes:
        experiment: its name.
        decision: "promote" or "refuse".
        reasons: sentences; the first is the deciding one.
        champion: where it stands; None where there is none yet.
        challenger: where it was built.
        rows: the compared metrics.
        notes: what a reader should know besides.
    """

    experiment: str
    decision: Decision
    reasons: tuple[str, ...]
    champion: str | None
    challenger: str
    rows: tuple[MetricChange, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def promote(self) -> bool:
        """Whether the challenger is better."""
        return self.decision == "promote"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def decide(champion: Candidate | None, challenger: Candidate, rule: RuleConfig) -> Verdict:
    """Applies ``rule``.

    Args:
        champion: the registered model; None: there is none yet, and the challenger only has to be
            valid and completely measured.
        challenger: the new one.
        rule: what it has to show.
    """
    where = None if champion is None else champion.where

    def verdict(decision: Decision, *reasons: str, **more: Any) -> Verdict:
        return Verdict(challenger.experiment, decision, reasons, where, challenger.where, **more)

    problems = _invalid(challenger) + _unmeasured(challenger, rule, "challenger")
    if problems:
        return verdict("refuse", *problems)
    if champion is None:
        return verdict("promote", _first(challenger, rule))
    problems = incomparable(champion, challenger) + _unmeasured(champion, rule, "champion")
    if problems:
        return verdict("refuse", *problems)
    if champion.models and champion.models == challenger.models:
        return verdict("refuse", "the challenger is the champion: every model has the same bytes")
    rows, refusals = [], []
    for metric, direction, limit, decides in _declared(rule):
        row = improvement(metric, direction, champion, challenger)
        refusal = _deciding(row, limit) if decides else _guarding(row, limit)
        role = "decides" if decides else f"guard, may get worse by {limit:g}"
        rows.append(MetricChange(**{**asdict(row), "role": role}))
        if refusal:
            refusals.append(refusal)
    notes = _notes(champion, challenger, rows)
    if refusals:
        return verdict("refuse", *refusals, rows=tuple(rows), notes=notes)
    return verdict("promote", _success(rows[0], rule), rows=tuple(rows), notes=notes)


def _first(challenger: Candidate, rule: RuleConfig) -> str:
    values = [value for value in challenger.values(rule.metric).values() if value is not None]
    over = _seeds("seed", sorted(challenger.metrics))
    return (
        "there is no champion yet: this is the first version "
        f"({rule.metric} {statistics.fmean(values):.5g}, {over})"
    )


def _declared(rule: RuleConfig) -> list[tuple[str, str, float, bool]]:
    guards = [(name, g.direction, g.tolerance, False) for name, g in rule.guards.items()]
    return [(rule.metric, rule.direction, rule.minimum, True), *guards]


def _invalid(challenger: Candidate) -> list[str]:
    report = challenger.validation
    if report is None:
        return [f"data set {challenger.data!r} has no validation report: it was not validated"]
    if report.get("success") is True:
        return []
    failed = [item for item in report.get("results", []) if not item.get("success")]
    details = [str(item.get("detail") or item.get("expectation")) for item in failed[:3]]
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    named = f": {'; '.join(details)}{more}" if details else ""
    return [f"data set {challenger.data!r} failed validation{named}"]


def _unmeasured(candidate: Candidate, rule: RuleConfig, role: str) -> list[str]:
    if not candidate.metrics:
        return [f"the {role} ({candidate.where}) was not evaluated: no reports/*/metrics.json"]
    problems = []
    for metric, *_ in _declared(rule):
        values = candidate.values(metric)
        wrong = [seed for seed, value in values.items() if value is None]
        if wrong:
            present = any(metric in run for run in candidate.metrics.values())
            what = "is undefined, not a finite number," if present else "is missing"
            problems.append(
                f"{metric} of the {role} ({candidate.where}) {what} {_seeds('for seed', wrong)}"
            )
    return problems


def incomparable(champion: Candidate, challenger: Candidate) -> list[str]:
    """Why the numbers of the two do not measure the same thing; empty where they do."""
    if champion.data != challenger.data:
        return [
            f"different data sets: the champion was measured on {champion.data!r}, "
            f"the challenger on {challenger.data!r}"
        ]
    problems = []
    changed = _changed(_measured_on(champion.files), _measured_on(challenger.files))
    if changed:
        problems.append(
            f"the test data of {challenger.data!r} changed ({', '.join(changed)}): "
            "the numbers of the two are not about the same rows"
        )
    settings = _changed(champion.evaluate, challenger.evaluate)
    if settings:
        problems.append(f"evaluated with other settings: {', '.join(settings)}")
    return problems


def _measured_on(files: Mapping[str, str]) -> dict[str, str]:
    """Those packed files on which test numbers depend: the test split and the vocabulary."""
    return {n: h for n, h in files.items() if n.startswith(("test.", "tokenizer"))}


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def _notes(
    champion: Candidate, challenger: Candidate, rows: Sequence[MetricChange]
) -> tuple[str, ...]:
    notes = []
    files = _changed(champion.files, challenger.files)
    if files:
        notes.append(f"trained on other data ({', '.join(files)}), tested on the same")
    if any("one seed" in row.how for row in rows):
        notes.append(
            "one seed: the interval is of the test rows alone, another seed may differ by more; "
            "retrain.seeds with several seeds says how much"
        )
    return tuple(notes)


def improvement(
    metric: str, direction: str, champion: Candidate, challenger: Candidate
) -> MetricChange:
    """How much better the challenger is in one metric, with its interval.

    Every run of both has the metric as a finite number (:func:`decide` asks first).
    """
    old = {seed: v for seed, v in champion.values(metric).items() if v is not None}
    new = {seed: v for seed, v in challenger.values(metric).items() if v is not None}
    sign = -1.0 if direction == "lower" else 1.0
    better = sign * (statistics.fmean(new.values()) - statistics.fmean(old.values()))
    half: float | None
    if len(old) > 1 and old.keys() == new.keys():
        half = half_width(*mean_error([new[seed] - old[seed] for seed in sorted(new)]))
        how = f"paired over {_seeds('seeds', sorted(new))}"
    elif len(old) > 1 and len(new) > 1:
        half = half_width(*welch_error(list(old.values()), list(new.values())))
        how = f"over {len(old)} and {len(new)} seeds, unpaired (Welch)"
    else:
        halves = [_own(metric, champion), _own(metric, challenger)]
        known = [half for half in halves if half is not None]
        half = None if len(known) < 2 else math.hypot(*known)
        how = "one seed; no interval in the reports"
        if half is not None:
            how = f"one seed; the reports' own interval ({metric}_low, {metric}_high)"
    return MetricChange(
        metric=metric,
        direction=direction,
        champion=statistics.fmean(old.values()),
        challenger=statistics.fmean(new.values()),
        better=better,
        low=None if half is None else better - half,
        high=None if half is None else better + half,
        how=how,
    )


def _own(metric: str, candidate: Candidate) -> float | None:
    """Half-width of the interval that a single run reports for its metric.

    With several runs against a single one: the mean of theirs, which is at least that of the mean.
    """
    halves = []
    for run in candidate.metrics.values():
        low, high = run.get(f"{metric}_low"), run.get(f"{metric}_high")
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            return None
        halves.append((high - low) / 2)
    return statistics.fmean(halves)


def _deciding(row: MetricChange, minimum: float) -> str | None:
    """Why the declared metric does not suffice; None if it does."""
    wanted = f"by more than {minimum:g}" if minimum else "at all"
    if row.low is None or row.high is None:
        return (
            f"{row.metric} {_change(row)}, but with one seed and no interval in the reports nobody "
            "can say whether that is noise: give retrain.seeds two seeds or more"
        )
    if row.low > minimum:
        return None
    if row.better <= 0:
        return f"{row.metric} {_change(row)}: the challenger is not better"
    return (
        f"{row.metric} {_change(row)}, {_interval(row)}: that does not show that the challenger is "
        f"better {wanted}"
    )


def _guarding(row: MetricChange, tolerance: float) -> str | None:
    """Why a guard forbids it; None if it does not."""
    if row.better >= -tolerance:
        return None
    return f"{row.metric} {_change(row)}: worse by {-row.better:.4g}, allowed {tolerance:g}"


def _success(row: MetricChange, rule: RuleConfig) -> str:
    asked = f", more than the {rule.minimum:g} asked for" if rule.minimum else ""
    return f"{row.metric} {_change(row)}: better by {row.better:.4g}, {_interval(row)}{asked}"


def _change(row: MetricChange) -> str:
    return f"{row.champion:.5g} -> {row.challenger:.5g}"


def _interval(row: MetricChange) -> str:
    return f"95% interval {row.low:.4g} to {row.high:.4g} ({row.how})"


def _seeds(word: str, seeds: Sequence[int]) -> str:
    plural = word if len(seeds) == 1 or word.endswith("s") else f"{word}s"
    return f"{plural} {', '.join(map(str, seeds))}"
