"""One build from selection to report, without Prefect: prepare a place, dispatch, bring home.

The flows in ``build`` and ``sweep`` say how a stage is submitted and where its progress goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError
from pipelines import signals
from pipelines.copies import mirror
from pipelines.dag import Dag, ask_dvc, environment, read_dag
from pipelines.dispatch import POLL, Dispatcher, Landed, Options, Place, Submit
from pipelines.estimate import Estimate, Kin, estimate, past_runs
from pipelines.lockfile import lock_blocks, whole
from pipelines.selection import Edits
from pipelines.slots import Need, Slots, need_of
from pipelines.types import BuildReport, Selection, StageOutcome
from pipelines.warm import warmed
from pipelines.worktree import State, Workspace

__all__ = ["Job", "opened", "planned", "read_params", "run_jobs", "select"]

LAST_SECONDS = 10.0  # for what is left to do after a signal, when all stages have ended
WORKSPACE = "workspace"  # name of the worktree of builds that land in the workspace
_read: dict[tuple[Path, str, Sequence[str]], Dag] = {}  # what `planned` read, for `opened` after it


@dataclass
class Job:
    """A build with its place prepared.

    Attributes:
        workspace: the user's project.
        selection: what was asked for.
        dag: the stages of the selection.
        stale: those that may have to run.
        estimate: their cost.
        slots: of the machine.
        needs: what each stage occupies.
        place: where they run; its project is the workspace itself when nothing is stale.
        state: what is built.
        options: how stages are run.
        lock_before: dvc.lock of that state.
        alike: of stages that can be trained together, what they have in common.
        known: outcomes of stages that are not to run here.
    """

    workspace: Workspace
    selection: Selection
    dag: Dag
    stale: list[str]
    estimate: Estimate
    slots: Slots
    needs: dict[str, Need]
    place: Place
    state: State
    options: Options
    lock_before: str = ""
    alike: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, StageOutcome] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def lands(self) -> bool:
        """Whether the result goes into the workspace."""
        return not self.selection.in_worktree

    def start(self, names: Collection[str] | None = None) -> Dispatcher:
        """A dispatcher of the stages, or of some with all that they need."""
        dag = self.dag if names is None else self.dag.part(names)
        known = {name: value or 0.0 for name, value in self.estimate.seconds.items()}
        return Dispatcher(
            dag,
            self.place.project,
            self.slots,
            self.workspace.runs / "work",
            self.needs,
            known,
            self.options.keep_going,
            self.alike,
            self.known,
        )

    def home(self, dispatcher: Dispatcher) -> None:
        """Brings home what was built: dvc.lock in its order, outputs where they are wanted."""
        outcomes = dispatcher.outcomes
        order = list(self.dag.stages)
        blocks = lock_blocks(_text(self.place.project / "dvc.lock"))
        good = {name for name in blocks.keys() & order if whole(blocks[name], self._outs(name))}
        done = [
            name
            for name in self.stale
            if name in good and name in outcomes and outcomes[name].status in ("built", "cached")
        ]
        if self.lands and done:
            self.workspace.land(self.place.project, order, done)
        elif not self.lands and len(good) == len(blocks.keys() & order):
            self.workspace.order_lock(self.place.project, self.lock_before, order)

    def _outs(self, name: str) -> Sequence[str]:
        return self.dag.stages[name].outs

    def settle(self, names: Collection[str]) -> None:
        """Takes note that stages are up to date now, though they were not."""
        stages = {
            name: replace(stage, changes=()) if name in names else stage
            for name, stage in self.dag.stages.items()
        }
        self.dag = Dag(stages)
        self.stale = self.dag.stale()

    def report(self, stages: Sequence[StageOutcome]) -> BuildReport:
        """What became of it."""
        where = self.workspace.root if self.lands else self.place.project
        return BuildReport(
            worktree=where,
            commit=self.state.commit,
            dirty=self.state.dirty or bool(self.selection.overrides),
            dvc_lock=where / "dvc.lock",
            stages=tuple(stages),
            seconds=time.monotonic() - self.started,
            flow_run=self.place.flow_run,
        )


def run_jobs(
    jobs: Mapping[Dispatcher, tuple[Job, Submit, Landed]],
    tick: Callable[[], None] | None = None,
) -> None:
    """Runs dispatchers side by side to their end, and brings home what was built, in any case.

    When it is interrupted (a signal, an error), the running stages are told to stop first, so that
    a training writes its checkpoint, and this waits for their end.
    """
    with warmed(
        [name for job, _, _ in jobs.values() for name in job.stale], environment()
    ) as python:
        for job, _, _ in jobs.values():
            job.place.python = python
        _run(jobs, tick)


def _run(
    jobs: Mapping[Dispatcher, tuple[Job, Submit, Landed]], tick: Callable[[], None] | None
) -> None:
    try:
        while not all(dispatcher.finished for dispatcher in jobs):
            signals.check()
            for dispatcher, (job, submit, landed) in jobs.items():
                dispatcher.step(submit, job.place.cancel.is_set(), landed)
            if tick is not None:
                tick()
            time.sleep(POLL)
    except BaseException:
        for job, _, _ in jobs.values():
            job.place.cancel.set()
        for dispatcher in jobs:
            dispatcher.drain()
        raise
    finally:
        for dispatcher, (job, _, _) in jobs.items():
            job.home(dispatcher)
        signals.leave_within(LAST_SECONDS)  # where it was a signal, and a server is waited for


def select(path: Path, selection: Selection, edits: Edits = "keep") -> None:
    """Composes a parameter file for experiments, seeds and length, then writes the overrides.

    Args:
        path: params.yaml, of the workspace or of a worktree.
        selection: what was asked for.
        edits: what becomes of values of the file that conf/ does not give: "keep" or "copy", as
            ``pipelines.selection.select_run`` has them.

    Raises:
        UsageError: an unknown experiment or parameter, or a value that is none.
    """
    from pipelines.selection import select_run

    if selection.experiments or selection.seeds or selection.epochs is not None:
        seeds = ",".join(str(seed) for seed in selection.seeds) or None
        epochs = None if selection.epochs is None else str(selection.epochs)
        select_run(path, list(selection.experiments), seeds, epochs, edits)
    if selection.overrides:
        try:
            ask_dvc(path.parent, "--set", *selection.overrides)
        except UsageError as error:
            _refuse_unknown_keys(path, selection.overrides)
            said = str(error).partition("this project: ")[2]
            text = ", ".join(selection.overrides)
            raise UsageError(f"override {text}: expected dotted.key=value; {said}") from None


def _refuse_unknown_keys(path: Path, overrides: Sequence[str]) -> None:
    """Names the nearest key where DVC only says that there is none.

    Raises:
        UsageError: a key that no experiment or data set can have.
    """
    from ldebm.config import Params, parse
    from ldebm.yaml_text import parse_yaml

    content = parse_yaml(path.read_text(encoding="utf-8"))
    if "experiments" not in content:
        return
    for key, _, value in (item.lstrip("+").partition("=") for item in overrides):
        node, *rest = content, *key.split(".")
        for part in rest[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node[rest[-1]] = value
    try:
        parse(Params, content, file=path.name)
    except UsageError as error:
        if "did you mean" in str(error):
            raise


def name_of(selection: Selection, state: State) -> str:
    """Name of the worktree: the same for the same build, so that it goes on where it was."""
    if not selection.in_worktree:
        return WORKSPACE
    facts = [state.tree, selection.experiments, selection.seeds, selection.epochs]
    text = json.dumps([*facts, selection.overrides], default=str)
    return f"{state.commit[:8]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def opened(
    selection: Selection,
    root: Path | Workspace = Path(),
    *,
    slots: Slots | None = None,
    options: Options | None = None,
    flow_run: str | None = None,
) -> Iterator[Job]:
    """Prepares a build and holds its place until the block ends.

    Raises:
        UsageError: the selection or the project is wrong.
        Busy: the same is being built already.
    """
    started = time.monotonic()
    workspace = root if isinstance(root, Workspace) else Workspace(root)
    slots = slots or Slots()
    options = options or Options()
    state = workspace.state(selection.revision) if selection.in_worktree else None
    name = WORKSPACE if state is None else name_of(selection, state)
    with workspace.locked(name) as fd:
        if state is None:
            select(workspace.root / "params.yaml", selection)
            params = read_params(workspace.root, strict=True)
            state = workspace.state()
            known = (workspace.root, state.tree, selection.targets)
            dag = _read.pop(known, None) or read_dag(workspace.root, selection.targets)
            project, lock_before = workspace.root, ""
            if dag.stale():
                project = workspace.checkout(name, state)
                lock_before = _text(project / "dvc.lock")
                _fill(workspace, project, dag)
        else:
            project = workspace.checkout(name, state)
            lock_before = _text(project / "dvc.lock")
            select(project / "params.yaml", selection, "copy")
            params = read_params(project, strict=selection.revision is None)
            workspace.bring(project, _user_files(project))
            workspace.dvc("checkout", "--force", "-q", cwd=project)
            dag = read_dag(project, selection.targets)
        needs = {item: need_of(item, params, slots.gpus) for item in dag.stages}
        stale = dag.stale()
        width = max(1, slots.cpu)
        logs = workspace.runs / "logs" / name
        yield Job(
            workspace=workspace,
            selection=selection,
            dag=dag,
            stale=stale,
            estimate=_estimate(dag, workspace.root, params, width),
            slots=slots,
            needs=needs,
            place=Place(project, logs, (fd,), flow_run),
            state=state,
            options=options,
            lock_before=lock_before,
            alike=_alike(stale, needs, params),
            started=started,
        )


def _alike(stale: Sequence[str], needs: Mapping[str, Need], params: Any) -> dict[str, str]:
    """What the priors have in common that can be trained together on this machine's cores."""
    from ldebm.config.alike import alike

    keys = {}
    for name in stale:
        experiment = name.removeprefix("prior@").rpartition("-")[0]
        if params is not None and experiment in params.experiments:
            key = alike(params.experiment(experiment))
            if key is not None and not needs[name].gpu:
                keys[name] = key
    return keys


def _fill(workspace: Workspace, project: Path, dag: Dag) -> None:
    """Puts what is up to date into a worktree: the stages that run read it."""
    workspace.bring(project, _user_files(project))
    fresh = [name for name, stage in dag.stages.items() if not stage.changes]
    if fresh:
        workspace.land(workspace.root, list(dag.stages), fresh, target=project)
    outs = {out for stage in dag.stages.values() for out in stage.outs}
    read = {dep for name in dag.stale() for dep in dag.stages[name].deps}
    for folder in sorted(read - outs):
        if any(out.startswith(f"{folder}/") for out in outs):
            mirror(workspace.root, project, folder, outs)


def planned(
    selection: Selection, root: Path = Path(), slots: int | None = None
) -> tuple[Dag, Estimate, State]:
    """What a build would do, without changing the workspace."""
    chosen = bool(selection.experiments or selection.seeds or selection.epochs is not None)
    if chosen or selection.in_worktree:
        with opened(replace(selection, isolated=True), root, slots=Slots(slots)) as job:
            return job.dag, job.estimate, job.state
    workspace = Workspace(root)
    read_params(workspace.root, strict=True)
    state = workspace.state()
    dag = read_dag(workspace.root, selection.targets)
    _read[workspace.root, state.tree, selection.targets] = dag
    params = read_params(workspace.root, strict=False) if dag.stale() else None
    return dag, _estimate(dag, workspace.root, params, Slots(slots).cpu), state


def _estimate(dag: Dag, root: Path, params: Any, width: int) -> Estimate:
    """What the stale stages cost; ``params``: of the project, or None."""
    stale = dag.stale()
    kin = {}
    if params is not None:
        kin = {
            name: Kin(str(getattr(item.backbone, "arch", "")), item.data)
            for name, item in params.experiments.items()
        }
    return estimate(dag, stale, past_runs(root) if stale else [], width, kin)


def read_params(project: Path, strict: bool) -> Any:
    """The typed parameters of a project; None if it is of another kind.

    Args:
        project: its folder.
        strict: parameters that this version does not know are an error, else None too.

    Raises:
        UsageError: params.yaml is wrong.
    """
    from ldebm.config import load_params
    from ldebm.yaml_text import parse_yaml

    path = project / "params.yaml"
    if not path.is_file():
        return None
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "experiments" not in content:
        return None
    try:
        return load_params(path, shown=path.name)
    except UsageError:
        if strict:
            raise
        return None  # a revision with other parameters than this version knows


def _user_files(project: Path) -> list[str]:
    """Data files of the user that params.yaml names."""
    params = read_params(project, strict=False)
    return [] if params is None else [data.path for data in params.data.values() if data.path]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
