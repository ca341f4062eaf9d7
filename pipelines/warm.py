"""Stages that start at once: a process with the libraries loaded forks for each of them.

A build starts ``python -m stages.NAME`` and ``dvc repro`` dozens of times, and most of them take
less time than the import of DVC, torch or Great Expectations. In its environment, the folder of
:class:`WarmPython` comes first in PATH: its ``python`` gives these commands to the process of
:mod:`pipelines.warm_server` and is Python itself for all others, and where that process is not
there (yet). Working folder, environment, streams, signals and exit codes are those of the real
command, and the project's own code is read where it runs.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ldebm.errors import UsageError

__all__ = ["WarmPython", "warmed"]

LOADING = ("validate", "judge", "backbone", "cluster", "prior", "evaluate", "report")
ENOUGH = 5  # stages that load libraries; loading them once more pays from here on
SERVER = Path(__file__).with_name("warm_server.py")
WARM = ("stages", "ldebm", "dvc")
CLIENT = """\
#!{python} -IS
import os, sys
words = sys.argv[1:]
if os.path.basename(sys.argv[0]) == "dvc":
    words = ["-m", "dvc", *words]
def plain():
    os.execv({python!r}, [{python!r}, *words])
if words[:1] != ["-m"] or words[1:2] == [] or words[1].split(".")[0] not in {names!r}:
    plain()
import json, signal, socket
server = socket.socket(socket.AF_UNIX)
try:
    server.connect({path!r})
except OSError:
    plain()
command = {{"argv": words[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(server, [b"{{"], [0, 1, 2])
server.sendall(json.dumps(command).encode()[1:] + b"\\n")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
code = int(server.recv(16) or -signal.SIGKILL)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmPython:
    """A folder with a quick ``python``; its server starts at once and ends with this process.

    Args:
        env: the environment of the server; what a command is given later is its own.
        wait: whether to wait until the libraries are loaded.

    Attributes:
        python: the quick ``python``.
    """

    def __init__(self, env: Mapping[str, str], wait: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ldebm-warm-"))
        path = self._folder / "socket"
        self.python = self._folder / "bin" / "python"
        self.python.parent.mkdir()
        self.python.write_text(CLIENT.format(python=sys.executable, path=str(path), names=WARM))
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)
        self.python.with_name("dvc").symlink_to(self.python)
        words = [sys.executable, "-I", str(SERVER), str(path), str(os.getpid())]
        null = subprocess.DEVNULL
        self._server = subprocess.Popen(words, env=dict(env), stdin=null, stdout=null, stderr=null)
        while wait and not path.exists():
            if self._server.poll() is not None:
                raise UsageError("the process that forks stages ended; is an installation broken?")
            time.sleep(0.02)

    @property
    def path(self) -> str:
        """What comes first in PATH."""
        return str(self.python.parent)

    def close(self) -> None:
        """Ends the server and removes the folder; commands that run go on."""
        self._server.kill()
        self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def warmed(stages: Iterable[str], env: Mapping[str, str]) -> Iterator[WarmPython | None]:
    """A quick ``python`` for a build, or None where too few of its stages would gain by it.

    Args:
        stages: names of those that may run.
        env: the environment of the build's processes.
    """
    if sum(name.partition("@")[0] in LOADING for name in stages) < ENOUGH:
        yield None
        return
    python = WarmPython(env)
    try:
        yield python
    finally:
        python.close()
