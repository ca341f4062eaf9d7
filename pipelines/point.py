"""What a run of a work pool or of Slurm builds: one part of a sweep or of a retraining.

    python -m pipelines.point ASKED.json ANSWER.json

A part is a commit with overrides, built in the folder of whoever took it. Stages that others have
built come from the DVC remote, and each that is built goes there as soon as it is. The
command above is for machines that share the folder, and with it the cache: it uses no remote.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.errors import LdebmError, UsageError
from ldebm.files import read_json, write_json
from pipelines.build import dispatch, push_built
from pipelines.building import opened
from pipelines.dag import Dag
from pipelines.dispatch import Options
from pipelines.engine import Engine, current
from pipelines.git import git_or_none, run_git, said
from pipelines.results.recorded import flatten
from pipelines.signals import listen
from pipelines.types import BuildReport, Selection
from pipelines.worktree import Workspace

__all__ = ["Built", "build_point", "here", "metrics_of"]

OWN_CODE = ("pipelines", "constraints.txt")  # what a worker uses of its own folder


@dataclass(frozen=True)
class Built:
    """What became of a part.

    Attributes:
        report: its stages.
        metrics: of its last stages, by stage: flat names to numbers.
        where: machine and folder.
    """

    report: BuildReport
    metrics: Mapping[str, dict[str, float]]
    where: str

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"report": self.report.to_json(), "metrics": self.metrics, "where": self.where}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Built:
        """What :meth:`to_json` gave."""
        report = BuildReport.from_json(content["report"])
        return cls(report, content["metrics"], content["where"])


def build_point(
    selection: Selection, retries: int = 2, root: Path = Path(), remote: bool = True
) -> Built:
    """Builds a part in this folder.

    Args:
        selection: with a revision: what is built is a commit.
        retries: attempts after the first, on infrastructure errors only.
        root: the project's folder.
        remote: take from the DVC remote what others built, and give it what is built.

    Raises:
        UsageError: this folder does not have the commit, or the selection is wrong.
        LdebmError: all is built, but the remote did not take it.
    """
    engine, workspace = current(), Workspace(root)
    _bring_commit(workspace, str(selection.revision), engine)
    options = Options(retries=retries, pull=remote, push=remote)
    with opened(selection, workspace, options=options, flow_run=engine.flow_run) as job:
        report = job.report(dispatch(job, engine))
        metrics = metrics_of(job.dag, job.place.project)
    if remote:
        push_built(report)
    return Built(report, metrics, here(workspace.root))


def here(root: Path) -> str:
    """The name of this machine and the folder."""
    return f"{socket.gethostname()}:{root.resolve()}"


def _bring_commit(workspace: Workspace, commit: str, engine: Engine) -> None:
    """Fetches the commit if this clone does not have it, and says where its own code is another.

    Raises:
        UsageError: it cannot be had.
    """
    root, why = workspace.root, ""
    wanted = ("cat-file", "-e", f"{commit}^{{commit}}")
    if git_or_none(root, *wanted) is None:
        done = run_git(root, "fetch", "-q", "--all", env={"GIT_TERMINAL_PROMPT": "0"})
        why = said(done) if done.returncode else "`git fetch` does not bring it"
        if git_or_none(root, *wanted) is None:
            raise UsageError(
                f"{here(root)} does not have commit {commit[:10]} ({why}): push the commit to the "
                "repository that this clone fetches from"
            )
    if git_or_none(root, "diff", "--quiet", commit, "HEAD", "--", *OWN_CODE) is None:
        engine.say(
            f"{here(root)}: its {' or '.join(OWN_CODE)} are of another version than commit "
            f"{commit[:10]}, whose stages run: `git pull` and `make setup` there"
        )


def metrics_of(dag: Dag, project: Path) -> dict[str, dict[str, float]]:
    """Metrics of the last stages that have any: of those that no other with metrics needs.

    Args:
        dag: the stages.
        project: the folder where they are built.
    """
    having = [name for name, stage in dag.stages.items() if stage.metrics]
    last = [name for name in having if not dag.below(name).intersection(having)]
    metrics = {}
    for name in last:
        numbers: dict[str, float] = {}
        for path in dag.stages[name].metrics:
            file = project / path
            if file.is_file():
                content = json.loads(file.read_text(encoding="utf-8"))
                values = flatten(content if isinstance(content, dict) else {"": content})
                numbers |= {
                    key: float(value)
                    for key, value in values.items()
                    if isinstance(value, int | float) and not isinstance(value, bool)
                }
        if numbers:
            metrics[name] = numbers
    return metrics


def main(asked: str, answer: str) -> int:
    """Builds what one file asks for and writes into another what became of it.

    Args:
        asked: a selection as JSON.
        answer: ``{"error": ...}`` where nothing could be built.

    Returns:
        The exit code.
    """
    given = read_json(Path(asked)).items()
    facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
    selection = Selection(**facts)
    try:
        built = build_point(selection, remote=False)
    except LdebmError as error:
        write_json(Path(answer), {"error": str(error)})
        return 1
    write_json(Path(answer), built.to_json())
    return 0 if built.report.ok else 1


if __name__ == "__main__":
    listen()
    sys.exit(main(*sys.argv[1:]))
