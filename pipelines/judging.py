"""From a built challenger to its verdict: finds the champion, makes the two comparable, decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ldebm.config import RetrainConfig
from ldebm.errors import UsageError
from ldebm.yaml_text import parse_yaml
from pipelines.candidates import Candidate, Folder, Revision, load_candidate
from pipelines.champion import Verdict, decide, incomparable
from pipelines.promotion import registered
from pipelines.reevaluation import reevaluate
from pipelines.types import BuildReport

__all__ = ["against_champion", "failures", "judge"]


def against_champion(
    root: Path,
    challenger: Candidate,
    seeds: Sequence[int],
    config: RetrainConfig,
    worktree: Path | None = None,
) -> Verdict:
    """The verdict on a challenger that is built and evaluated.

    Args:
        root: the project, with the registry.
        challenger: the new model.
        seeds: those of the challenger.
        config: the rules.
        worktree: where it was built; there the champion is evaluated again if the test data, or
            how they are used, have changed. None: it is not.
    """
    rule = config.rule_of(challenger.experiment)
    holder = registered(root, challenger.experiment, config.stages[0])
    if holder is None:
        return decide(None, challenger, rule)
    place = Revision(root, holder.tag)
    champion = load_candidate(place, challenger.experiment, _champions_seeds(place, seeds))
    valid = (challenger.validation or {}).get("success")
    if worktree is not None and valid and incomparable(champion, challenger):
        try:
            champion = reevaluate(place, champion, challenger, worktree)
        except UsageError as error:
            verdict = decide(champion, challenger, rule)
            return replace(verdict, reasons=(*verdict.reasons, str(error)))
    return decide(champion, challenger, rule)


def _champions_seeds(place: Revision, wanted: Sequence[int]) -> list[int]:
    """The seeds that were built there: just those of the challenger where it has them all."""
    text = place.read("params.yaml") or b"{}"
    seeds = [int(seed) for seed in (parse_yaml(text).get("run") or {}).get("seeds", [])]
    return list(wanted) if set(wanted) <= set(seeds) else seeds


def judge(
    root: Path, report: BuildReport, experiment: str, seeds: Sequence[int], config: RetrainConfig
) -> Verdict:
    """The verdict on one experiment of a build, of which stages may have failed."""
    where = f"built from {report.commit[:10]}"
    challenger = load_candidate(Folder(report.worktree, where), experiment, seeds)
    missing = _unfinished(report, experiment, challenger.data)
    invalid = challenger.validation is not None and not challenger.validation.get("success")
    if missing and not invalid:
        return Verdict(experiment, "refuse", (missing,), None, where)
    return against_champion(root, challenger, seeds, config, report.worktree)


def _unfinished(report: BuildReport, experiment: str, data: str) -> str:
    """The stage of this experiment that is not there, in one sentence; empty if all are."""
    for stage in report.having("failed", "skipped"):
        name = stage.name.partition("@")[2]
        if name in (data, experiment) or name.startswith(f"{experiment}-"):
            return f"stage {stage.name} {stage.status}: {_first_line(stage.message)}"
    return ""


def failures(report: BuildReport, experiments: Sequence[str]) -> list[str]:
    """Stages that failed, apart from those that refuse data whose validation failed."""
    invalid = set()
    for name in experiments:
        candidate = load_candidate(Folder(report.worktree), name, [])
        if candidate.validation is not None and not candidate.validation.get("success"):
            invalid.add(candidate.data)
    return [
        f"{stage.name}: {_first_line(stage.message)}"
        for stage in report.having("failed")
        if stage.name.partition("@")[2] not in invalid
    ]


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
