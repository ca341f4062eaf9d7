"""Retraining: what changed, a challenger, its comparison with the champion, promotion or refusal.

    python -m pipelines.retrain                            # what `retrain:` of params.yaml declares
    python -m pipelines.retrain chatter-ldebm --on-change  # only where the data changed

The challenger is HEAD as committed, with the declared seeds, built in a worktree of its own; the
workspace stays as it is. What was built becomes the branch ``challenger/<time>``, whose commit the
registry names if the verdict is to promote. A refusal is a result, not an error; the flow fails
only where a stage failed for a reason other than the data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from ldebm.config import Params, RetrainConfig, load_params
from ldebm.errors import LdebmError, UsageError
from pipelines.build import build
from pipelines.candidates import Folder, Revision, load_candidate
from pipelines.champion import Verdict, decide, incomparable
from pipelines.changes import Finding, find_changes
from pipelines.evidence import Retraining, commit_build, handled, keep, markdown, new_folder, save
from pipelines.promotion import Promotion, declare_artifact, promote, registered
from pipelines.reevaluation import reevaluate
from pipelines.types import BuildReport, Selection

__all__ = ["judge", "retrain"]


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


def plan(params: Params, experiments: Sequence[str], seeds: Sequence[int]) -> Plan:
    """What to retrain: the given experiments and seeds, else those that ``retrain:`` declares.

    Raises:
        UsageError: an experiment that params.yaml does not have.
    """
    names: list[str] = []
    for name in experiments or params.retrain.experiments or params.run.experiments:
        names += params.groups.get(name, [name])
    found = {name: params.experiment(name).data for name in names}
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
) -> State[Any]:
    """Builds challengers and promotes those that are better than their champion.

    Args:
        experiments: experiments or groups of params.yaml; none: those of ``retrain:``.
        seeds: none: those of ``retrain:``.
        only_on_change: leave experiments out whose data did not change; with none left, nothing is
            built, and the run says so.
    """
    root = Path.cwd()
    wanted = plan(load_params(root / "params.yaml"), experiments or [], seeds or [])
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
    return _challenge(root, replace(wanted, experiments=chosen), started)


def _challenge(root: Path, wanted: Plan, started: Retraining) -> State[Any]:
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
    )
    folder = new_folder(root)
    keep(folder, report.worktree, wanted.datasets)
    verdicts = [judge(root, report, name, wanted) for name in wanted.experiments]
    params = load_params(report.worktree / "params.yaml")
    for item in verdicts:
        if item.promote:
            description = params.experiment(item.experiment).description
            declare_artifact(report.worktree, item.experiment, wanted.seeds, description)
    failures = _failures(report, wanted)
    changed = [item for item in started.findings if item.state == "changed"]
    result = replace(
        started,
        name=folder.name,
        verdicts=tuple(verdicts),
        failures=(*started.failures, *failures),
        branch=f"challenger/{folder.name}",
        dealt=() if failures else tuple(item.fingerprint for item in changed),
    )
    message = f"Retraining {folder.name}: {result.summary}"
    commit = commit_build(root, report.worktree, f"challenger/{folder.name}", message)
    promotions, final = _promote(root, commit, wanted, verdicts)
    result = replace(result, verdicts=tuple(final), promotions=tuple(promotions), commit=commit)
    return _finish(folder, result)


def _uses(wanted: Plan, finding: Finding) -> bool:
    return finding.data in wanted.experiments.values()


def judge(root: Path, report: BuildReport, experiment: str, wanted: Plan) -> Verdict:
    """The verdict on one experiment of a build."""
    challenger = load_candidate(
        Folder(report.worktree, f"built from {report.commit[:10]}"), experiment, wanted.seeds
    )
    rule = wanted.config.rule_of(experiment)
    unfinished = _unfinished(report, experiment, challenger.data)
    if unfinished and (challenger.validation or {}).get("success", True):
        return Verdict(experiment, "refuse", (unfinished,), None, challenger.where)
    tag = registered(root, experiment, wanted.config.stages[0])
    if tag is None:
        return decide(None, challenger, rule)
    place = Revision(root, tag.tag)
    champion = load_candidate(place, experiment, _built_seeds(place, wanted.seeds))
    if incomparable(champion, challenger) and (challenger.validation or {}).get("success"):
        try:
            champion = reevaluate(place, champion, challenger, report.worktree)
        except UsageError as error:
            first = decide(champion, challenger, rule)
            return replace(first, reasons=(*first.reasons, str(error)))
    return decide(champion, challenger, rule)


def _built_seeds(place: Revision, wanted: Sequence[int]) -> list[int]:
    """The seeds of a registered build: those of the challenger where it has them all."""
    text = place.read("params.yaml") or b"{}"
    seeds = [int(seed) for seed in (yaml.safe_load(text).get("run") or {}).get("seeds", [])]
    return list(wanted) if set(wanted) <= set(seeds) else seeds


def _unfinished(report: BuildReport, experiment: str, data: str) -> str:
    """The stage of this experiment that is not there, in one sentence; empty if all are."""
    for stage in report.having("failed", "skipped"):
        name = stage.name.partition("@")[2]
        if name in (data, experiment) or name.startswith(f"{experiment}-"):
            return f"stage {stage.name} {stage.status}: {stage.message}"
    return ""


def _failures(report: BuildReport, wanted: Plan) -> list[str]:
    """Failed stages, apart from those that refuse data whose validation failed."""
    invalid = set()
    for name, data in wanted.experiments.items():
        found = load_candidate(Folder(report.worktree), name, []).validation
        if found is not None and not found.get("success"):
            invalid.add(data)
    return [
        f"{stage.name}: {stage.message}"
        for stage in report.having("failed")
        if stage.name.partition("@")[2] not in invalid
    ]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the flow on the project in the current folder and prints its verdicts."""
    parser = argparse.ArgumentParser(description="Retrain, compare with the champion, promote.")
    parser.add_argument("experiments", nargs="*", help="default: those of `retrain:`")
    parser.add_argument("--seeds", default="", help="as in 0,1,2; default: those of `retrain:`")
    parser.add_argument("--on-change", action="store_true", help="only where the data changed")
    options = parser.parse_args(arguments)
    try:
        parts = [part for part in options.seeds.split(",") if part]
        if not all(part.isdecimal() for part in parts):
            raise UsageError(f"seeds {options.seeds!r}: expected integers as in 0,1,2")
        seeds = [int(part) for part in parts]
        state = retrain(options.experiments, seeds, options.on_change, return_state=True)
        found = state.result(raise_on_failure=False)
        if isinstance(found, LdebmError):
            raise found
    except LdebmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(state.message)
    for verdict in found["verdicts"] if isinstance(found, dict) else []:
        print(f"  {verdict['experiment']}: {verdict['decision']}: {verdict['reasons'][0]}")
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
