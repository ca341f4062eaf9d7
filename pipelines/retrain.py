"""Retraining: what changed, a challenger, its comparison with the champion, promotion or refusal.

The challenger is HEAD as committed, with the declared seeds, built in a worktree of its own; the
workspace stays as it is. What was built becomes the branch ``challenger/<time>``, whose commit the
registry names if the verdict is to promote. A refusal is a result, not an error; the flow fails
only where a stage failed for a reason other than the data, or where data cannot be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldebm.config import RetrainConfig, load_params
from ldebm.errors import UsageError
from pipelines import parts
from pipelines.build import build
from pipelines.champion import Verdict
from pipelines.changes import Finding, find_changes
from pipelines.crews import crew_of
from pipelines.engine import Engine, current
from pipelines.evidence import (
    Retraining,
    commit_build,
    handled,
    keep,
    markdown,
    new_folder,
    save,
)
from pipelines.fanout import Crew, fan_out
from pipelines.judging import failures, judge
from pipelines.library import Library
from pipelines.parts import committed, seed_parts
from pipelines.point import Built
from pipelines.promotion import Promotion, artifact_path, declare_artifact, promote
from pipelines.slots import Slots
from pipelines.types import Selection, StageOutcome
from pipelines.worktree import Workspace

__all__ = ["retrain"]

RETRIES = 2  # of a stage, on infrastructure errors only


@dataclass(frozen=True)
class Plan:
    """What is retrained: experiments with their data sets, and seeds."""

    experiments: dict[str, str]
    seeds: tuple[int, ...]
    config: RetrainConfig

    @property
    def datasets(self) -> list[str]:
        """Each data set once."""
        return list(dict.fromkeys(self.experiments.values()))


def plan(root: Path, experiments: Sequence[str], seeds: Sequence[int]) -> Plan:
    """What to retrain: the given experiments and seeds, else those that ``retrain:`` declares.

    Raises:
        UsageError: an experiment that neither params.yaml nor conf/ has.
    """
    params, library = load_params(root / "params.yaml"), Library(root)
    wanted = experiments or params.retrain.experiments or params.run.experiments
    data = {
        name: (params.experiments.get(name) or library.experiment(name)).data
        for name in library.expand(wanted, list(params.experiments))
    }
    return Plan(data, tuple(seeds or params.retrain.seeds), params.retrain)


def retrain(
    experiments: list[str] | None = None,
    seeds: list[int] | None = None,
    only_on_change: bool = False,
    push: bool = False,
    pool: str | None = None,
    slurm: bool = False,
) -> Retraining:
    """Builds challengers and promotes those that are better than their champion.

    Args:
        experiments: experiments or groups; none: those of ``retrain:``.
        seeds: none: those of ``retrain:``.
        only_on_change: leave experiments out whose data did not change; with none left, nothing is
            built, and the run says so.
        push: give what was built to the DVC remote. Tags and the branch go with
            ``git push --tags origin``, which is left to the operator.
        pool: a work pool of Prefect, whose workers build the seeds; outputs then go through the
            DVC remote, and come here to be judged.
        slurm: jobs of Slurm build the seeds, in this folder.
    """
    root, engine = Path.cwd(), current()
    wanted = plan(root, experiments or [], seeds or [])
    findings = find_changes(root, wanted.datasets, handled=handled(root))
    for item in findings:
        engine.say(f"{item.data}: {item.state}: {item.words}")
    states = {item.data: item.state for item in findings}
    allowed = {"changed"} if only_on_change else {"changed", "same"}
    chosen = {name: data for name, data in wanted.experiments.items() if states[data] in allowed}
    blocked = [f"{item.data}: {item.words}" for item in findings if item.state == "problem"]
    started = Retraining(
        findings=tuple(findings), failures=tuple(blocked), flow_run=engine.flow_run
    )
    if not chosen:
        return _finish(None, started, engine)
    crew = crew_of(root, pool, slurm, RETRIES)
    return _challenge(root, replace(wanted, experiments=chosen), started, push, crew)


def _spread(
    root: Path, selection: Selection, crew: Crew, engine: Engine
) -> dict[str, StageOutcome]:
    """Has the seeds built by others, into the DVC remote; gives the stages that failed there."""
    workspace = Workspace(root)
    chosen = replace(selection, revision=committed(workspace, selection.revision, crew.remote))
    [item] = parts.plan([chosen], workspace, Slots(), RETRIES, crew.remote)
    known: dict[str, StageOutcome] = {}
    handed = seed_parts(item)
    for name, built in fan_out(handed, crew, engine).items():
        if isinstance(built, Built):
            stages = built.report.having("failed")
        else:
            own = next(part.builds for part in handed if part.name == name)
            stages = [StageOutcome(own[0], "failed", message=built)]
        known |= {stage.name: stage for stage in stages}
    return known


def _challenge(
    root: Path, wanted: Plan, started: Retraining, push: bool, crew: Crew | None
) -> Retraining:
    """Builds, judges, commits and promotes."""
    engine = current()
    overrides = [o for item in started.findings for o in item.overrides if _uses(wanted, item)]
    selection = Selection(
        revision="HEAD",
        experiments=tuple(wanted.experiments),
        seeds=wanted.seeds,
        overrides=tuple(overrides),
    )
    known = {} if crew is None else _spread(root, selection, crew, engine)
    pull = crew is not None and crew.remote
    report = build(selection, root=root, pull=pull, push=push, known=known)
    folder = new_folder(root)
    keep(folder, report.worktree, wanted.datasets)
    verdicts = [
        judge(root, report, name, wanted.seeds, wanted.config) for name in wanted.experiments
    ]
    _declare(report.worktree, wanted)
    failed = failures(report, list(wanted.experiments))
    changed = [item for item in started.findings if item.state == "changed"]
    result = replace(
        started,
        name=folder.name,
        verdicts=tuple(verdicts),
        failures=(*started.failures, *failed),
        branch=f"challenger/{folder.name}",
        dealt=() if failed else tuple(item.fingerprint for item in changed),
    )
    message = f"Retraining {folder.name}: {result.summary}"
    commit = commit_build(root, report.worktree, f"challenger/{folder.name}", message)
    promotions, final = _promote(root, commit, wanted, verdicts)
    result = replace(result, verdicts=tuple(final), promotions=tuple(promotions), commit=commit)
    return _finish(folder, result, engine)


def _declare(worktree: Path, wanted: Plan) -> None:
    """Enters all that was built under `artifacts:`: a person may promote what was refused."""
    params = load_params(worktree / "params.yaml")
    for name in wanted.experiments:
        if (worktree / artifact_path(name, wanted.seeds[0])).is_file():
            declare_artifact(worktree, name, wanted.seeds, params.experiment(name).description)


def _uses(wanted: Plan, finding: Finding) -> bool:
    return finding.data in wanted.experiments.values()


def _promote(
    root: Path, commit: str, wanted: Plan, verdicts: Sequence[Verdict]
) -> tuple[list[Promotion], list[Verdict]]:
    """Registers the winners; where the registry refuses, the verdict says so."""
    promotions: list[Promotion] = []
    final: list[Verdict] = []
    for verdict in verdicts:
        if verdict.promote:
            try:
                stages, message = wanted.config.stages, verdict.reasons[0]
                name = verdict.experiment
                promotions.append(promote(root, name, commit, stages=stages, message=message))
            except UsageError as error:
                reasons = (f"better, but not registered: {error}", *verdict.reasons)
                verdict = replace(verdict, decision="refuse", reasons=reasons)
        final.append(verdict)
    return promotions, final


def _finish(folder: Path | None, result: Retraining, engine: Engine) -> Retraining:
    """Saves the record and shows it."""
    page = markdown(result, None) if folder is None else save(folder, result)
    engine.publish("retrain-verdict", page, result.summary)
    if folder is not None:
        engine.say(f"verdict: {folder / 'verdict.md'}")
        site = folder / "site" / "index.html"
        if site.is_file():
            engine.link("retrain-report", site, "The report site of the challenger")
    return result
