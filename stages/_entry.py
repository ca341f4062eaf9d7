"""What every stage has in common: its options, and errors as one line with an exit code."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from ldebm.config import Params, load_params
from ldebm.errors import LdebmError, UsageError, disk_fault
from stages.recording import this_stage

__all__ = ["arguments", "parameters", "run"]

# At its end Python would look through all objects once more: a third of a second with torch.
atexit.register(gc.freeze)

DEBUG = "--debug"
OPTIONS = {
    "data": {"required": True, "help": "name of the data set in params.yaml"},
    "experiment": {"required": True, "help": "name of the experiment in params.yaml"},
    "seed": {"required": True, "type": int, "help": "seed of the run"},
    "beside": {"default": "", "help": "further runs to train at once: EXPERIMENT-SEED,..."},
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse would exit itself
        raise UsageError(f"{self.prog}: {message}; see --help")


def arguments(description: str | None, *names: str) -> argparse.Namespace:
    """Reads the options ``names`` (of data, experiment, seed, beside), ``--params``, ``--debug``.

    Raises:
        UsageError: an option is missing, unknown or of the wrong type.
    """
    parser = _Parser(description=description)
    for name in names:
        parser.add_argument(f"--{name}", **OPTIONS[name])  # type: ignore[arg-type]
    parser.add_argument("--params", default="params.yaml", help="parameter file")
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def parameters(options: argparse.Namespace) -> Params:
    """params.yaml; a data set or experiment that is not selected there is taken from conf/.

    Raises:
        UsageError: the file is wrong, or neither has the name.
    """
    params = load_params(options.params)
    data, experiment = getattr(options, "data", None), getattr(options, "experiment", None)
    if data in (None, *params.data) and experiment in (None, *params.experiments):
        return params
    # By its name: DVC runs selected stages only, and need not run them again when this changes.
    selection = importlib.import_module("pipelines.selection")
    extended: Params = selection.extended(params, Path(options.params).parent, data, experiment)
    return extended


def run(main: Callable[[], int | None]) -> None:
    """Runs and records a stage: an error that the user can act on is one line, with exit code."""
    try:
        with this_stage():
            code = main()
        sys.exit(code or 0)
    except LdebmError as error:
        if DEBUG in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        fault = disk_fault(error)
        if DEBUG in sys.argv or fault is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(1)
