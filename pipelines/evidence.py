"""What a retraining leaves behind: ``retrain/<time>/``, and a branch with what was built.

The folder has ``retrain.json`` (findings, verdicts, promotions), ``verdict.md`` for people, the
validation reports of the data and the report site. It is the project's, but not in git and not an
input of any stage.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError
from ldebm.files import read_json, write_json, write_text
from pipelines.candidates import stand_in
from pipelines.champion import MetricChange, Verdict
from pipelines.changes import Finding
from pipelines.git import git
from pipelines.lineage.checkout import WHOLE
from pipelines.promotion import Promotion

__all__ = ["Retraining", "commit_build", "handled", "keep", "markdown", "new_folder", "save"]

FOLDER = "retrain"
COMMITTED = ("params.yaml", "dvc.yaml", "dvc.lock", "models", "reports")


@dataclass(frozen=True)
class Retraining:
    """One retraining, as it is recorded.

    Attributes:
        name: its time, which names the folder and the branch ``challenger/<name>``; empty where
            nothing was built, which leaves neither.
        findings: what was found about the data.
        verdicts: one for each experiment that was judged.
        promotions: the registered versions.
        branch: the branch with what was built; None where nothing was.
        commit: its commit.
        failures: stages that failed for a reason other than the data.
        dealt: fingerprints of the changes that need no further run.
        flow_run: id of the Prefect flow run.
    """

    name: str = ""
    findings: tuple[Finding, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    branch: str | None = None
    commit: str | None = None
    failures: tuple[str, ...] = ()
    dealt: tuple[str, ...] = field(default=())
    flow_run: str | None = None

    @property
    def summary(self) -> str:
        """One line."""
        if self.failures:
            return f"failed: {self.failures[0]}"
        if not self.verdicts:
            names = ", ".join(item.data for item in self.findings)
            return f"nothing changed in {names}: nothing was built"
        won = [item.experiment for item in self.verdicts if item.promote]
        kept = [item.experiment for item in self.verdicts if not item.promote]
        words = [f"promoted {', '.join(won)}"] if won else []
        words += [f"refused {', '.join(kept)}"] if kept else []
        return "; ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **vars(self),
            "findings": [item.to_json() for item in self.findings],
            "verdicts": [item.to_json() for item in self.verdicts],
            "promotions": [item.to_json() for item in self.promotions],
            "summary": self.summary,
        }


def new_folder(root: Path) -> Path:
    """A new folder for one retraining, named by the time (UTC)."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = root / FOLDER / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UsageError(f"{root / FOLDER}: a hundred retrainings in one second")


def handled(root: Path) -> set[str]:
    """Fingerprints of the data changes that earlier retrainings dealt with."""
    marks: set[str] = set()
    for path in (root / FOLDER).glob("*/retrain.json"):
        marks.update(read_json(path).get("dealt", []))
    return marks


def keep(folder: Path, worktree: Path, datasets: Iterable[str]) -> None:
    """Copies the validation reports of ``datasets`` and the site, where they were built."""
    places = {f"reports/validation/{name}": f"validation/{name}" for name in datasets}
    for source, target in {**places, "site": "site"}.items():
        if (worktree / source).is_dir():
            shutil.copytree(worktree / source, folder / target, copy_function=shutil.copyfile)


def save(folder: Path, retraining: Retraining) -> str:
    """Writes the record and the page for people, and returns the page."""
    text = markdown(retraining, folder)
    write_json(folder / "retrain.json", retraining.to_json())
    write_text(folder / "verdict.md", text)
    return text


def commit_build(root: Path, worktree: Path, branch: str, message: str) -> str:
    """Commits what a worktree holds to a new branch of the project.

    The worktree, its index and the workspace stay as they are.

    Returns:
        The commit's full hash.

    Raises:
        UsageError: git refuses, say because the branch exists.
    """
    parent = git(worktree, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "GIT_DIR": git(root, "rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": git(worktree, "rev-parse", "--show-toplevel"),
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            **_identity(root),
        }

        def run(*arguments: str) -> str:
            return git(worktree, *arguments, env=environment, settings=WHOLE)

        run("read-tree", parent)
        run("add", "--all", "--", *(name for name in COMMITTED if (worktree / name).exists()))
        tree = run("write-tree")
        commit = run("commit-tree", tree, "-p", parent, "-m", message)
        run("branch", branch, commit)
    return commit


def _identity(root: Path) -> dict[str, str]:
    """What git is told where it knows nobody."""
    identity = stand_in(root)
    if identity is None:
        return {}
    facts = dict(zip(("NAME", "EMAIL"), identity, strict=True))
    return {f"GIT_{r}_{k}": text for r in ("AUTHOR", "COMMITTER") for k, text in facts.items()}


def markdown(retraining: Retraining, folder: Path | None) -> str:
    """The verdicts with their numbers and where the evidence lies."""
    lines = [
        f"# Retraining {retraining.name}".rstrip(),
        "",
        f"**{_plain(retraining.summary)}**",
        "",
    ]
    if retraining.verdicts:
        heads = ("Experiment", "Verdict", "Metric", "Champion", "Challenger", "Better by", "95 %")
        lines += [_row(heads), _row(["---"] * len(heads))]
        for verdict in retraining.verdicts:
            lines += _rows(verdict)
    for verdict in retraining.verdicts:
        lines += ["", *_reasons(verdict, retraining.promotions)]
    if retraining.failures:
        lines += [
            "",
            "## Failures",
            "",
            *(f"- {_plain(text)}" for text in retraining.failures),
        ]
    lines += ["", "## Data", "", _row(("Data set", "State", "")), _row(["---"] * 3)]
    lines += [_row((item.data, item.state, item.words)) for item in retraining.findings]
    if folder is not None:
        lines += ["", "## Evidence", "", *_links(retraining, folder)]
    return "\n".join(lines) + "\n"


def _rows(verdict: Verdict) -> list[str]:
    word = "promoted" if verdict.promote else "refused"
    if not verdict.rows:
        return [_row((verdict.experiment, word, "-", "-", "-", "-", "-"))]
    return [_row((verdict.experiment, word, *_cells(row))) for row in verdict.rows]


def _cells(row: MetricChange) -> Sequence[str]:
    known = row.low is not None and row.high is not None
    interval = f"{row.low:.4g} to {row.high:.4g}" if known else "none"
    arrow = "lower is better" if row.direction == "lower" else "higher is better"
    return (
        f"{row.metric} ({arrow}; {row.role})",
        f"{row.champion:.5g}",
        f"{row.challenger:.5g}",
        f"{row.better:.4g}",
        f"{interval} ({row.how})",
    )


def _reasons(verdict: Verdict, promotions: Sequence[Promotion]) -> list[str]:
    lines = [f"## {verdict.experiment}: {'promoted' if verdict.promote else 'refused'}", ""]
    lines += [f"- {_plain(text)}" for text in verdict.reasons]
    lines += [f"- note: {_plain(text)}" for text in verdict.notes]
    lines.append(f"- champion: {_plain(verdict.champion or 'none yet')}")
    lines.append(f"- challenger: {_plain(verdict.challenger)}")
    for item in promotions:
        if item.artifact == verdict.experiment:
            lines.append(f"- registered as {item.version}, stages {', '.join(item.stages)}")
    return lines


def _links(retraining: Retraining, folder: Path) -> list[str]:
    lines = []
    site = folder / "site" / "index.html"
    if site.is_file():
        lines.append(f"- report: [{site}]({site.resolve().as_uri()})")
    for report in sorted(folder.glob("validation/*/docs/index.html")):
        name = report.parent.parent.name
        lines.append(f"- validation of {name}: [{report}]({report.resolve().as_uri()})")
    if retraining.branch:
        lines.append(
            f"- what was built: branch `{retraining.branch}`, commit `{retraining.commit}`"
        )
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown and the page around it take literally."""
    flat = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "\\`*_|[]" else sign for sign in flat)
