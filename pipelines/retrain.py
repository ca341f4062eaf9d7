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
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from ldebm.config import RetrainConfig, load_params
from ldebm.config.library import Library
from ldebm.errors import UsageError
from pipelines.build import build
from pipelines.champion import Verdict
from pipelines.changes import Finding, find_changes
from pipelines.evidence import (
    Retraining,
    commit_build,
    handled,
    keep,
    markdown,
    new_folder,
    save,
)
from pipelines.judging import failures, judge
from pipelines.promotion import Promotion, artifact_path, declare_artifact, promote
from pipelines.types import Selection

__all__ = ["retrain"]


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
    found = {
        name: (params.experiments.get(name) or library.experiment(name)).data
        for name in library.expand(wanted, list(params.experiments))
    }
    return Plan(found, tuple(seeds or params.retrain.seeds), params.retrain)


@task(name="look for changed data", cache_policy=NO_CACHE, persist_result=False)
def look(root: Path, datasets: list[str]) -> list[Finding]:
    """What differs between the sources and dvc.lock, apart from what was retrained on already."""
    findings = find_changes(root, datasets, handled=handled(root))
    for item in findings:
        get_run_logger().info("%s: %s: %s", item.data, item.state, item.words)
    return findings


@flow(name="retrain", persist_result=False, validate_parameters=True)
def retrain(
    experiments: list[str] | None = None,
    seeds: list[int] | None = None,
    only_on_change: bool = False,
    push: bool = False,
) -> State[Any]:
    """Builds challengers and promotes those that are better than their champion.

    Args:
        experiments: experiments or groups; none: those of ``retrain:``.
        seeds: none: those of ``retrain:``.
        only_on_change: leave experiments out whose data did not change; with none left, nothing is
            built, and the run says so.
        push: give what was built to the DVC remote. Tags and the branch go with
            ``git push --tags origin``, which is left to the operator.
    """
    root = Path.cwd()
    wanted = plan(root, experiments or [], seeds or [])
    findings = look(root, wanted.datasets)
    states = {item.data: item.state for item in findings}
    allowed = {"changed"} if only_on_change else {"changed", "same"}
    chosen = {name: data for name, data in wanted.experiments.items() if states[data] in allowed}
    blocked = [f"{item.data}: {item.words}" for item in findings if item.state == "problem"]
    started = Retraining(
        findings=tuple(findings), failures=tuple(blocked), flow_run=flow_run.get_id()
    )
    if not chosen:
        return _finish(None, started)
    return _challenge(root, replace(wanted, experiments=chosen), started, push)


def _challenge(root: Path, wanted: Plan, started: Retraining, push: bool) -> State[Any]:
    """Builds, judges, commits and promotes."""
    overrides = [o for item in started.findings for o in item.overrides if _uses(wanted, item)]
    report = build(
        Selection(
            revision="HEAD",
            experiments=tuple(wanted.experiments),
            seeds=wanted.seeds,
            overrides=tuple(overrides),
        ),
        root=root,
        push=push,
    )
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
    return _finish(folder, result)


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


def _finish(folder: Path | None, result: Retraining) -> State[Any]:
    """Saves the record, shows it in Prefect, and ends the run."""
    page = markdown(result, None) if folder is None else save(folder, result)
    create_markdown_artifact(page, key="retrain-verdict", description=result.summary)
    if folder is not None:
        get_run_logger().info("verdict: %s", folder / "verdict.md")
        site = folder / "site" / "index.html"
        if site.is_file():
            create_link_artifact(
                site.resolve().as_uri(), link_text=str(site), key="retrain-report",
                description="The report site of the challenger",
            )  # fmt: skip
    ended = Failed if result.failures else Completed
    return ended(message=result.summary, data=result.to_json())
