"""Where two results part: the walks back from both, held side by side.

Stages are matched by name; paths and parameters without the data set, experiment and seed of each
side, so that two experiments or two seeds compare as well as two revisions of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError
from pipelines.lineage.trace import Step, Trace, locked_steps, trace
from pipelines.lineage.twins import neutral, words
from pipelines.results.recorded import flatten

__all__ = ["Change", "Divergence", "StepDifference", "compare_traces", "parse_target"]

_CAUSES = ("params", "code", "seed", "versions", "device", "numerics", "data")
_BOUND = ("data/bound/{experiment}.json", "data/bound/{experiment}.measure.json")
_IN_VERSIONS = ("python", "torch", "numpy")  # numerics repeat them


@dataclass(frozen=True)
class Change:
    """One thing that differs: of a kind, by name, with the value of either side (None: absent)."""

    kind: str
    name: str
    a: Any
    b: Any

    def line(self) -> str:
        """As text."""
        return f"{self.kind:<8} {self.name}: {_short(self.a)} -> {_short(self.b)}"


@dataclass
class StepDifference:
    """A stage of both sides, or of one (the other is None), and how they differ.

    ``causes`` are changes that the stage did not inherit; ``inputs`` and ``outputs`` are the files
    of other stages; ``facts`` (commit, flow run, validation) explain, but change no result.
    """

    name: str
    a: str | None
    b: str | None
    causes: list[Change] = field(default_factory=list)
    inputs: list[Change] = field(default_factory=list)
    outputs: list[Change] = field(default_factory=list)
    facts: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing but the facts differs."""
        return not (self.causes or self.inputs or self.outputs or None in (self.a, self.b))


@dataclass
class Divergence:
    """All stages on both ways, from raw data to the targets."""

    a: str
    b: str
    steps: list[StepDifference]

    @property
    def first(self) -> StepDifference | None:
        """The first stage whose outputs differ, or that only one side has."""
        parted = (step for step in self.steps if step.outputs or None in (step.a, step.b))
        return next(parted, None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        steps = [_step_json(step) for step in self.steps if not step.same or step.facts]
        first = self.first
        return {
            "a": self.a,
            "b": self.b,
            "same": all(step.same for step in self.steps),
            "first": None if first is None else _step_json(first),
            "steps": steps,
        }

    def lines(self) -> Iterator[str]:
        """The comparison as text."""
        yield f"a: {self.a}"
        yield f"b: {self.b}"
        first = self.first
        if first is None:
            causes = [step.name for step in self.steps if step.causes]
            yield "the outputs are the same all the way" + (
                f"; what went in differs in {', '.join(causes)}" if causes else ""
            )
        else:
            yield f"first divergence: {_both(first)}{_reason(first)}"
        for step in self.steps:
            if step.same:
                continue
            yield f"  {_both(step)}"
            for note in step.notes:
                yield f"    {note}"
            for change in [*step.causes, *step.inputs, *step.outputs, *step.facts]:
                yield f"    {change.line()}"


def parse_target(text: str, root: Path = Path(), same_as: str | None = None) -> tuple[str, Trace]:
    """The trace that ``TARGET``, ``TARGET@REV`` or a record file means.

    Stages have an ``@`` in their names, so that the whole text is tried first.

    Args:
        text: as the user gave it; ``@REV`` alone takes the target of the other side.
        root: the project's folder.
        same_as: that target.

    Raises:
        UsageError: neither the text nor what stands before its last ``@`` is a target.
    """
    target, at, revision = text.rpartition("@")
    if at and not target and same_as:
        target = same_as
        return f"{target}@{revision}", trace(target, root, revision)
    try:
        return text, trace(text, root)
    except UsageError as unknown:
        if not at or not target or not revision:
            raise
        try:
            return text, trace(target, root, revision)
        except UsageError as error:
            if target in {step.name for step in locked_steps(root) or []}:
                raise unknown from None  # a stage with a typing error, not a revision
            raise error from None


def compare_traces(a: Trace, b: Trace, names: tuple[str, str] | None = None) -> Divergence:
    """Matches the stages of two traces and lists what differs in each.

    Args:
        a: one side; a single record is a trace of one stage.
        b: the other.
        names: what to call the sides.
    """
    left, right = a.forwards(), b.forwards()
    pairs: list[tuple[Step | None, Step | None]] = []
    taken: set[str] = set()
    for step in left:
        other = _partner(step, left, right)
        pairs.append((step, other))
        if other is not None:
            taken.add(other.stage)
    extra = [step for step in right if step.stage not in taken]
    steps = [_difference(one, other) for one, other in [*pairs, *((None, s) for s in extra)]]
    left_name, right_name = names or (a.target, b.target)
    return Divergence(left_name, right_name, steps)


def _partner(step: Step, mine: list[Step], others: list[Step]) -> Step | None:
    same = next((other for other in others if other.stage == step.stage), None)
    if same is not None:
        return same
    like = [other for other in others if other.name == step.name]
    return like[0] if len(like) == 1 and [s.name for s in mine].count(step.name) == 1 else None


def _difference(a: Step | None, b: Step | None) -> StepDifference:
    known = a or b
    assert known is not None
    difference = StepDifference(known.name, a.stage if a else None, b.stage if b else None)
    if a is None or b is None:
        return difference
    left, right = words(a.command), words(b.command)
    read = _changes("input", _renamed(a.inputs, left), _renamed(b.inputs, right))
    wrote = _changes("output", _renamed(a.outputs, left), _renamed(b.outputs, right))
    if left.get("experiment") != right.get("experiment"):
        # Names the experiment itself, so that it says nothing; `pack` has the data that it binds.
        read, wrote = ([c for c in part if c.name not in _BOUND] for part in (read, wrote))
        difference.notes.append("the experiments' names differ, and some files hold them")
    if a.name == "bind":
        everything = ("data/judge", "data/packed")  # of all experiments
        read = [change for change in read if change.name not in everything]
    if a.after or b.after:
        difference.inputs += read
    else:  # nothing in the project wrote it: data that came from outside
        difference.causes += [Change("data", change.name, change.a, change.b) for change in read]
    difference.outputs += wrote
    params = (flatten(_renamed(step.params, names)) for step, names in ((a, left), (b, right)))
    difference.causes += _changes("params", *params)
    difference.causes += _changes("code", a.code, b.code)
    difference.causes += _changes("seed", {"seed": left.get("seed")}, {"seed": right.get("seed")})
    _compare_records(difference, a, b)
    return difference


def _compare_records(difference: StepDifference, a: Step, b: Step) -> None:
    if a.record is None or b.record is None:
        missing = [step.stage for step in (a, b) if step.record is None]
        known = " and ".join(dict.fromkeys(missing))
        difference.notes.append(
            f"no record of {known} on this machine: versions and device unknown"
        )
        return
    one, other = a.record, b.record
    for kind, skip in (("versions", ()), ("numerics", _IN_VERSIONS)):
        sides = [
            {name: value for name, value in (record.get(kind) or {}).items() if name not in skip}
            for record in (one, other)
        ]
        difference.causes += _changes(kind, *sides)
    difference.causes += _changes(
        "device", {"device": one.get("device")}, {"device": other.get("device")}
    )
    facts = [
        {
            "commit": record["git"].get("commit"),
            "uncommitted changes": record["git"].get("dirty"),
            "validation": (record.get("validation") or {}).get("success"),
            "flow run": record.get("flow_run"),
            "ran by": record.get("ran_by"),
            "reused": record.get("reused"),
        }
        for record in (one, other)
    ]
    difference.facts += _changes("fact", *facts)


def _renamed(paths: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {neutral(path, names): value for path, value in paths.items()}


def _changes(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    return [Change(kind, name, a.get(name), b.get(name)) for name in names]


def _short(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{32,64}(\.dir)?", text) else text


def _both(step: StepDifference) -> str:
    if step.a and step.b:
        return step.a if step.a == step.b else f"{step.a} | {step.b}"
    return f"{step.a} (only a)" if step.a else f"{step.b} (only b)"


def _reason(step: StepDifference) -> str:
    """Why the outputs of the first stage differ, as far as is recorded."""
    if None in (step.a, step.b):
        return ""
    told = [change for change in step.causes if change.kind in _CAUSES]
    if told:
        told.sort(key=lambda change: _CAUSES.index(change.kind))
        kinds, names = dict.fromkeys(c.kind for c in told), [c.name for c in told]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return f", because of {' and '.join(kinds)}: {shown}"
    if step.inputs:
        return f", because it read other files: {', '.join(c.name for c in step.inputs)}"
    return (
        "; nothing recorded explains it: the stage is not deterministic, or a file was changed "
        "by hand (`ldebm audit` runs it again)"
    )


def _step_json(step: StepDifference) -> dict[str, Any]:
    kinds = ("causes", "inputs", "outputs", "facts")
    changes = {kind: [vars(change) for change in getattr(step, kind)] for kind in kinds}
    return {"name": step.name, "a": step.a, "b": step.b, **changes, "notes": step.notes}
