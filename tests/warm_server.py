"""Runs commands in processes forked from this one, which has the libraries loaded.

``python tests/warm_server.py SOCKET`` listens on a Unix socket. A client sends its standard streams
and a JSON line with ``argv`` (what follows ``python -m``), ``cwd`` and ``env``; it gets the exit
code, minus the number of a signal. When the client goes, the command is killed.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading

LIBRARIES = (  # none that starts threads when it is imported, and none of this project
    "torch",
    "torch._dynamo",  # the first optimiser of a process imports it: over a second
    "torch.nn.functional",
    "torch.nn.utils.rnn",
    "torch.utils.checkpoint",
    "numpy",
    "scipy.optimize",
    "scipy.special",
    "sklearn.cluster",
    "sklearn.metrics",
    "sklearn.mixture",
    "sklearn.feature_extraction.text",
    "sklearn.datasets",
    "sacrebleu.metrics.bleu",
    "pyarrow.parquet",
    "pyarrow.csv",
    "pyarrow.json",
    "pydantic",
    "typer",
    "rich.progress",
    "yaml",
    "safetensors.torch",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "great_expectations",
    "jinja2",
    "PIL.Image",
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.dependency",
    "dvc.output",
    "dvc.repo",
    "dvc.repo.reproduce",
    "dvc.stage.run",
    "ruamel.yaml",
)


def serve(path: str) -> None:
    """Forks for every connection, until this process is ended."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # the children do not copy what they only look at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that serve
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    os.rename(f"{path}.new", path)
    parent = os.getppid()
    while os.getppid() == parent:
        if select.select([listener], [], [], 1.0)[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Runs one command and tells its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        connection.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        become(**json.loads(message))
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        told = connection.recv(1) if ready else b""
        os.kill(child, told[0] if told else signal.SIGKILL)
        if not told:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    """Is ``python -m`` from here on."""
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR is another one now
    os.chdir(cwd)
    sys.path[:] = [
        cwd,
        *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)),
        *(entry for entry in sys.path[1:] if entry not in OWN),
    ]
    sys.argv = argv
    sys.stdout.reconfigure(line_buffering=bool(env.get("PYTHONUNBUFFERED")))
    code: object = None
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    end(code or 0)


def end(code: int) -> None:
    """Ends as Python does, but takes no module apart: it would copy the memory that forks share."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


OWN = {*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))}

if __name__ == "__main__":
    serve(sys.argv[1])
