"""Runs commands in processes forked from this one, which has the libraries loaded.

``python -I warm_server.py SOCKET PARENT_PID`` listens on a Unix socket until its parent has ended.
A client (:mod:`pipelines.warm`) sends its standard streams and a JSON line with ``argv`` (what
follows ``python -m``), ``cwd`` and ``env``; it gets the exit code, minus the number of a signal.
Between them stands a process that passes signals on to all that the command started, and ends when
nothing of it is left; when the client goes, everything is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from supervise import (  # type: ignore[import-not-found]  # as a file: the project is not loaded
    PAUSE,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    outlast,
    send,
)

sys.path.pop(0)

LIBRARIES = (  # none of this project, and none that cannot be forked (polars)
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.dependency",
    "dvc.output",
    "dvc.repo",
    "dvc.repo.reproduce",
    "dvc.stage.run",
    "ruamel.yaml",
    "pydantic",
    "numpy",
    "pyarrow.parquet",
    "great_expectations",
    "torch",
    "torch.nn.utils.rnn",
    "torch.utils.checkpoint",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.special",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.feature_extraction.text",
    "sklearn.metrics",
    "sklearn.mixture",
    "sacrebleu.metrics.bleu",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


def serve(path: str, parent: int) -> None:
    """Forks for every connection, until the parent of this process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to this process too
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):  # an installation without that part
            importlib.import_module(name)
    gc.freeze()  # the children do not copy what they only look at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    os.rename(f"{path}.new", path)
    while os.getppid() == parent:
        if select.select([listener], [], [], 1.0)[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Runs one command, stays until nothing of it is left, and tells its exit code."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        connection.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        become(**json.loads(message))
    for stream in streams:
        os.close(stream)
    stopped = False

    def pause() -> float | None:
        nonlocal stopped
        if select.select([connection], [], [], PAUSE)[0]:
            told = connection.recv(1)
            send(told[0] if told else signal.SIGKILL)
            if not told:
                os._exit(0)
            stopped = True
        return math.inf if stopped else None  # how long it may take is the client's business

    code = outlast(child, pause)
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


def become(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    """Is ``python -m`` from here on."""
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR may be another one now
    os.chdir(cwd)
    own = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [cwd, *filter(None, own), *sys.path]
    sys.argv = argv
    sys.stdout.reconfigure(line_buffering=bool(env.get("PYTHONUNBUFFERED")))  # type: ignore[union-attr]
    code: object = None
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    end(code or 0)


def end(code: int) -> None:
    """Ends as Python does, but takes no module apart: it would copy the memory that forks share."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
