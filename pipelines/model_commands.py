"""Commands on models over time: changes, retrain, champion, promote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ldebm.errors import LdebmError, UsageError
from pipelines.engine import flow_or_function

__all__ = ["COMMANDS"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Pool = Annotated[
    str | None,
    typer.Option(help="Prefect work pool whose workers build it; outputs go by the DVC remote."),
]
OnSlurm = Annotated[bool, typer.Option("--slurm", help="Jobs of Slurm build it, in this folder.")]
Experiment = Annotated[str, typer.Argument(help="An experiment of params.yaml.")]


def changes(
    datasets: Annotated[list[str] | None, typer.Argument(help="Default: those of `run:`.")] = None,
    as_json: AsJson = False,
) -> None:
    """List data sets that changed since the build.

    The user's file, the mirror or the parameters differ.
    """
    from pipelines.changes import find_changes
    from pipelines.evidence import handled

    findings = find_changes(Path(), datasets or (), handled=handled(Path()))
    if as_json:
        typer.echo(json.dumps([item.to_json() for item in findings], indent=1))
        return
    for item in findings:
        typer.echo(f"{item.data:<16} {item.state:<8} {item.words}")


def retrain(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="Experiments or groups; default: `retrain:`.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated; default: `retrain:`.")] = "",
    on_change: Annotated[
        bool, typer.Option("--on-change", help="Only where the data changed.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Give the result to the remote.")] = False,
    pool: Pool = None,
    slurm: OnSlurm = False,
    as_json: AsJson = False,
) -> None:
    """Retrain; promote what is better.

    Builds challengers from HEAD and compares them with the champions.
    """
    parts = [part.strip() for part in seeds.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"seeds {seeds!r}: expected integers separated by commas, as in 0,1,2")
    from ldebm.config import load_params
    from pipelines.library import Library

    known = list(load_params("params.yaml").experiments)
    Library().expand(experiments or [], known)  # a wrong name is found before anything starts
    outcome = _retrained(
        experiments or [], [int(part) for part in parts], on_change, push, pool, slurm
    )
    if as_json:
        typer.echo(json.dumps(outcome, indent=1))
    else:
        typer.echo(outcome["summary"])
        for verdict in outcome["verdicts"]:
            typer.echo(f"  {verdict['experiment']}: {'; '.join(verdict['reasons'])}")
        if outcome["name"]:
            typer.echo(f"  retrain/{outcome['name']}/verdict.md")
    if outcome["failures"]:
        raise typer.Exit(1)


def _retrained(*arguments: Any) -> dict[str, Any]:
    """The record of a retraining; with a server its flow run ends as the record says."""
    run = flow_or_function("retrain")
    if not hasattr(run, "fn"):
        return dict(run(*arguments).to_json())
    state = run(*arguments, return_state=True)
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, LdebmError):
        raise outcome
    if not isinstance(outcome, dict):
        raise LdebmError(f"retraining ended as {state.type.value}: {state.message}")
    return outcome


def champion(
    experiment: Experiment,
    revision: Annotated[str, typer.Argument(help="Where the challenger was built.")] = "HEAD",
    as_json: AsJson = False,
) -> None:
    """Compare a revision with the champion.

    Nothing is promoted.
    """
    from ldebm.config import load_params
    from ldebm.yaml_text import parse_yaml
    from pipelines.candidates import Revision, load_candidate
    from pipelines.judging import against_champion

    config = load_params("params.yaml").retrain
    place = Revision(Path(), revision)
    run = (parse_yaml(place.read("params.yaml") or b"{}") or {}).get("run") or {}
    seeds = [int(seed) for seed in run.get("seeds", [])]
    challenger = load_candidate(place, experiment, seeds)
    verdict = against_champion(Path(), challenger, seeds, config)
    if as_json:
        typer.echo(json.dumps(verdict.to_json(), indent=1))
        return
    typer.echo(f"{verdict.champion or 'no champion'}  against  {verdict.challenger}")
    typer.echo(f"{verdict.decision}: {'; '.join(verdict.reasons)}")
    for note in verdict.notes:
        typer.echo(f"note: {note}")


def promote(
    experiment: Experiment,
    revision: Annotated[str, typer.Argument(help="The commit with the model.")] = "HEAD",
    stage: Annotated[
        list[str] | None, typer.Option(help="Registry stage; repeatable; default: `retrain:`.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="v2.0.0; default: the next minor.")] = None,
    message: Annotated[str, typer.Option(help="What the version's tag says.")] = "",
    as_json: AsJson = False,
) -> None:
    """Register a model by hand.

    No comparison is made.
    """
    from ldebm.config import load_params
    from pipelines.promotion import promote as register

    stages = stage or load_params("params.yaml").retrain.stages
    done = register(Path(), experiment, revision, stages=stages, version=version, message=message)
    if as_json:
        typer.echo(json.dumps(done.to_json(), indent=1))
        return
    created = ", ".join(done.created) or "nothing new"
    typer.echo(
        f"{done.artifact} {done.version} at {done.commit[:10]} holds {', '.join(done.stages)} "
        f"({created})"
    )


COMMANDS: list[Callable[..., None]] = [changes, retrain, champion, promote]
