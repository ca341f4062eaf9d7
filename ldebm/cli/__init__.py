"""The ``ldebm`` command: what it does with a trained model, and what the pipeline adds.

Modules by subject: ``models`` (using a trained model), ``rows`` (a model and every row of a file),
``completing`` (gaps), ``about`` (versions). The commands on a project, its data and its lineage,
are those of :mod:`pipelines.commands`; they are loaded when one of them is asked for, or the list.
Heavy imports stay inside the commands: ``ldebm --help`` is quick.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from ldebm.cli import about, completing, models, rows
from ldebm.errors import UsageError, explained

__all__ = ["app", "main"]

INTERRUPTED = 130
PROJECT = {  # command -> where it is; by name, for models can be used without the pipeline
    "data": "pipelines.commands.project",
    "new": "pipelines.commands.project",
    "select": "pipelines.commands.project",
    "config": "pipelines.commands.configuring",
    "compare": "pipelines.commands.comparing",
    "experiments": "pipelines.commands.comparing",
    "lineage": "pipelines.commands.lineage",
    "audit": "pipelines.commands.lineage",
}


class _Commands(TyperGroup):
    """The commands of models, and those of a project as soon as they are asked for."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        wanted = (cmd_name,) if cmd_name in PROJECT else PROJECT  # all, to suggest a name
        if cmd_name not in self.commands:
            for name in wanted:
                self._load(name)
            if cmd_name in PROJECT and cmd_name not in self.commands:
                raise UsageError(
                    f"`ldebm {cmd_name}` belongs to the pipeline, which is not installed here: "
                    "expected the package `pipelines`; install the project, not only its models"
                )
        return self.commands.get(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        for name in PROJECT:
            self._load(name)
        own = [name for name in self.commands if name not in PROJECT]
        return [*(name for name in PROJECT if name in self.commands), *own]

    def _load(self, name: str) -> None:
        """Adds a command of the pipeline, if it is installed."""
        try:
            command = getattr(importlib.import_module(PROJECT[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "pipelines":
                raise
            return
        if not isinstance(command, typer.Typer):
            function, command = command, typer.Typer(add_completion=False, rich_markup_mode=None)
            command.command(name)(function)
        self.add_command(typer.main.get_command(command), name)


app = typer.Typer(
    name="ldebm",
    cls=_Commands,
    help="Latent-space energy-based models: data, models, results and their lineage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (models, completing, rows, about):
    for command in module.COMMANDS:
        app.command()(command)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and exits: 2 for wrong usage or data, 1 for a failure, 130 for Ctrl-C.

    Args:
        arguments: without the program's name; by default those of the process. ``--debug``,
            anywhere, shows the traceback of a failure.
    """
    atexit.register(gc.freeze)  # or Python looks through all objects once more at its end
    given = sys.argv[1:] if arguments is None else list(arguments)
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


def _failed(message: str, code: int, debug: bool) -> int:
    """One line on stderr, after the traceback if it was asked for."""
    if debug:
        traceback.print_exc()
    print("ldebm:", " ".join(message.split()), file=sys.stderr)
    return code
