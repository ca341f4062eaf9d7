"""The ``audit`` flow: runs ``ldebm audit STAGE`` for a selection of stages."""

from __future__ import annotations

import fnmatch
import json
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ldebm.config import nearest
from ldebm.errors import LdebmError, UsageError
from pipelines.building import read_params
from pipelines.dag import read_dag
from pipelines.engine import current
from pipelines.estimate import words
from pipelines.runner import run
from pipelines.slots import Held, Slots, need_of
from pipelines.worktree import Workspace

__all__ = ["AuditReport", "Verdict", "audit", "matching"]


@dataclass(frozen=True)
class Verdict:
    """What an audit of one stage found.

    Attributes:
        stage: its name.
        verdict: ``same`` bytes, they ``differ``, or the audit itself had an ``error``.
        seconds: it took.
        details: what ``ldebm audit --json`` said, or the end of its log.
    """

    stage: str
    verdict: Literal["same", "differ", "error"]
    seconds: float
    details: Any


@dataclass(frozen=True)
class AuditReport:
    """The verdicts of all stages."""

    verdicts: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether every stage gave the same bytes again."""
        return all(item.verdict == "same" for item in self.verdicts)

    def lines(self) -> list[str]:
        """One line a stage."""
        return [
            f"{item.stage}: {item.verdict} ({words(item.seconds)}){_first(item.details)}"
            for item in self.verdicts
        ]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {"ok": self.ok, "stages": [asdict(item) for item in self.verdicts]}


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The stages that patterns such as ``prior@*`` or ``evaluate`` name, in the DAG's order.

    Raises:
        UsageError: a pattern that names none.
    """
    matched: set[str] = set()
    for pattern in patterns:
        hits = [
            name
            for name in names
            if fnmatch.fnmatchcase(name, pattern) or name.partition("@")[0] == pattern
        ]
        if not hits:
            raise UsageError(f"stage {pattern!r}: not in the DAG{nearest(pattern, names)}")
        matched.update(hits)
    return [name for name in names if name in matched]


def audit(
    stages: list[str],
    root: Path = Path(),
    *,
    cpu_slots: int | None = None,
    must_succeed: bool = False,
) -> AuditReport:
    """Executes stages again and compares their outputs with those that are there.

    Args:
        stages: names or patterns: ``prior@chatter-ldebm-0``, ``prior``, ``*@*-0``.
        root: the project's folder.
        cpu_slots: audits at the same time.
        must_succeed: raise when one differs.

    Raises:
        UsageError: a stage that is unknown or out of date.
        LdebmError: one differs and ``must_succeed``.
    """
    workspace = Workspace(root)
    dag = read_dag(workspace.root)
    chosen = matching(list(dag.stages), stages)
    stale = set(dag.stale()).intersection(chosen)
    if stale:
        raise UsageError(f"{', '.join(sorted(stale))}: out of date; build first, then audit")
    slots = Slots(cpu_slots)
    params = read_params(workspace.root, strict=True)
    engine = current()
    engine.say(f"{len(chosen)} stages to execute again")
    cancel = threading.Event()

    def start(name: str) -> Future[Verdict]:
        held = slots.wait(need_of(name, params, slots.gpus))
        future = engine.start(name, lambda: _audit(workspace, name, held, cancel))
        future.add_done_callback(lambda _: held.release())
        return future

    futures: list[Future[Verdict]] = []
    try:
        futures += map(start, chosen)
        wait(futures)
    except BaseException:
        cancel.set()
        wait(futures)
        raise
    report = AuditReport(tuple(future.result() for future in futures))
    rows = [{**asdict(item), "details": _first(item.details)} for item in report.verdicts]
    page = "# Audit\n\n" + "\n".join(f"- {line}" for line in report.lines()) + "\n"
    engine.publish("audit-report", page, "Audit", rows)
    if engine.flow_run:
        for line in report.lines():
            engine.say(line)
    if must_succeed and not report.ok:
        failed = [item.stage for item in report.verdicts if item.verdict != "same"]
        raise LdebmError(f"{', '.join(failed)}: not the same bytes again")
    return report


def _audit(workspace: Workspace, name: str, held: Held, cancel: threading.Event) -> Verdict:
    """Runs the command line of one audit: exit code 0 same, 1 differs, anything else an error."""
    log = workspace.runs / "logs" / "audit" / f"{name.replace('/', '_')}.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ldebm.cli", "audit", name, "--json"]
    done = run(command, cwd=workspace.root, log=log, env=held.env, cancel=cancel, held=held.fds)
    details = _json(log.read_text(encoding="utf-8", errors="replace"))
    if done.code == 0:
        return Verdict(name, "same", done.seconds, details)
    if done.code == 1 and details is not None:
        return Verdict(name, "differ", done.seconds, details)
    return Verdict(name, "error", done.seconds, details or "\n".join(done.tail))


def _json(text: str) -> Any:
    """The JSON object in a log that may have other lines before and behind it."""
    start = text.find("{")
    while start >= 0:
        try:
            return json.JSONDecoder().raw_decode(text[start:])[0]
        except ValueError:
            start = text.find("{", start + 1)
    return None


def _first(details: Any) -> str:
    """The first difference in what ``ldebm audit --json`` said, or the last line of its log."""
    if isinstance(details, str):
        return f": {details.splitlines()[-1]}" if details else ""
    outputs = details.get("outputs", []) if isinstance(details, dict) else []
    for output in outputs:
        if not output["same"]:
            difference = output["difference"] or {}
            place = ": ".join(
                filter(None, [output["path"], difference.get("file"), difference.get("where")])
            )
            values = f": {difference['expected']} -> {difference['actual']}" if difference else ""
            return f": {place}{values}"
    return ""
