"""How long a build will take, from what the same stages took before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pipelines.dag import Dag

__all__ = ["Estimate", "estimate", "recorded_seconds", "words"]

OVERHEAD = 2.0  # seconds that dvc itself takes for a stage


@dataclass(frozen=True)
class Estimate:
    """What a build will cost if nothing comes from the run cache.

    Attributes:
        seconds: of every stage that may run, None where nothing like it was ever recorded.
        total: their sum.
        elapsed: with ``slots`` of them at a time, never less than the longest chain.
        unknown: stages without a record, which are counted as nothing.
    """

    seconds: Mapping[str, float | None]
    total: float
    elapsed: float
    unknown: tuple[str, ...]

    def line(self) -> str:
        """One line for people."""
        count = len(self.seconds)
        if not count:
            return "everything is up to date"
        text = f"at most {count} stage{'s' if count != 1 else ''} to run"
        if len(self.unknown) < count:
            text += f", about {words(self.elapsed)} ({words(self.total)} of work)"
        if self.unknown:
            text += f"; {len(self.unknown)} never ran here before"
        return text


def recorded_seconds(root: Path) -> dict[str, float]:
    """Seconds of the newest record of every stage in ``lineage/``."""
    newest: dict[str, tuple[str, float]] = {}
    for path in (root / "lineage").glob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            name, at = str(record["stage"]), str(record["started"])
            seconds = float(record["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a record that cannot be read is lineage's business
        if name not in newest or at > newest[name][0]:
            newest[name] = (at, seconds)
    return {name: seconds for name, (_, seconds) in newest.items()}


def estimate(dag: Dag, names: Sequence[str], known: Mapping[str, float], slots: int) -> Estimate:
    """Estimates the stages ``names``.

    Args:
        dag: all stages.
        names: those that may run.
        known: seconds by stage. A stage that is not in it takes the median of its kind with the
            same experiment, else it is unknown.
        slots: stages at a time.
    """
    seconds = {name: _guess(name, known) for name in names}
    cost = {name: OVERHEAD + (seconds[name] or 0.0) for name in names}
    total = sum(cost.values())
    chains = dag.depth({name: cost.get(name, 0.0) for name in dag.stages})
    longest = max((chains[name] for name in names), default=0.0)
    unknown = tuple(name for name in names if seconds[name] is None)
    return Estimate(seconds, total, max(longest, total / max(1, slots)), unknown)


def _guess(name: str, known: Mapping[str, float]) -> float | None:
    if name in known:
        return known[name]
    family = name.rpartition("-")[0]  # another seed of the same experiment
    same = [value for other, value in known.items() if family and other.startswith(f"{family}-")]
    return median(same) if same else None


def words(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> words(8), words(95), words(5400)
        ('8 s', '1.6 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
