"""Reports of builds as lines and rows; needs no Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.estimate import words
from pipelines.outcomes import outcome_lines
from pipelines.types import BuildReport, StageOutcome, Status

__all__ = ["report_lines", "report_page", "stage_rows"]

STATUSES: tuple[Status, ...] = ("built", "cached", "failed", "skipped")
END = "\n"


def stage_rows(stages: Sequence[StageOutcome]) -> list[dict[str, Any]]:
    """The table of a build."""
    return [
        {
            "stage": stage.name,
            "status": stage.status,
            "seconds": round(stage.seconds, 1),
            "attempts": stage.attempts,
            "message": stage.message.partition("\n")[0],
        }
        for stage in stages
    ]


def report_lines(report: BuildReport) -> list[str]:
    """A build in a few lines: failures with the end of their logs, and what came out."""
    counts = [f"{len(names)} {status}" for status in STATUSES if (names := report.having(status))]
    head = f"{', '.join(counts) or 'nothing to do'} in {words(report.seconds)}"
    lines = [head, f"commit {report.commit[:10]}{' with changes' if report.dirty else ''}"]
    lines.append(f"result in {report.worktree}")
    lines += [f"{stage.name} failed: {stage.message}" for stage in report.having("failed")]
    skipped = report.having("skipped")
    lines += [f"{stage.name} skipped: {stage.message.split(END)[0]}" for stage in skipped]
    return lines + outcome_lines(report.worktree, report.stages)


def report_page(report: BuildReport) -> str:
    """A build as a page of Markdown."""
    text = ["# Build", ""]
    text += [f"- {line}" for line in report_lines(report)[:3]]
    for stage in report.having("failed"):
        text += ["", f"## {stage.name} failed", "", "```text", stage.message, "```"]
    text += ["", "| stage | status | seconds | attempts |", "| --- | --- | --- | --- |"]
    text += [
        f"| {row['stage']} | {row['status']} | {row['seconds']} | {row['attempts']} |"
        for row in stage_rows(report.stages)
    ]
    return "\n".join(text) + "\n"
