"""The ``ldebm`` command: what it does with a trained model, and what the pipeline adds.

Modules by subject: ``models`` (using a trained model), ``rows`` (a model and every row of a file),
``completing`` (gaps), ``serving`` (over HTTP), ``about`` (versions). The commands on a project, its
data and its lineage are those of :mod:`pipelines.commands` and :mod:`pipelines.cli`; they are
loaded when one of them is asked for, or the list.
Heavy imports stay inside the commands: ``ldebm --help`` is quick.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ldebm.cli import about, completing, models, rows, serving
from ldebm.cli.examples import epilog
from ldebm.errors import UsageError, explained

__all__ = ["app", "main"]

INTERRUPTED = 130
NOT_HERE = (
    "`ldebm {}` belongs to the pipeline, which is not installed here: expected the package "
    "`pipelines`; install the project, not only its models"
)
FLOWS = "pipelines.cli"  # these run stages, as ``python -m pipelines`` does
PROJECT = {  # command -> where it is; by name, for models can be used without the pipeline
    "new": "pipelines.commands.project",
    "data": "pipelines.commands.project",
    "list": "pipelines.commands.comparing:list_experiments",
    "select": "pipelines.commands.project",
    "config": "pipelines.commands.configuring",
    "build": FLOWS,
    "sweep": FLOWS,
    "compare": "pipelines.commands.comparing",
    "experiments": "pipelines.commands.comparing",
    "lineage": "pipelines.commands.lineage",
    "audit": "pipelines.commands.lineage",
    "changes": FLOWS,
    "retrain": FLOWS,
    "champion": FLOWS,
    "promote": FLOWS,
    "clean": FLOWS,
}


class _Commands(TyperGroup):
    """The commands of models, and those of a project as soon as they are asked for."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        wanted = (cmd_name,) if cmd_name in PROJECT else PROJECT  # all, to suggest a name
        if cmd_name not in self.commands:
            for name in wanted:
                self._load(name)
            if cmd_name in PROJECT and cmd_name not in self.commands:
                raise UsageError(NOT_HERE.format(cmd_name))
        return self.commands.get(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        for name in PROJECT:
            self._load(name)
        own = [name for name in self.commands if name not in PROJECT]
        return [*(name for name in PROJECT if name in self.commands), *own]

    def _load(self, name: str) -> None:
        """Adds a command of the pipeline, if it is installed; those of the flows all at once."""
        if name in self.commands:
            return
        module, _, attribute = PROJECT[name].partition(":")
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "pipelines":
                raise
            return
        if module == FLOWS:
            group: Any = typer.main.get_command(loaded.app)
            for flow, where in PROJECT.items():
                if where == FLOWS:
                    self.add_command(group.commands[flow], flow)
            return
        command = getattr(loaded, attribute or name)
        if not isinstance(command, typer.Typer):
            function, command = command, typer.Typer(add_completion=False, rich_markup_mode=None)
            command.command(name, epilog=epilog(name))(function)
        self.add_command(typer.main.get_command(command), name)


def _version(wanted: bool) -> None:
    if wanted:
        from ldebm import __version__

        typer.echo(f"ldebm {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="ldebm",
    cls=_Commands,
    help="Latent-space energy-based models: data, models, results and their lineage.",
    epilog="Exit codes: 0 done, 1 it failed, 2 wrong usage or data, 128 + N ended by signal N. "
    "`--debug`, anywhere, shows the traceback of a failure.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for module in (models, completing, rows, serving, about):
    for command in module.COMMANDS:
        app.command(epilog=epilog(command.__name__.replace("_", "-")))(command)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and exits: 2 for wrong usage or data, 1 for a failure, 130 for Ctrl-C.

    Args:
        arguments: without the program's name; by default those of the process. ``--debug``,
            anywhere, shows the traceback of a failure.
    """
    atexit.register(gc.freeze)  # or Python looks through all objects once more at its end
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and PROJECT.get(given[0]) == FLOWS:
        _run_flow(given)
    debug = "--debug" in given
    given = [item for item in given if item != "--debug"]
    try:
        code = app(args=given, prog_name="ldebm", standalone_mode=False)
        if code == INTERRUPTED:  # the parser has caught the signal
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        code = _failed("interrupted", INTERRUPTED, debug)
    except BrokenPipeError:  # the reader (`head`, say) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        text, code = explained(error, "ldebm")
        if code:
            _failed(text, code, debug)
        else:
            print(text)
    sys.exit(code if isinstance(code, int) else 0)


def _run_flow(given: list[str]) -> NoReturn:
    """Runs a command that starts stages: signals end it in good order, as ``python -m pipelines``.

    Raises:
        SystemExit: always; its code is that of the command.
    """
    try:
        start = importlib.import_module("pipelines.__main__").start
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "pipelines":
            raise
        sys.exit(_failed(NOT_HERE.format(given[0]), 2, debug=False))
    start(given, "ldebm")
    sys.exit(0)


def _failed(message: str, code: int, debug: bool) -> int:
    """One line on stderr, after the traceback if it was asked for."""
    if debug:
        traceback.print_exc()
    print("ldebm:", " ".join(message.split()), file=sys.stderr)
    return code
