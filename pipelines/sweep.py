"""The ``sweep`` flow: a grid of parameters over seeds, on all slots at once, as one table.

Every point of the grid is a worktree of its own with the shared cache; the seeds are in its DAG.
What all points have in common is built once, before the rest. With a pool each point is a run that
any of its workers takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ldebm.errors import UsageError
from ldebm.files import write_csv, write_json, write_text
from pipelines.build import BuildFailed, Watch, submitter
from pipelines.building import Job, opened, run_jobs
from pipelines.crews import crew_of
from pipelines.dag import ask_dvc, fingerprints
from pipelines.dispatch import Dispatcher, Options
from pipelines.engine import Engine, current
from pipelines.estimate import words
from pipelines.fanout import Crew, Part, fan_out
from pipelines.parts import Plan, committed, plan, sweep_parts
from pipelines.point import Built, metrics_of
from pipelines.slots import Slots
from pipelines.types import BuildReport, Selection, StageOutcome
from pipelines.worktree import Workspace

__all__ = ["Point", "SweepReport", "grid", "sweep"]

FOLDER = "sweeps"


@dataclass(frozen=True)
class Point:
    """One point of the grid.

    Attributes:
        overrides: its parameters, ``key=value``.
        report: its build; with all seeds.
        metrics: of its last stages, by stage: flat names to numbers.
        where: the machine and folder that built it; empty: this one.
    """

    overrides: tuple[str, ...]
    report: BuildReport
    metrics: Mapping[str, dict[str, float]]
    where: str = ""


@dataclass(frozen=True)
class SweepReport:
    """The result of a sweep.

    Attributes:
        points: in the order of the grid.
        folder: where table.csv, summary.csv, sweep.json and report.md are.
        seconds: the whole sweep.
    """

    points: tuple[Point, ...]
    folder: Path
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every stage of every point is built."""
        return all(point.report.ok for point in self.points)

    def rows(self) -> list[dict[str, Any]]:
        """One row for every point and stage that has metrics."""
        return [
            {**_columns(point.overrides), "stage": stage, **metrics}
            for point in self.points
            for stage, metrics in point.metrics.items()
        ]

    def summary(self) -> list[dict[str, Any]]:
        """One row for every point and experiment: mean and, over seeds, standard deviation."""
        rows = []
        for point in self.points:
            groups: dict[str, list[dict[str, float]]] = {}
            for stage, metrics in point.metrics.items():
                name, dash, seed = stage.rpartition("-")
                groups.setdefault(name if dash and seed.isdecimal() else stage, []).append(metrics)
            for name, runs in groups.items():
                row: dict[str, Any] = {**_columns(point.overrides), "stage": name}
                row["runs"] = len(runs)
                for key in dict.fromkeys(key for run in runs for key in run):
                    values = [run[key] for run in runs if key in run]
                    row[key] = mean(values)
                    if len(values) > 1:
                        row[f"{key} sd"] = stdev(values)
                rows.append(row)
        return rows


def grid(root: Path, axes: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of axes ``key=a,b,c``, the last one fastest.

    Raises:
        UsageError: an axis that is none.
    """
    for axis in axes:
        if "=" not in axis:
            raise UsageError(f"axis {axis!r}: expected dotted.key=a,b,c")
    try:
        points = ask_dvc(root, "--grid", *axes)["points"]
    except UsageError as error:
        said = str(error).partition("this project: ")[2]
        raise UsageError(f"axes {' '.join(axes)}: expected dotted.key=a,b,c; {said}") from None
    return [tuple(point) for point in points]


def sweep(
    axes: list[str],
    selection: Selection | None = None,
    root: Path = Path(),
    *,
    cpu_slots: int | None = None,
    retries: int = 2,
    pull: bool = False,
    out: Path | None = None,
    must_succeed: bool = False,
    pool: str | None = None,
    slurm: bool = False,
) -> SweepReport:
    """Builds every combination of parameter values and gathers the metrics.

    Args:
        axes: ``dotted.key=a,b,c``, as ``dvc exp run --queue -S`` takes them.
        selection: what each point builds: experiments, seeds, targets, revision, and overrides
            that all points share.
        root: the project's folder.
        cpu_slots: see :func:`pipelines.build.build`.
        retries: see :func:`pipelines.build.build`.
        pull: see :func:`pipelines.build.build`.
        out: folder for the tables; default ``sweeps/NAME``, the same name for the same sweep.
        must_succeed: raise for a failed stage.
        pool: a work pool of Prefect, whose workers build the points; outputs then go through the
            DVC remote.
        slurm: jobs of Slurm build the points, in this folder.

    Raises:
        UsageError: an axis, the selection, the project or the pool is wrong.
        Busy: a point is being built already.
        BuildFailed: a stage failed and ``must_succeed``.
    """
    root, started = root.resolve(), time.monotonic()
    base = selection or Selection()
    points = grid(root, axes)
    slots, options = Slots(cpu_slots), Options(retries=retries, pull=pull)
    crew = crew_of(root, pool, slurm, retries)
    if crew is None:
        measured = _here(points, base, Workspace(root), slots, options)
    else:
        measured = _spread(points, base, Workspace(root), slots, options, crew)
    folder = (out or root / FOLDER / _name(axes, base)).resolve()
    result = SweepReport(measured, folder, time.monotonic() - started)
    _write(result, axes, current())
    if must_succeed and not result.ok:
        raise BuildFailed(next(point.report for point in measured if not point.report.ok))
    return result


def _here(
    points: Sequence[tuple[str, ...]],
    base: Selection,
    workspace: Workspace,
    slots: Slots,
    options: Options,
) -> tuple[Point, ...]:
    """Builds the points on this machine, side by side."""
    engine = current()
    with contextlib.ExitStack() as stack:
        workers = ThreadPoolExecutor(min(len(points), slots.cpu))
        stack.enter_context(workers)

        def prepare(overrides: tuple[str, ...]) -> contextlib.AbstractContextManager[Job]:
            chosen = replace(base, overrides=(*base.overrides, *overrides), isolated=True)
            place = opened(
                chosen, workspace, slots=slots, options=options, flow_run=engine.flow_run
            )
            return _Entered(place)

        jobs = [stack.enter_context(place) for place in workers.map(prepare, points)]
        engine.say(f"{len(points)} points, {slots.cpu} CPU slots")
        before = _shared(jobs, workers, engine)
        outcomes = _run(jobs, engine)
        reports = [job.report(stages) for job, stages in zip(jobs, outcomes, strict=True)]
        built = [
            _with_first(report, before) if number == 0 else report
            for number, report in enumerate(reports)
        ]
        return tuple(
            Point(overrides, report, metrics_of(job.dag, job.place.project))
            for overrides, report, job in zip(points, built, jobs, strict=True)
        )


def _spread(
    points: Sequence[tuple[str, ...]],
    base: Selection,
    workspace: Workspace,
    slots: Slots,
    options: Options,
    crew: Crew,
) -> tuple[Point, ...]:
    """Has the points built by others, and gathers what became of them."""
    engine = current()
    commit = committed(workspace, base.revision, crew.remote)
    chosen = [
        replace(base, revision=commit, overrides=(*base.overrides, *overrides), isolated=True)
        for overrides in points
    ]
    plans = plan(chosen, workspace, slots, options.retries, crew.remote)
    parts = sweep_parts(plans)
    engine.say(f"{len(points)} points of commit {commit[:10]}: {len(parts)} runs")
    ended = fan_out(parts, crew, engine)
    return tuple(
        _gathered(overrides, item, f"point {number}", parts, ended)
        for number, (overrides, item) in enumerate(zip(points, plans, strict=True))
    )


def _gathered(
    overrides: tuple[str, ...],
    item: Plan,
    name: str,
    parts: Sequence[Part],
    ended: Mapping[str, Built | str],
) -> Point:
    """A point from the run that built it; stages that another run built for all stand there."""
    built = ended.get(name)
    if isinstance(built, Built):
        before = {
            stage.name: stage
            for part in parts
            if part.name != name and part.selection.overrides == item.selection.overrides
            if isinstance(other := ended[part.name], Built)
            for stage in other.report.stages
        }
        return Point(overrides, _with_first(built.report, before), built.metrics, built.where)
    stages = [StageOutcome(stage, "cached") for stage in item.dag.stages]
    if built is not None:
        stages = [
            StageOutcome(stage, "failed" if stage in item.left[:1] else "skipped", message=built)
            for stage in item.dag.stages
        ]
    lock = item.project / "dvc.lock"
    commit = str(item.selection.revision)
    report = BuildReport(item.project, commit, bool(overrides), lock, tuple(stages))
    return Point(overrides, report, {} if built else metrics_of(item.dag, item.project))


class _Entered(contextlib.AbstractContextManager[Job]):
    """A job that was opened in a thread of its own, to be closed by an exit stack."""

    def __init__(self, place: contextlib.AbstractContextManager[Job]) -> None:
        self.place, self.job = place, place.__enter__()

    def __enter__(self) -> Job:
        return self.job

    def __exit__(self, *error: Any) -> None:
        self.place.__exit__(*error)


def _shared(
    jobs: Sequence[Job], workers: ThreadPoolExecutor, engine: Engine
) -> dict[str, StageOutcome]:
    """Builds what all points have in common in the first one, and hands it to the others."""
    first = jobs[0]
    if len(jobs) == 1:
        return {}
    marks = [fingerprints(job.dag, job.place.project) for job in jobs]
    common = [
        name for name, mark in marks[0].items() if all(other.get(name) == mark for other in marks)
    ]
    stale = [name for name in common if name in first.stale]
    if not stale:
        return {}
    engine.say(f"{len(common)} stages are the same in all points: built once")
    dispatcher = first.start(common)
    _together({dispatcher: first}, "shared", engine)
    done = [
        name
        for name in common
        if name in dispatcher.outcomes and dispatcher.outcomes[name].status in ("built", "cached")
    ]

    def hand(job: Job) -> None:
        order = list(job.dag.stages)
        job.workspace.land(first.place.project, order, done, job.place.project)

    list(workers.map(hand, jobs[1:]))
    for job in jobs:
        job.settle(done)
    return dispatcher.outcomes


def _run(jobs: Sequence[Job], engine: Engine) -> list[list[StageOutcome]]:
    dispatchers = {job.start(): job for job in jobs}
    _together(dispatchers, "points", engine)
    return [
        [dispatcher.outcomes[name] for name in job.dag.stages]
        for dispatcher, job in dispatchers.items()
    ]


def _together(dispatchers: dict[Dispatcher, Job], key: str, engine: Engine) -> None:
    """Runs dispatchers side by side under one progress artifact."""
    prefixes = {job.place.project.name: f"{n}: " for n, job in enumerate(dispatchers.values())}
    weights = {
        f"{prefixes[job.place.project.name]}{name}": job.estimate.seconds.get(name)
        for dispatcher, job in dispatchers.items()
        for name in dispatcher.dag.stages
        if name in job.stale
    }
    watch = Watch(engine, engine.bar(f"sweep-{key}", weights), len(weights))
    work = {
        dispatcher: (job, *submitter(job, watch, prefixes[job.place.project.name]))
        for dispatcher, job in dispatchers.items()
    }
    try:
        run_jobs(work, watch.tick)
    finally:
        watch.bar.update(force=True)


def _with_first(report: BuildReport, before: dict[str, StageOutcome]) -> BuildReport:
    """The first point's report with the stages that it built for all."""
    stages = tuple(
        before[stage.name]
        if stage.status == "cached" and not stage.attempts and stage.name in before
        else stage
        for stage in report.stages
    )
    return replace(report, stages=stages)


def _columns(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (item.partition("=") for item in overrides)}


def _name(axes: Sequence[str], base: Selection) -> str:
    text = json.dumps([list(axes), asdict(base)], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _write(result: SweepReport, axes: Sequence[str], engine: Engine) -> None:
    """Writes the tables and shows them."""
    rows, summary = result.rows(), result.summary()
    result.folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("table.csv", rows), ("summary.csv", summary)):
        header = list(dict.fromkeys(key for row in table for key in row))
        write_csv(result.folder / name, header, [[row.get(k, "") for k in header] for row in table])
    points = [
        {
            "overrides": list(point.overrides),
            "metrics": point.metrics,
            "report": point.report.to_json(),
            "where": point.where,
        }
        for point in result.points
    ]
    content = {"axes": list(axes), "points": points, "summary": summary, "ok": result.ok}
    write_json(result.folder / "sweep.json", content)
    page = _page(result, axes, summary)
    write_text(result.folder / "report.md", page)
    engine.publish("sweep-report", page, "Sweep", summary)
    engine.say(f"{result.folder}: table.csv, summary.csv, sweep.json, report.md")


def _page(result: SweepReport, axes: Sequence[str], summary: Sequence[dict[str, Any]]) -> str:
    lines = ["# Sweep", "", *(f"- `{axis}`" for axis in axes), ""]
    lines.append(f"{len(result.points)} points in {words(result.seconds)}.")
    for number, point in enumerate(result.points):
        for stage in point.report.having("failed"):
            first = stage.message.partition("\n")[0]
            text = f"Point {number} (`{' '.join(point.overrides)}`): {stage.name} failed: {first}"
            lines += ["", text]
    header = list(dict.fromkeys(key for row in summary for key in row))
    if header:
        lines += ["", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
        for row in summary:
            cells = [row.get(key, "") for key in header]
            shown = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
            lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
