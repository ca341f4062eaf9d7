"""Commands in processes forked from one that has the libraries loaded.

A second of every ``python -m stages.prior`` is the import of torch. Where a test starts many
commands and the start itself is not what it tests, they come from here: working folder,
environment, output, signals and exit codes are those of a real command. The code is this folder's,
and the seed of hashes is the same for all.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

__all__ = ["Forked", "forked"]

PRELOADED = [
    "pyarrow.parquet",
    "sklearn.cluster",
    "sklearn.metrics",
    "ldebm.data.fetch",
    "ldebm.data.packing",
    "ldebm.evaluate.on_text",
    "ldebm.evaluate.on_images",
    "ldebm.training.first_stage",
    "ldebm.training.labelling",
    "ldebm.training.second_stage",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Forked:
    """A running ``python -m`` command, with the methods of :class:`subprocess.Popen`.

    Args:
        words: module and arguments.
        cwd: working folder.
        env: the whole environment.
    """

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._files = [Path(self._folder.name, name) for name in ("out", "err")]
        arguments = (list(words), str(cwd), dict(env), [str(path) for path in self._files])
        self._process = ForkServerProcess(target=_command, args=arguments, daemon=False)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; what it said on stdout and stderr."""
        self.wait(timeout)
        out, err = (path.read_text() if path.exists() else "" for path in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _command(words: list[str], cwd: str, env: dict[str, str], files: list[str]) -> None:
    """What the forked process does: becomes ``python -m`` in its folder."""
    for number, path in enumerate(files, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [words[0], *words[1:]]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def forked(
    words: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 120
) -> SimpleNamespace:
    """Runs a command to its end: ``out``, ``err`` and ``code``."""
    process = Forked(words, cwd, env)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return SimpleNamespace(out=out, err=err, code=process.returncode)
