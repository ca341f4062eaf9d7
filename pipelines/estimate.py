"""How long a build will take, from what the same or similar stages took before.

Every stage takes the first of these that there is, and names it:

1. its record on this machine, with the same settings;
2. the same of another seed;
3. its record with other settings, or another seed's, scaled;
4. the recorded runs of the experiment in ``results/``, which other machines made, scaled;
5. the most similar stage of another experiment with the same architecture, scaled.

Else its time is unknown, which is said and not counted as nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.dag import Dag, Stage
from pipelines.results.recorded import flatten

__all__ = ["Estimate", "Kin", "Past", "estimate", "past_runs", "words"]

OVERHEAD = 1.5  # seconds that dvc and the start of a stage take
RECORDED = "recorded"
SEED = "recorded for another seed"
SCALED = "scaled from other settings"
RESULTS = "recorded elsewhere"
SIMILAR = "scaled from {}"
LENGTHS = ("updates", "epochs")
# Settings that the time depends on, but not how much: it takes the middle of "not" and "in
# proportion", which is wrong by the square root of the change at most.
AMOUNTS = re.compile(
    r"(^|\.)(hidden|blocks|layers|latent|levels|steps|level_steps|restarts|samples|rows|importance"
    r"|inner|chains|ood_rows|control_draws|per_label)$"
)
SIMILARITY = 0.5  # share of equal settings
MODEL = ("backbone", "cluster", "prior", "evaluate")


@dataclass(frozen=True)
class Kin:
    """What experiments that take similar times have in common.

    Attributes:
        arch: architecture of the first stage.
        data: the data set; the length of an epoch is its.
    """

    arch: str
    data: str


@dataclass(frozen=True)
class Past:
    """A stage that was executed.

    Attributes:
        group: of the stage, such as ``prior``.
        subject: experiment or data set.
        seed: None where the stage has none.
        settings: values by dotted key, without the names of experiment and data set.
        seconds: it took.
        here: on this machine.
        kin: the experiment's, where it is known.
    """

    group: str
    subject: str
    seed: str | None
    settings: Mapping[str, Any]
    seconds: float
    here: bool
    kin: Kin | None = None


@dataclass(frozen=True)
class Estimate:
    """What a build will cost if nothing comes from the run cache.

    Attributes:
        seconds: of every stage that may run, None where nothing like it was ever recorded.
        total: their sum, without those.
        elapsed: with ``slots`` of them at a time, never less than the longest chain.
        unknown: stages whose time is not known.
        basis: where the seconds of a stage come from.
    """

    seconds: Mapping[str, float | None]
    total: float
    elapsed: float
    unknown: tuple[str, ...]
    basis: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """One line for people."""
        count, missing = len(self.seconds), len(self.unknown)
        if not count:
            return "everything is up to date"
        text = f"at most {count} stage{'s' if count != 1 else ''} to run"
        if missing == count:
            return f"{text}; how long is not known: nothing like that was recorded"
        about = "more than" if missing else "about"
        text += f", {about} {words(self.elapsed)} ({words(self.total)} of work, {self._sources()})"
        if missing:
            named = ", ".join(self.unknown[:3]) + (", ..." if missing > 3 else "")
            text += f"; not known for {missing}: {named}"
        return text

    def _sources(self) -> str:
        sources = set(self.basis.values())
        if sources <= {RECORDED, SEED}:
            return "as recorded here"
        if sources <= {RECORDED, SEED, RESULTS}:
            return (
                "as recorded, partly elsewhere" if RECORDED in sources else "as recorded elsewhere"
            )
        return "recorded or scaled"


def past_runs(root: Path) -> list[Past]:
    """The newest record of every stage and settings in ``lineage/``, and runs of ``results/``."""
    newest: dict[str, tuple[str, Past]] = {}
    for path in (root / "lineage").glob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            name, at, params = str(record["stage"]), str(record["started"]), record["params"]
            seconds = float(record["seconds"])
            if record.get("trained_with"):  # its share of a training of several at once
                seconds = float(record.get("trained_seconds", seconds))
            settings = _settings(params)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a record that cannot be read is lineage's business
        key = f"{name} {json.dumps(settings, sort_keys=True, default=str)}"
        if key not in newest or at > newest[key][0]:
            newest[key] = (at, Past(*_parts(name), settings, seconds, here=True))
    ordered = sorted(newest.values(), key=lambda item: item[0], reverse=True)
    return [past for _, past in ordered] + list(_results(root))


def _results(root: Path) -> Iterable[Past]:
    """Stages of recorded runs: the fastest seed, on the machine that did least besides."""
    for folder in sorted((root / "results").glob("*/")):
        fastest: dict[str, Past] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
                params, epochs = run["params"], run.get("epochs") or {}
                kin = Kin(str(params["backbone"].get("arch", "")), str(params["data"]))
                for group, value in run["stage_seconds"].items():
                    sections = ("cluster", "prior") if group == "prior" else (group,)
                    settings = flatten({name: params.get(name) for name in sections})
                    settings["run.epochs"] = epochs.get(group)
                    past = Past(group, folder.name, None, settings, float(value), False, kin)
                    if group not in fastest or past.seconds < fastest[group].seconds:
                        fastest[group] = past
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # another kind of result
        yield from fastest.values()


def estimate(
    dag: Dag,
    names: Sequence[str],
    past: Sequence[Past],
    slots: int,
    kin: Mapping[str, Kin] | None = None,
) -> Estimate:
    """Estimates the stages ``names``.

    Args:
        dag: all stages.
        names: those that may run.
        past: what was executed, the newest first.
        slots: stages at a time.
        kin: of every experiment.
    """
    guesses = {name: _guess(dag.stages[name], past, kin or {}) for name in names}
    seconds = {name: guess[0] for name, guess in guesses.items()}
    basis = {name: guess[1] for name, guess in guesses.items() if guess[0] is not None}
    trained: dict[Any, str] = {}  # one of equal first stages; the others take its checkpoint
    for name in names:
        group, subject, seed = _parts(name)
        if group == "backbone" and kin and subject in kin:
            settings = json.dumps(_settings(dag.stages[name].params), sort_keys=True, default=str)
            first = trained.setdefault((kin[subject], seed, settings), name)
            if first != name and seconds[name] is not None:
                seconds[name] = 0.0
    cost = {name: OVERHEAD + (value or 0.0) for name, value in seconds.items()}
    total = sum(cost.values())
    chains = dag.depth({name: cost.get(name, 0.0) for name in dag.stages})
    longest = max((chains[name] for name in names), default=0.0)
    unknown = tuple(name for name in names if seconds[name] is None)
    return Estimate(seconds, total, max(longest, total / max(1, slots)), unknown, basis)


def _guess(stage: Stage, past: Sequence[Past], kin: Mapping[str, Kin]) -> tuple[float | None, str]:
    """Seconds of a stage and where they come from."""
    group, subject, seed = _parts(stage.name)
    settings = _settings(stage.params)
    alike = [item for item in past if item.group == group]
    same = [item for item in alike if item.subject == subject]
    equal = [item for item in same if item.here and item.settings == settings]
    own = kin.get(subject)
    if equal:
        # A training that went on from a checkpoint, its own or its twin's, has a short record.
        twins = [
            item
            for item in alike
            if item.here and item.settings == settings and own and kin.get(item.subject) == own
        ]
        mine = any(item.seed == seed for item in equal)
        return max(item.seconds for item in equal + twins), RECORDED if mine else SEED
    same.sort(key=lambda item: (item.here, item.seed == seed), reverse=True)
    for item in same:
        scale = _scale(settings, item.settings)
        if scale is not None:
            return item.seconds * scale, SCALED if item.here else RESULTS
    others = [
        (_similarity(settings, item.settings), item.here, item)
        for item in alike
        if item.subject != subject and _comparable(stage, item, own, kin.get(item.subject))
    ]
    for share, _, item in sorted(others, key=lambda other: other[:2], reverse=True):
        scale = _scale(settings, item.settings)
        if share >= SIMILARITY and scale is not None:
            name = f"{group}@{item.subject}{'' if item.seed is None else f'-{item.seed}'}"
            return item.seconds * scale, SIMILAR.format(name)
    return None, ""


def _comparable(stage: Stage, item: Past, own: Kin | None, theirs: Kin | None) -> bool:
    """Whether the time of another subject's stage tells anything about that of this one."""
    settings = _settings(stage.params)
    if item.group == "fetch":
        return bool(item.settings.get("data.source") == settings.get("data.source"))
    if item.group not in MODEL:
        return True
    theirs = item.kin or theirs
    if own is None or theirs is None or own.arch != theirs.arch:
        return False
    lengths = [_length(settings, section) for section in ("backbone", "prior")]
    return own.data == theirs.data or not any(
        length and length[0] == "epochs" for length in lengths
    )


def _parts(name: str) -> tuple[str, str, str | None]:
    """Group, subject and seed of a stage, such as ``prior@ptb-ldebm-0``.

    Example:
        >>> _parts("prior@ptb-ldebm-0"), _parts("fetch@ptb-2"), _parts("report")
        (('prior', 'ptb-ldebm', '0'), ('fetch', 'ptb-2', None), ('report', '', None))
    """
    group, _, rest = name.partition("@")
    subject, dash, seed = rest.rpartition("-")
    if group in MODEL and dash and seed.isdecimal():
        return group, subject, seed
    return group, rest, None


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key; ``experiments.NAME.prior`` is ``prior``, ``data.NAME`` is ``data``."""
    sections = {}
    for key, value in params.items():
        words = key.split(".")
        if words[0] == "experiments" and len(words) > 2:
            key = ".".join(words[2:])
        elif words[0] == "data" and len(words) > 1:
            key = ".".join(["data", *words[2:]])
        sections[key] = value
    return flatten(sections)


def _length(settings: Mapping[str, Any], section: str) -> tuple[str, float] | None:
    """What a training's time is in proportion to: updates or epochs, and how many."""
    updates = settings.get(f"{section}.training.updates")
    epochs = settings.get(f"{section}.training.epochs")
    if updates is not None:
        return "updates", float(updates)
    if epochs is None:
        return None
    return "epochs", float(settings.get("run.epochs") or epochs)


def _scale(wanted: Mapping[str, Any], had: Mapping[str, Any]) -> float | None:
    """By how much the time differs with the settings; None if that cannot be said."""
    scale: float = 1.0
    for section in ("backbone", "prior"):
        one, other = _length(wanted, section), _length(had, section)
        if (one is None) != (other is None):
            return None
        if one is not None and other is not None:
            if one[0] != other[0] or not other[1]:
                return None
            scale *= one[1] / other[1]
    for key, value in wanted.items():
        other_value: Any = had.get(key)
        if AMOUNTS.search(key) and _positive(value) and _positive(other_value):
            scale *= math.sqrt(value / other_value)
    return scale


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _similarity(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    keys = one.keys() | other.keys()
    equal = [key for key in keys if one.get(key) == other.get(key)]
    return len(equal) / max(1, len(keys))


def words(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> words(8), words(95), words(5400)
        ('8 s', '1.6 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
