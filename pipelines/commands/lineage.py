"""Commands that check the past: ``lineage`` and ``audit``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ldebm.errors import LdebmError, UsageError

__all__ = ["audit", "lineage"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_USAGE = "usage: ldebm lineage [show|verify] TARGET, or ldebm lineage diff A B"


def lineage(
    words: Annotated[list[str], typer.Argument(metavar="[show|verify] TARGET | diff A B")],
    as_json: AsJson = False,
    openlineage: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write OpenLineage events as JSON lines; - prints them."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the graph as one HTML page.")
    ] = None,
    without_records: Annotated[
        bool,
        typer.Option("--without-records", help="verify: accept stages without a record here."),
    ] = False,
    folder: Annotated[
        Path, typer.Option("--in", metavar="FOLDER", help="The project, or a GPU queue.")
    ] = Path(),
) -> None:
    """Trace a result back to raw data; verify it.

    TARGET is a file, a stage or an experiment. `verify` hashes everything on the way again, `diff`
    says where two results part. TARGET@REV is the target at a git revision or of a `dvc exp`.
    """
    actions = {"show": 1, "verify": 1, "diff": 2}
    action = words[0] if words[0] in actions and len(words) > 1 else "show"
    targets = words[1:] if words[0] == action and len(words) > 1 else words
    if len(targets) != actions[action]:
        raise UsageError(_USAGE)
    if (openlineage or html) and action != "show":
        raise UsageError(f"--openlineage and --html go with `ldebm lineage TARGET`, not {action}")
    if action == "verify":
        _verify(targets[0], folder, as_json, without_records)
    elif action == "diff":
        _diff(targets, folder, as_json)
    else:
        _show(targets[0], folder, as_json, openlineage, html)


def _show(
    target: str, folder: Path, as_json: bool, openlineage: str | None, html: Path | None
) -> None:
    from ldebm.files import write_text
    from pipelines.lineage.divergence import parse_target

    _, lineage = parse_target(target, folder)
    if openlineage:
        from pipelines.lineage.openlineage import events

        text = "".join(f"{line}\n" for line in events(lineage, folder))
        if openlineage == "-":
            sys.stdout.write(text)
        else:
            write_text(openlineage, text)
            typer.echo(f"{openlineage}: {text.count(chr(10))} OpenLineage events")
    if html:
        from pipelines.lineage.page import lineage_page
        from pipelines.lineage.verify import verify

        problems = None if lineage.revision else verify(lineage, folder)
        write_text(html, lineage_page(lineage, problems))
        typer.echo(f"{html}: {len(lineage.steps)} stages")
    if openlineage or html:
        return
    typer.echo(json.dumps(lineage.to_json(), indent=1) if as_json else "\n".join(lineage.lines()))


def _verify(target: str, folder: Path, as_json: bool, without_records: bool) -> None:
    from pipelines.lineage.trace import trace
    from pipelines.lineage.verify import verify

    lineage = trace(target, folder)
    problems = verify(lineage, folder, need_records=not without_records)
    if as_json:
        content = {
            "target": lineage.target,
            "stages": len(lineage.steps),
            "restored": {step.stage: step.twin for step in lineage.steps if step.twin},
            "problems": [problem.to_json() for problem in problems],
        }
        typer.echo(json.dumps(content, indent=1))
    else:
        for problem in problems:
            typer.echo(problem)
    if problems:
        missing = sum(problem.missing_record for problem in problems)
        other = len(problems) - missing
        said = [f"{other} {'things differ' if other > 1 else 'thing differs'}"] if other else []
        if missing:
            said.append(
                f"{missing} {'stages have' if missing > 1 else 'stage has'} no record on this "
                "machine (copy lineage/ from the machine that ran them, run them again, or accept "
                "that with --without-records)"
            )
        raise LdebmError(f"{lineage.target}: {'; '.join(said)}")
    if not as_json:
        for step in lineage.steps:
            if step.record and step.twin:
                typer.echo(
                    f"{step.stage}: restored by DVC from its cache; produced by {step.twin} on "
                    f"{step.record['started']} from the same inputs, parameters and code"
                )
        typer.echo(f"{lineage.target}: {len(lineage.steps)} stages verified, nothing differs")


def _diff(targets: list[str], folder: Path, as_json: bool) -> None:
    from pipelines.lineage.divergence import compare_traces, parse_target

    first, second = targets
    name, one = parse_target(first, folder)
    plain = one.target if one.revision is None else first.rpartition("@")[0]
    other_name, other = parse_target(second, folder, same_as=plain)
    divergence = compare_traces(one, other, (name, other_name))
    typer.echo(
        json.dumps(divergence.to_json(), indent=1) if as_json else "\n".join(divergence.lines())
    )


def audit(
    stages: Annotated[
        list[str],
        typer.Argument(help="A stage, as prior@chatter-ldebm-0; or several, or 'prior@*'."),
    ],
    workspace: Annotated[
        bool,
        typer.Option(
            "--workspace", help="Run the code of the working tree, not that of the record."
        ),
    ] = False,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Of several stages: that run at the same time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run stages again and compare the bytes.

    They run in a scratch worktree; the first difference of the outputs of each
    is named.
    """
    if len(stages) == 1 and not _several(stages[0]):
        _audit_one(stages[0], workspace, as_json)
        return
    if workspace:
        raise UsageError("--workspace goes with one stage, as prior@chatter-ldebm-0")
    from pipelines.engine import flow_or_function

    report = flow_or_function("audit")(stages, cpu_slots=slots)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else "\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)


def _several(name: str) -> bool:
    """Whether it stands for several stages: a pattern, or a name before the @ of some."""
    from pipelines.lockfile import lock_blocks

    lock = Path("dvc.lock")
    stages = lock_blocks(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    pattern = bool(set("*?[") & set(name))
    return name not in stages and (pattern or any(s.partition("@")[0] == name for s in stages))


def _audit_one(stage: str, workspace: bool, as_json: bool) -> None:
    from pipelines.lineage.audit import audit_stage

    result = audit_stage(stage, use_workspace=workspace)
    typer.echo(json.dumps(result.to_json(), indent=1) if as_json else "\n".join(result.lines()))
    if not result.same:
        raise LdebmError(f"{stage}: {len(result.different)} outputs are not what dvc.lock has")
