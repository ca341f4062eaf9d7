"""The ``ldebm`` command.

Modules by subject: ``project`` (params.yaml and data), ``configuring`` (what its keys mean),
``models`` (using a trained model), ``rows`` (a model and every row of a file), ``completing``
(gaps), ``comparing``, and ``lineage`` (the way back, checked and run again).
Heavy imports stay inside the commands: ``ldebm --help`` is quick.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback

import typer

from ldebm.cli import comparing, completing, configuring, lineage, models, project, rows
from ldebm.errors import LdebmError, disk_fault

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="ldebm",
    help="Latent-space energy-based models: data, models, results and their lineage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(project.data, name="data")
for module in (project, configuring, models, completing, rows, comparing, lineage):
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
    except LdebmError as error:
        code = _failed(str(error), error.exit_code, debug)
    except BrokenPipeError:  # the reader (`head`, say) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of the parser have one
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            print(context.get_help())  # a group alone: that is no error
            code = 0
        elif message is not None:
            command = context.command_path if context is not None else "ldebm"
            code = _failed(f"{message()} (see `{command} --help`)", 2, debug)
        else:
            text = disk_fault(error) or f"{type(error).__name__}: {error}; `--debug` shows where"
            code = _failed(text, 1, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _failed(message: str, code: int, debug: bool) -> int:
    """One line on stderr, after the traceback if it was asked for."""
    if debug:
        traceback.print_exc()
    print("ldebm:", " ".join(message.split()), file=sys.stderr)
    return code
