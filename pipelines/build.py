"""A build of any selection, stage by stage, with results where they are wanted.

The same bytes as ``dvc repro`` come out, in dvc.lock too; only faster where stages do not need each
other. It runs in this process, or as a flow of Prefect (:mod:`pipelines.flows`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from ldebm.errors import LdebmError, UsageError
from pipelines.build_report import report_lines, report_page, stage_rows
from pipelines.building import Job, opened, run_jobs
from pipelines.dag import Stage, ask_dvc
from pipelines.dispatch import Landed, Options, Submit, run_stage
from pipelines.engine import Bar, Engine, current
from pipelines.estimate import words
from pipelines.names import newest
from pipelines.slots import Held, Slots, shares
from pipelines.types import BuildReport, Selection, StageOutcome

__all__ = ["BuildFailed", "Watch", "build", "dispatch", "push_built", "push_stages", "submitter"]

SIGN_SECONDS = 30.0  # between two lines of a stage that runs


class BuildFailed(LdebmError):
    """A stage failed. The message ends with its log.

    Attributes:
        report: the whole build.
    """

    def __init__(self, report: BuildReport) -> None:
        failed = report.having("failed")
        first = failed[0].message if failed else "ended before its end"
        names = ", ".join(stage.name for stage in failed) or "the build"
        super().__init__(f"{names}: {first}")
        self.report = report


def build(
    selection: Selection | None = None,
    root: Path = Path(),
    *,
    cpu_slots: int | None = None,
    retries: int = 2,
    retry_seconds: float = 5.0,
    stage_timeout: float | None = None,
    keep_going: bool = True,
    pull: bool = False,
    push: bool = False,
    must_succeed: bool = False,
    known: Mapping[str, StageOutcome] | None = None,
) -> BuildReport:
    """Builds a selection of the DAG.

    Args:
        selection: what; default: what params.yaml of the workspace selects.
        root: the project's folder.
        cpu_slots: stages that compute at the same time; default: the cores, see
            :class:`pipelines.slots.Slots`.
        retries: attempts after the first, on infrastructure errors only.
        retry_seconds: pause before the second attempt, doubled each time.
        stage_timeout: seconds that a stage may take.
        keep_going: after a failure run what does not need the failed stage.
        pull: take outputs that others built from the DVC remote.
        push: give what was built to the DVC remote.
        must_succeed: raise for a failed stage, so that the run shows as failed (deployments).
        known: outcomes of stages that are not to run here: those that failed elsewhere.

    Returns:
        What became of every stage. A failed stage does not raise.

    Raises:
        UsageError: the selection or the project is wrong; one line.
        Busy: the same is being built already.
        BuildFailed: a stage failed and ``must_succeed``.
    """
    options = Options(
        retries=retries,
        delay=retry_seconds,
        timeout=stage_timeout,
        keep_going=keep_going,
        pull=pull,
    )
    slots = Slots(cpu_slots)
    engine = current()
    with opened(
        selection or Selection(), root, slots=slots, options=options, flow_run=engine.flow_run
    ) as job:
        engine.say(job.estimate.line())
        job.known = known or {}
        stages = dispatch(job, engine)
        report = job.report(stages)
    if push:
        push_built(report)
    engine.publish("build-report", report_page(report), "Build", stage_rows(report.stages))
    if engine.flow_run:
        for line in report_lines(report):
            engine.say(line)
    if must_succeed and not report.ok:
        raise BuildFailed(report)
    return report


class Watch:
    """Says what becomes of the stages: a line at the end of each, and a sign of life now and then.

    Args:
        engine: takes the lines.
        bar: shows the same as a bar.
        total: stages that may run.
        every: seconds between two lines of a stage that runs.
    """

    def __init__(self, engine: Engine, bar: Bar, total: int, every: float = SIGN_SECONDS) -> None:
        self.engine, self.bar, self.total, self.every = engine, bar, total, every
        self.ended = 0
        self.running: dict[str, tuple[float, float]] = {}  # start, and last line
        self.lines: dict[str, str] = {}

    def started(self, name: str) -> None:
        """A stage starts."""
        now = time.monotonic()
        self.running[name] = (now, now)
        self.bar.started(name)

    def line(self, name: str, text: str) -> None:
        """The newest line of a stage's log, unless it is DVC's about the command."""
        if text.startswith(("> ", "Running stage")):
            return
        self.lines[name] = text
        self.bar.line(name, text)

    def landed(self, name: str, outcome: StageOutcome) -> None:
        """A stage has its outcome."""
        ran = self.running.pop(name, None) is not None
        self.lines.pop(name, None)
        self.bar.finished(name)
        self.ended += ran
        if outcome.attempts or outcome.status in ("failed", "skipped"):
            first = outcome.message.partition("\n")[0]
            took = f" in {words(outcome.seconds)}" if outcome.status == "built" else ""
            count = f"{self.ended}/{self.total} " if ran else ""
            self.engine.say(
                f"{count}{name}: {outcome.status}{took}{f' ({first})' if first else ''}"
            )

    def tick(self) -> None:
        """Says how far the stages are that have not been heard of for a while."""
        now = time.monotonic()
        for name, (start, last) in self.running.copy().items():
            if now - last >= self.every and not self.bar.shows_lines:
                self.running[name] = (start, now)
                line = newest(name, self.lines.get(name, ""))
                text = f"{name}: {words(now - start)}"
                self.engine.say(f"{text}: {line}" if line else f"{text}, still running")
        self.bar.update()


def dispatch(job: Job, engine: Engine) -> list[StageOutcome]:
    """Runs the stale stages of a job."""
    if not job.stale:
        return [StageOutcome(name, "cached") for name in job.dag.stages]
    needs = {name: job.needs[name] for name in job.stale}
    engine.say(f"{shares(needs, job.slots)}; {job.place.project}")
    watch = Watch(engine, engine.bar("build-progress", job.estimate.seconds), len(job.stale))
    dispatcher = job.start()
    try:
        run_jobs({dispatcher: (job, *submitter(job, watch))}, watch.tick)
    finally:
        watch.bar.update(force=True)
    return [dispatcher.outcomes[name] for name in job.dag.stages]


def submitter(job: Job, watch: Watch, prefix: str = "") -> tuple[Submit, Landed]:
    """How a job's stages are started, and who takes their outcomes.

    Args:
        job: prepared, its place held.
        watch: follows them.
        prefix: in front of their names.
    """
    engine = watch.engine

    def submit(stage: Stage, held: Held) -> Future[StageOutcome]:
        name = f"{prefix}{stage.name}"

        def work() -> StageOutcome:
            outcome = run_stage(
                stage, held, job.place, job.options, engine.say, lambda line: watch.line(name, line)
            )
            if job.options.push and outcome.status == "built":
                try:
                    push_stages(job.place.project, [stage.name])
                except LdebmError as error:  # at the end all are pushed once more
                    engine.say(f"{name} is not pushed yet: {error}")
            return outcome

        watch.started(name)
        future = engine.start(name, work, _fault)
        future.add_done_callback(lambda _: held.release())  # of a step that never began
        return future

    def landed(outcome: StageOutcome) -> None:
        watch.landed(f"{prefix}{outcome.name}", outcome)

    return submit, landed


def _fault(outcome: StageOutcome) -> str:
    return outcome.message if outcome.status == "failed" else ""


def push_built(report: BuildReport) -> None:
    """Pushes what was built.

    Raises:
        LdebmError: the DVC remote did not take it.
    """
    names = [stage.name for stage in report.stages if stage.status in ("built", "cached")]
    try:
        push_stages(report.worktree, names)
    except LdebmError as error:
        raise LdebmError(
            f"all is built, but {error}; try `dvc push --run-cache` when it is back"
        ) from None


def push_stages(project: Path, names: Sequence[str]) -> None:
    """Gives outputs of stages and the run cache to the DVC remote.

    Args:
        project: where they are built: the user's project, or a worktree of it.
        names: the stages; none: nothing is done.

    Raises:
        LdebmError: the remote did not take them.
    """
    if not names:
        return
    try:
        ask_dvc(project, "--push", *names)
    except UsageError as error:
        said = str(error).partition("this project: ")[2]
        raise LdebmError(f"the DVC remote did not take it: {said}") from None
