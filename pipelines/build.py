"""The ``build`` flow: any selection, one coarse task per stage, results where they are wanted.

Works on a machine of its own (Prefect starts a local server for the run) and under a worker. The
same bytes as ``dvc repro`` come out, in dvc.lock too; only faster where stages do not need each
other.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run as this_run
from prefect.task_runners import ThreadPoolTaskRunner

from ldebm.errors import LdebmError
from pipelines.artifacts import ProgressBar, publish_report
from pipelines.building import Job, opened, run_jobs
from pipelines.dag import Stage
from pipelines.dispatch import Options, Submit, run_stage
from pipelines.failures import dvc_said
from pipelines.reporting import report_lines
from pipelines.runner import end_with_parent
from pipelines.slots import Held, Slots, shares
from pipelines.types import BuildReport, Selection, StageOutcome
from pipelines.worktree import Workspace

__all__ = ["BuildFailed", "StageFailed", "build", "dispatch", "say"]


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


class StageFailed(LdebmError):
    """One stage failed; shows its task as failed."""


@flow(
    name="build",
    task_runner=ThreadPoolTaskRunner(max_workers=256),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=True,
)
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

    Returns:
        What became of every stage. A failed stage does not raise.

    Raises:
        UsageError: the selection or the project is wrong; one line.
        Busy: the same is being built already.
        BuildFailed: a stage failed and ``must_succeed``.
    """
    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        end_with_parent()  # the worker, whose death would leave this run without anybody
    options = Options(
        retries=retries,
        delay=retry_seconds,
        timeout=stage_timeout,
        keep_going=keep_going,
        pull=pull,
    )
    slots = Slots(cpu_slots)
    run_id = this_run.get_id()
    with opened(
        selection or Selection(), root, slots=slots, options=options, flow_run=run_id
    ) as job:
        say(job.estimate.line())
        stages = dispatch(job)
        report = job.report(stages)
    if push:
        _push(job.workspace, report)
    publish_report(report)
    for line in report_lines(report):
        say(line)
    if must_succeed and not report.ok:
        raise BuildFailed(report)
    return report


def dispatch(job: Job, key: str = "build", prefix: str = "") -> list[StageOutcome]:
    """Runs the stale stages of a job as tasks of the current flow run.

    Args:
        job: prepared, its place held.
        key: of the progress artifact.
        prefix: in front of the names of the tasks.
    """
    if not job.stale:
        return [StageOutcome(name, "cached") for name in job.dag.stages]
    say(f"{shares({name: job.needs[name] for name in job.stale}, job.slots)}; {job.place.project}")
    bar = ProgressBar(f"{key}-progress", job.estimate.seconds)

    def landed(outcome: StageOutcome) -> None:
        bar.finished(outcome)
        if outcome.attempts or outcome.status in ("failed", "skipped"):
            first = outcome.message.partition("\n")[0]
            say(f"{prefix}{outcome.name}: {outcome.status}{f' ({first})' if first else ''}")

    dispatcher = job.start()
    try:
        run_jobs({dispatcher: (job, as_tasks(job, bar, prefix), landed)}, bar.update)
    finally:
        bar.update(force=True)
    return [dispatcher.outcomes[name] for name in job.dag.stages]


def as_tasks(job: Job, bar: ProgressBar, prefix: str = "") -> Submit:
    """Submits stages as Prefect tasks; in the task its failure shows, here it is an outcome."""
    held_by: dict[str, Held] = {}
    outcomes: dict[str, StageOutcome] = {}

    @task(
        name="stage",
        task_run_name=prefix + "{name}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=0,  # run_stage retries, and knows which failures deserve it
    )
    def stage_task(name: str) -> str:
        outcome = run_stage(
            job.dag.stages[name],
            held_by.pop(name),
            job.place,
            job.options,
            say,
            lambda line: bar.line(name, line),
        )
        outcomes[name] = outcome
        if outcome.status == "failed":
            raise StageFailed(f"{name}: {outcome.message}")
        return outcome.status

    def submit(stage: Stage, held: Held) -> Future[StageOutcome]:
        held_by[stage.name] = held
        answer: Future[StageOutcome] = Future()

        def finished(ended: Any) -> None:
            if stage.name in outcomes:
                answer.set_result(outcomes[stage.name])
                return
            rest = held_by.pop(stage.name, None)
            if rest is not None:
                rest.release()
            error = ended.exception() if not ended.cancelled() else None
            why = f"the task did not run: {error or 'cancelled'}"
            answer.set_result(StageOutcome(stage.name, "failed", message=why))

        future: Any = stage_task.submit(stage.name)
        future.wrapped_future.add_done_callback(finished)
        return answer

    return submit


def _push(workspace: Workspace, report: BuildReport) -> None:
    """Pushes what was built; from the workspace, whose settings name the remote."""
    names = [stage.name for stage in report.stages if stage.status in ("built", "cached")]
    done = workspace.dvc("push", "--run-cache", *names, cwd=report.worktree)
    if done.returncode:
        raise LdebmError(
            f"all is built, but the DVC remote did not take it: {dvc_said(done.stderr)}; "
            "try `dvc push --run-cache` when it is back"
        )


def say(text: str) -> None:
    """One line into the log of the flow run, or on stderr outside of one."""
    try:
        get_run_logger().info("%s", text)
    except Exception:  # outside a run, or in a thread that has lost it
        print(text, file=sys.stderr)


class _OneLine(logging.Filter):
    """Keeps tracebacks of errors that explain themselves out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, LdebmError)


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_OneLine())
