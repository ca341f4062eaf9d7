"""The flows from the command line: ``ldebm build`` and its like, or ``python -m pipelines build``.

    ldebm build [RUN ...] [--seeds 0,1] [-S key=value ...] [--rev REVISION]
    ldebm sweep 'key=a,b,c' ['key=x,y' ...] [--run NAME] [--seeds 0,1,2]
    ldebm clean [--days 7] [--cache] [--delete]
    ldebm changes | retrain | champion | promote    (model_commands)

Prefect is loaded only where a server is configured: everything runs without one too.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ldebm.cli.examples import epilog
from ldebm.errors import UsageError, explained
from pipelines import model_commands, signals
from pipelines.engine import flow_or_function, server_lost
from pipelines.types import BuildReport, Selection, StageOutcome

__all__ = ["app", "main"]

app = typer.Typer(
    name="pipelines",
    help="Prefect flows that build, compare and audit the DVC pipeline. No server is needed; a "
    "configured one is used.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in model_commands.COMMANDS:
    app.command(epilog=epilog(_command.__name__))(_command)
INTERRUPTED = 130  # what the parser returns for a signal that it has caught
LAST_SECONDS = 5.0  # for what libraries do at the end of the process
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seeds = Annotated[str, typer.Option(help="Seeds, as in 0,1,2.")]
Epochs = Annotated[
    float | None, typer.Option(help="Epochs of every training, in place of its own.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set-param", "-S", help="KEY=VALUE, as for `dvc exp run`; repeatable."),
]
Revision = Annotated[str | None, typer.Option("--rev", help="Build this commit, branch or tag.")]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="Build only this stage or output, and what it needs; repeatable."
    ),
]
SlotCount = Annotated[
    int | None, typer.Option("--slots", min=1, help="Stages that run at the same time.")
]
Retries = Annotated[int, typer.Option(min=0, help="Attempts after an infrastructure error.")]
Pull = Annotated[
    bool, typer.Option("--pull", help="Take outputs from the DVC remote where it has them.")
]


@app.command("build", epilog=epilog("build"))
def build_command(
    run: Annotated[list[str] | None, typer.Argument(help="Groups or experiments.")] = None,
    seeds: Seeds = "",
    epochs: Epochs = None,
    overrides: Sets = None,
    revision: Revision = None,
    targets: Target = None,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated", help="Leave the workspace as it is; keep the result in a worktree."
        ),
    ] = False,
    slots: SlotCount = None,
    retries: Retries = 2,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a stage may take.")] = None,
    stop: Annotated[
        bool, typer.Option("--stop", help="Start no further stage after a failure.")
    ] = False,
    pull: Pull = False,
    push: Annotated[
        bool, typer.Option("--push", help="Push the result to the DVC remote.")
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry", help="List what would run, and run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build experiments, stages in parallel.

    The result is that of `dvc repro`.
    With -S or --rev the result stays in a worktree, and the workspace is left as it is.
    """
    selection = _selection(run, seeds, epochs, overrides, revision, targets, isolated)
    if not as_json:
        _say_edits()
    plain = not (selection.in_worktree or selection.experiments or seeds or epochs or push)
    report = _up_to_date(selection, slots, dry, as_json) if dry or plain else None
    if dry:
        return
    if report is None:
        report = flow_or_function("build")(
            selection,
            cpu_slots=slots,
            retries=retries,
            stage_timeout=timeout,
            keep_going=not stop,
            pull=pull,
            push=push,
        )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1))
    else:
        from pipelines.build_report import report_lines

        typer.echo("\n".join(report_lines(report)))
    if not report.ok:
        raise typer.Exit(1)


def _say_edits() -> None:
    """Names what params.yaml says otherwise than conf/, and a length of its own: a line each."""
    from pipelines.library import CONF
    from pipelines.selection import length_line, status

    path = Path("params.yaml")
    if path.is_file() and (Path() / CONF).is_dir():
        state = status(path)
        for line in filter(None, (state.summary(), length_line(state.params.run))):
            typer.echo(line)


def _up_to_date(
    selection: Selection, slots: int | None, dry: bool, as_json: bool
) -> BuildReport | None:
    """The report of a build that has nothing to do; None if it has. ``dry`` prints the plan."""
    from pipelines.building import planned

    dag, estimate, state = planned(selection, Path(), slots)
    if dry:
        seconds = {name: estimate.seconds[name] for name in estimate.seconds}
        if as_json:
            total = {"elapsed": estimate.elapsed, "total": estimate.total}
            content = {"stages": seconds, "basis": dict(estimate.basis), **total}
            typer.echo(json.dumps(content, indent=1))
            return None
        for name, value in seconds.items():
            reasons = dag.stages[name].changes
            why = reasons[0] if reasons else "needs one of those above"
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            known = "?" if value is None else f"{value:.0f} s"
            basis = estimate.basis.get(name, "unknown")
            typer.echo(f"{name:<34} {known:>7} {basis:<26} {why}{more}")
        typer.echo(estimate.line())
        return None
    if estimate.seconds:
        return None
    root = Path().resolve()
    stages = tuple(StageOutcome(name, "cached") for name in dag.stages)
    return BuildReport(root, state.commit, state.dirty, root / "dvc.lock", stages)


@app.command("sweep", epilog=epilog("sweep"))
def sweep_command(
    axes: Annotated[
        list[str],
        typer.Argument(help="KEY=A,B,C, as in experiments.NAME.prior.levels=4,6; repeatable."),
    ],
    run: Annotated[list[str] | None, typer.Option(help="Group or experiment; repeatable.")] = None,
    seeds: Seeds = "",
    epochs: Epochs = None,
    overrides: Sets = None,
    revision: Revision = None,
    targets: Target = None,
    slots: SlotCount = None,
    retries: Retries = 2,
    pull: Pull = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    pool: model_commands.Pool = None,
    slurm: model_commands.OnSlurm = False,
    as_json: AsJson = False,
) -> None:
    """Build a grid of parameters over seeds.

    Every combination is built, and a table of the metrics is written.
    """
    selection = _selection(run, seeds, epochs, overrides, revision, targets)

    report = flow_or_function("sweep")(
        axes,
        selection,
        cpu_slots=slots,
        retries=retries,
        pull=pull,
        out=out,
        pool=pool,
        slurm=slurm,
    )
    if as_json:
        typer.echo((report.folder / "sweep.json").read_text(), nl=False)
    else:
        typer.echo((report.folder / "report.md").read_text(), nl=False)
    if not report.ok:
        raise typer.Exit(1)


@app.command("audit", epilog=epilog("audit"))
def audit_command(
    stages: Annotated[list[str], typer.Argument(help="Stages, or patterns such as 'prior@*'.")],
    slots: SlotCount = None,
    as_json: AsJson = False,
) -> None:
    """Run stages again and compare the bytes."""
    report = flow_or_function("audit")(stages, cpu_slots=slots)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else "\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)


@app.command("clean", epilog=epilog("clean"))
def clean_command(
    days: Annotated[
        float, typer.Option(min=0, help="Keep what is younger than this many days.")
    ] = 7.0,
    cache: Annotated[
        bool, typer.Option("--cache", help="Also remove what nothing refers to from DVC's cache.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it only list.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what finished builds left behind.

    Only lists what would be deleted, unless --delete is given.
    """
    report = flow_or_function("clean")(days=days, cache=cache, delete=delete)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else "\n".join(report.lines()))


def _selection(
    run: list[str] | None,
    seeds: str,
    epochs: float | None,
    overrides: list[str] | None,
    revision: str | None,
    targets: list[str] | None,
    isolated: bool = False,
) -> Selection:
    """The options of a command as a selection; a wrong folder or revision is found here."""
    from pipelines.worktree import Workspace

    selection = Selection(
        revision=revision,
        experiments=tuple(run or ()),
        seeds=_seeds(seeds),
        epochs=epochs,
        overrides=tuple(overrides or ()),
        targets=tuple(targets or ()),
        isolated=isolated,
    )
    workspace = Workspace()
    if revision is not None:
        workspace.state(revision)
    return selection


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"seeds {text!r}: expected integers separated by commas, as in 0,1,2")
    return tuple(int(part) for part in parts)


def main(arguments: Sequence[str] | None = None, program: str = "python -m pipelines") -> None:
    """Runs the command line and exits.

    Exit code 2 for wrong usage, 1 for a failure, 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP.

    Args:
        arguments: without the program's name; by default those of the process.
        program: its name.
    """
    signals.name(program)
    atexit.register(gc.freeze)  # or Python looks through all objects once more at its end
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    code: Any
    try:
        code = app(
            args=[item for item in given if item != "--debug"],
            prog_name=program,
            standalone_mode=False,
        )
    except (signals.Interrupted, KeyboardInterrupt):
        code = INTERRUPTED
    except BaseException as error:
        number = signals.received()
        if number is None and (debug or not isinstance(error, Exception)):
            raise
        # After a signal whatever fails, such as a child that had it too, fails because of it.
        code = INTERRUPTED if number else _fault(error)
    if code == INTERRUPTED:  # the parser has caught the signal, or it came here
        code = 128 + (signals.received() or signal.SIGINT)
        _failed(signals.STOPPED, code)
        signals.leave_within(LAST_SECONDS)
    sys.exit(code if isinstance(code, int) else 0)


def _fault(error: BaseException) -> int:
    """Says what was wrong, and gives the exit code."""
    if type(error).__module__.partition(".")[0] == "httpx":  # only Prefect's client uses it
        return _server_lost(error)
    text, code = explained(error, signals.program())
    if code:
        return _failed(text, code)
    print(text)
    return 0


def _server_lost(error: BaseException) -> NoReturn:
    """Says that the server has gone, and leaves at once.

    Prefect would try for seconds to send each of its events first: minutes after a long build.
    """
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value() or ""
    _failed(server_lost(url, error, kept="what was built is kept: "), 1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _failed(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"{signals.word()}:", message, file=sys.stderr, flush=True)
    return code
