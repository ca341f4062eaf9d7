"""Runs the stages of a DAG that are out of date, as many at a time as there are slots for.

Each is one ``dvc repro -s STAGE`` in a process; DVC decides whether its command runs, comes
from the run cache, or is not needed. This module knows nothing of Prefect: flows hand in how a
stage is submitted, tests hand in a thread pool.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from ldebm.errors import LdebmError, UsageError
from pipelines.dag import Dag, Stage, environment, work_key
from pipelines.failures import explain
from pipelines.lineage.trace import restored_by_chance
from pipelines.lockfile import lock_blocks, read_outs, whole
from pipelines.runner import GRACE, MARK, Finished, run
from pipelines.slots import Held, Need, Slots, lock_file
from pipelines.types import StageOutcome, Status
from pipelines.warm import WarmPython

__all__ = ["POLL", "Dispatcher", "Landed", "Options", "Place", "Submit", "run_stage"]

POLL = 0.05
LOCK_SECONDS = 10.0  # in which dvc.lock is written
FLOW_RUN = ("PREFECT__FLOW_RUN_ID", "PREFECT_FLOW_RUN_ID")  # as pipelines.lineage.records reads it
RAN = "Running stage '"
RESTORED = "is cached - skipping run, checking out outputs"

Landed = Callable[[StageOutcome], None] | None
Submit = Callable[[Stage, Held], "Future[StageOutcome]"]


@dataclass(frozen=True)
class Options:
    """How stages are run.

    Attributes:
        retries: further attempts after an infrastructure error.
        delay: seconds before the second attempt; doubles each time.
        timeout: seconds a stage may take; None: no limit.
        keep_going: stages that do not need a failed one still run.
        pull: take outputs and the run cache from the DVC remote where it has them.
        grace: seconds between SIGTERM and SIGKILL.
        push: give every stage to the DVC remote as soon as it is built.
    """

    retries: int = 2
    delay: float = 5.0
    timeout: float | None = None
    keep_going: bool = True
    pull: bool = False
    grace: float = GRACE
    push: bool = False


@dataclass
class Place:
    """Where stages run.

    Attributes:
        project: the worktree.
        logs: folder of the logs.
        held: lock files that every process of the build keeps.
        flow_run: id of the Prefect flow run, for the lineage records.
        cancel: set to end everything.
        python: starts stages at once; None: Python itself does.
    """

    project: Path
    logs: Path
    held: tuple[int, ...] = ()
    flow_run: str | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    python: WarmPython | None = None


def run_stage(
    stage: Stage,
    held: Held,
    place: Place,
    options: Options,
    say: Callable[[str], None],
    progress: Callable[[str], None] | None = None,
) -> StageOutcome:
    """Brings one stage up to date, trying again after infrastructure errors.

    Args:
        stage: its inputs are there.
        held: its slots, which this releases.
        place: where it runs.
        options: retries and limits.
        say: takes lines for the log of the flow.
        progress: takes the newest line of the stage's log.
    """
    started = time.monotonic()
    log = place.logs / f"{stage.name.replace('/', '_')}.log"
    attempt = ran = 0
    force = False
    try:
        while True:
            attempt += 1
            done = _attempt(stage, held, place, options, log, progress, force)
            spent = time.monotonic() - started
            if _ran(log):
                ran += 1
            if not (done.code or ran or options.pull) and RESTORED in _read(log):
                force = _restored_by_chance(stage, place.project)
                if force:
                    say(f"{stage.name}: another stage wrote these bytes from other inputs; it runs")
                    continue
            if done.code == 0:
                status: Status = "built" if ran else "cached"
                return StageOutcome(stage.name, status, spent, ran, log=log)
            message, retry = _reason(stage, done, place, log)
            if done.ended_by == "cancelled":
                return StageOutcome(stage.name, "skipped", spent, ran, message, log)
            if not retry or attempt > options.retries:
                return StageOutcome(stage.name, "failed", spent, ran, message, log)
            pause = options.delay * 2 ** (attempt - 1)
            say(f"{stage.name}: {message.splitlines()[0]}; trying again in {pause:.0f} s")
            if place.cancel.wait(pause):
                return StageOutcome(stage.name, "skipped", spent, ran, "cancelled", log)
    finally:
        held.release()


def _restored_by_chance(stage: Stage, project: Path) -> bool:
    """The same of ``pipelines.lineage.trace``, while the DVC of another stage may write dvc.lock.

    DVC empties the file before it writes it: for a moment it is not whole.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        block = lock_blocks(_read(project / "dvc.lock")).get(stage.name, "")
        try:
            if whole(block, stage.outs):
                return restored_by_chance(stage.name, project)
        except UsageError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)


def _attempt(
    stage: Stage,
    held: Held,
    place: Place,
    options: Options,
    log: Path,
    progress: Callable[[str], None] | None,
    force: bool,
) -> Finished:
    mend(place.project)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    python = sys.executable if place.python is None else str(place.python.python)
    command = [python, "-m", "dvc", "--wait-for-lock", "repro", "-s", stage.name]
    if force:
        command.append("-f")
    if options.pull:
        command.append("--pull")
    env = {**held.env, MARK: str(place.project.resolve())}
    if place.python is not None:
        env["PATH"] = f"{place.python.path}{os.pathsep}{environment()['PATH']}"
    if stage.beside:
        env["LDEBM_BESIDE"] = ",".join(name.partition("@")[2] for name in stage.beside)
    if place.flow_run:
        env |= dict.fromkeys(FLOW_RUN, place.flow_run)
    return run(
        command,
        cwd=place.project,
        log=log,
        env=env,
        timeout=stage.limit(options.timeout),
        cancel=place.cancel,
        held=(*place.held, *held.fds),
        grace=options.grace,
        progress=progress,
    )


def mend(project: Path) -> None:
    """Removes DVC's file of path locks if a dvc that was killed has left half of it.

    Only under DVC's own lock, so that nobody is writing it.
    """
    path = project / ".dvc" / "tmp" / "rwlock"
    if _is_json(path) or (fd := lock_file(path.with_name("lock"))) is None:
        return
    try:
        if not _is_json(path):
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _ran(log: Path) -> bool:
    """Whether DVC started the command, by what it prints."""
    return RAN in _read(log)


def _reason(stage: Stage, done: Finished, place: Place, log: Path) -> tuple[str, bool]:
    """What went wrong, with the end of the log and how to run it by hand; whether to retry."""
    if done.ended_by == "cancelled":
        return "cancelled", False
    again = f"cd {place.project} && dvc repro -s {stage.name}"
    shown = "\n".join(f"    {line}" for line in done.tail)
    if done.ended_by == "timeout":
        what, retry, hint = f"took longer than {done.seconds:.0f} s", False, ""
    else:
        failure = explain(done.code, done.tail)
        what, retry, hint = failure.reason, failure.retry, failure.hint
    lines = [f"{what}{f': {hint}' if hint else ''}"]
    lines += [f"  last lines of {log}:", shown] if shown else []
    return "\n".join([*lines, f"  to run it again: {again}"]), retry


class Dispatcher:
    """Submits every stage whose inputs are ready, the longest way to the end first.

    Args:
        dag: the stages.
        project: the worktree, whose dvc.lock says whether an output has changed.
        slots: of this machine.
        keys: folder of the locks by which builds in other worktrees of the workspace, and stages of
            this one, wait while one does the same work; then a cache or a checkpoint has it.
        needs: by stage; default one CPU slot.
        seconds: what stages took before, by name.
        keep_going: after a failure go on with what does not need it.
        alike: by stage what its training has in common with others: where there are more of them
            than slots, those that start train the rest beside their own.
        known: outcomes of stages that are not to run here.
    """

    def __init__(
        self,
        dag: Dag,
        project: Path,
        slots: Slots,
        keys: Path,
        needs: Mapping[str, Need],
        seconds: Mapping[str, float],
        keep_going: bool = True,
        alike: Mapping[str, str] | None = None,
        known: Mapping[str, StageOutcome] | None = None,
    ) -> None:
        self.dag, self.project, self.slots, self.needs = dag, project, slots, needs
        self.keys, self.keep_going, self.alike = keys, keep_going, alike or {}
        self.rank = dag.depth(seconds)
        self.outcomes = {name: known[name] for name in dag.stages if known and name in known}
        self.changed: set[str] = set()
        self.waiting = dict.fromkeys(name for name in dag.stages if name not in self.outcomes)
        self.running: dict[str, Future[StageOutcome]] = {}
        self.beside: dict[str, str] = {}  # by stage, the one that trains it beside its own
        self._work: dict[str, str] = {}
        self._before = lock_blocks(_read(project / "dvc.lock"))

    @property
    def finished(self) -> bool:
        """Whether every stage has its outcome."""
        return len(self.outcomes) == len(self.dag.stages)

    def step(self, submit: Submit, stop: bool, landed: Landed = None) -> None:
        """Takes what has ended and submits what has become ready and fits into the slots.

        Args:
            submit: starts a stage in its slots and gives its future.
            stop: nothing new starts.
            landed: called with each outcome as it comes.
        """
        for name in [name for name, future in self.running.items() if future.done()]:
            self._finish(self._result(name, self.running.pop(name)), landed)
        failed = any(outcome.status == "failed" for outcome in self.outcomes.values())
        stop = stop or (failed and not self.keep_going)
        for name in self._settled(stop):
            del self.waiting[name]
            if landed is not None:
                landed(self.outcomes[name])
        started: dict[str, Held] = {}
        ready, elsewhere = [] if stop else self._ready(), set()
        for name in ready:
            work = self._claim(name)
            if work is None:
                elsewhere.add(name)
                continue  # another build or stage is doing it
            held = self.slots.take(self.needs.get(name, Need()))
            if held is None:
                os.close(work)
                break  # a wide stage is not overtaken by narrow ones for ever
            held.fds = (*held.fds, work)
            del self.waiting[name]
            started[name] = held
        left = [name for name in ready if name not in elsewhere and name in self.waiting]
        beside = self._beside(list(started), left)
        for name, held in started.items():
            stage = replace(self.dag.stages[name], beside=tuple(beside[name]))
            self.running[name] = submit(stage, held)

    def _beside(self, started: Sequence[str], left: Sequence[str]) -> dict[str, list[str]]:
        """Shares the stages that found no slot out among those that started and are alike."""
        beside: dict[str, list[str]] = {name: [] for name in started}
        for name in left:
            key = None if name in self.beside else self.alike.get(name)  # once is enough
            leaders = [
                x for x in started if key and self.alike.get(x) == key and x not in self.beside
            ]
            if leaders:
                leader = min(leaders, key=lambda name: len(beside[name]))
                beside[leader].append(name)
                self.beside[name] = leader
        return beside

    def drain(self) -> None:
        """Waits for the stages that run, which were told to stop; then all have an outcome."""
        for name, future in self.running.items():
            self._finish(self._result(name, future), None)
        self.running.clear()
        for name in self._settled(stop=True):
            del self.waiting[name]

    def _claim(self, name: str) -> int | None:
        """The open lock file of a stage's work, if no build and no twin does the same now."""
        if name not in self._work:
            lock = lock_blocks(_read(self.project / "dvc.lock"))
            self._work[name] = work_key(self.dag.stages[name], self.project, lock)
        return lock_file(self.keys / f"{self._work[name]}.lock")

    def _result(self, name: str, future: Future[StageOutcome]) -> StageOutcome:
        try:
            return future.result()
        except LdebmError as error:
            return StageOutcome(name, "failed", message=str(error))
        except Exception as error:  # of the flow engine: the others go on
            return StageOutcome(name, "failed", message=f"{type(error).__name__}: {error}")

    def _finish(self, outcome: StageOutcome, landed: Landed) -> None:
        self.outcomes[outcome.name] = outcome
        if outcome.status in ("built", "cached"):
            now = lock_blocks(_read(self.project / "dvc.lock")).get(outcome.name, "")
            before = self._before.get(outcome.name, "")
            if not before or read_outs(now) != read_outs(before):
                self.changed.add(outcome.name)
        if landed is not None:
            landed(outcome)

    def _settled(self, stop: bool) -> list[str]:
        """Stages that need no process: up to date, or needing something that failed."""
        settled = []
        for name in self.waiting:
            stage = self.dag.stages[name]
            parents = [self.outcomes.get(parent) for parent in stage.parents]
            lost = next((p for p in parents if p and p.status in ("failed", "skipped")), None)
            if lost is not None:
                self.outcomes[name] = StageOutcome(name, "skipped", message=f"needs {lost.name}")
            elif stop:
                self.outcomes[name] = StageOutcome(name, "skipped", message="the build was ended")
            elif all(parents) and not stage.changes and not self.changed & set(stage.parents):
                self.outcomes[name] = StageOutcome(name, "cached")
            else:
                continue
            settled.append(name)
        return settled

    def _ready(self) -> Sequence[str]:
        ready = [
            name
            for name in self.waiting
            if all(parent in self.outcomes for parent in self.dag.stages[name].parents)
            and self.beside.get(name) not in self.running
        ]
        return sorted(ready, key=lambda name: -self.rank[name])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
