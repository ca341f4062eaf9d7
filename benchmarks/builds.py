"""Small builds for measurements of the flows: started, watched, and looked at when they ended."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.lockfile import lock_blocks
from pipelines.runner import strays
from tests.pipeline.tiny_project import Tiny

__all__ = [
    "PATIENCE",
    "corrupt",
    "lives",
    "log_of",
    "outputs",
    "server",
    "start",
    "started_by",
    "wait_for",
    "working",
]

PATIENCE = 300.0  # seconds for a build on a busy machine


def outputs(root: Path, folders: tuple[str, ...] = ("out", "metrics")) -> dict[str, str]:
    """Hashes of everything that stages write, and the entries of dvc.lock.

    After a failure the entries stand in another order, as after ``dvc repro --keep-going``.
    """
    files = [path for name in folders for path in (root / name).rglob("*") if path.is_file()]
    hashes = {str(f.relative_to(root)): hashlib.md5(f.read_bytes()).hexdigest() for f in files}
    lock = root / "dvc.lock"
    blocks = lock_blocks(lock.read_text()) if lock.is_file() else {}
    return hashes | {f"dvc.lock {name}": text for name, text in blocks.items()}


def corrupt(root: Path) -> int:
    """Files of the cache that do not have their hash."""
    count = 0
    for path in (root / ".dvc/cache/files/md5").glob("??/*"):
        if path.is_file():
            wanted = (path.parent.name + path.name).removesuffix(".dir")
            count += hashlib.md5(path.read_bytes()).hexdigest() != wanted
    return count


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Polls; False if it never came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def server(home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prefect server on a free port of this machine, with its files in ``home``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--no-services"],
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{url}/health", timeout=2).status == 200)
        except OSError:
            return False

    try:
        if not wait_for(answers, 180):
            raise RuntimeError("the Prefect server did not start within 180 s")
        yield url, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(tiny: Tiny, *words: str, limit: int | None = None) -> subprocess.Popen[bytes]:
    """Starts ``python -m pipelines build``; ``limit``: bytes of its largest file."""

    def in_child() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with (tiny.root.parent / "flow.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", "build", "--slots", "3", *words],
            cwd=tiny.root,
            env=tiny.env,
            stdout=log,
            stderr=log,
            preexec_fn=in_child,
        )


def log_of(tiny: Tiny) -> str:
    """What the flow has printed."""
    path = tiny.root.parent / "flow.log"
    return path.read_text(errors="replace") if path.exists() else ""


def working(tiny: Tiny) -> list[int]:
    """The processes of stages of the project's build."""
    return strays(tiny.root / ".dvc/tmp/runs/workspace")


def started_by(tiny: Tiny) -> list[int]:
    """Every process that commands of the project have started and that runs, at any distance."""
    mark = f"TINY_RAN={tiny.log}".encode()
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                processes.append(int(entry.name))
    return [pid for pid in processes if lives(pid)]


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended (a machine whose init reaps nobody keeps it)."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[0] != "Z"
