"""Runs one command as a process of its own session, to its end or until it is told to stop.

Whatever happens, nothing of it is left: :mod:`pipelines.supervise` ends the command when this
process dies, and this module ends the session when the supervisor dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.dag import environment
from pipelines.supervise import PR_SET_PDEATHSIG

__all__ = ["GRACE", "MARK", "Finished", "end_with_parent", "run", "strays", "tail"]

SUPERVISOR = Path(__file__).with_name("supervise.py")
GRACE = 15.0  # seconds from SIGTERM to SIGKILL; a training promises its checkpoint in 10
TAIL_LINES = 20
MARK = "LDEBM_WORKTREE"  # in the environment of everything that runs in a worktree
REPORT_SECONDS = 2.0


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Attributes:
        code: its exit code; 128 + n when signal n ended it.
        seconds: how long it ran.
        tail: the last lines of its log.
        ended_by: ``None``: by itself; else ``cancelled`` or ``timeout``.
    """

    code: int
    seconds: float
    tail: tuple[str, ...]
    ended_by: str | None = None


def tail(path: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log; a line that a progress bar overwrote counts once."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 16384))
            text = stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    shown = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return tuple([line for line in shown if line][-lines:])


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    cancel: threading.Event | None = None,
    held: Sequence[int] = (),
    grace: float = GRACE,
    progress: Callable[[str], None] | None = None,
) -> Finished:
    """Runs ``command``, its output going to ``log``.

    Args:
        command: program and arguments.
        cwd: its working directory.
        log: file for stdout and stderr; what it had is kept.
        env: variables on top of :func:`pipelines.dag.environment`.
        timeout: seconds after which it is told to stop.
        cancel: when set, it is told to stop: SIGTERM, and SIGKILL after ``grace``.
        held: open lock files, which the command holds until its last process has ended.
        grace: seconds.
        progress: called with the newest line of the log, at most every two seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    variables = environment(env)
    variables["PYTHONUNBUFFERED"] = "1"
    variables["LDEBM_HELD_FDS"] = ",".join(str(fd) for fd in held)
    words = [sys.executable, "-IS", str(SUPERVISOR), str(os.getpid()), str(grace), *command]
    with log.open("ab") as stream:
        start = stream.tell()
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(held),
        )
    ended_by = None
    try:
        ended_by = _wait(process.pid, started, timeout, cancel, grace, _reporter(log, progress))
    finally:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            _stop(process.pid, grace)
        # Not yet reaped: the number of the session still belongs to it.
        _signal_session(process.pid, signal.SIGKILL)
        code = process.wait()
    return Finished(
        code if code >= 0 else 128 - code,
        time.monotonic() - started,
        tail(log) if log.stat().st_size > start else (),
        ended_by,
    )


def _reporter(log: Path, progress: Callable[[str], None] | None) -> Callable[[], None]:
    """Passes the newest line on when it is new, at most every two seconds."""
    last = time.monotonic()
    shown = ""

    def report() -> None:
        nonlocal last, shown
        now = time.monotonic()
        if progress is None or now - last < REPORT_SECONDS:
            return
        last = now
        line = next(iter(tail(log, 1)), "")
        if line and line != shown:
            shown = line
            progress(line)

    return report


def _wait(
    pid: int,
    started: float,
    timeout: float | None,
    cancel: threading.Event | None,
    grace: float,
    report: Callable[[], None],
) -> str | None:
    """Waits for the end of the process without reaping it."""
    pause = 0.01
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if cancel is not None and cancel.is_set():
            _stop(pid, grace)
            return "cancelled"
        if timeout is not None and time.monotonic() - started > timeout:
            _stop(pid, grace)
            return "timeout"
        report()
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
    return None


def _stop(pid: int, grace: float) -> None:
    """SIGTERM to the supervisor, which stops the rest; SIGKILL to all if it does not manage."""
    _kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace + 5.0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            _signal_session(pid, signal.SIGKILL)
        time.sleep(0.02)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_session(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return


def end_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent of this process dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def strays(worktree: Path) -> list[int]:
    """Processes that a run in ``worktree`` started and that are still alive."""
    wanted = f"{MARK}={worktree.resolve()}".encode()
    processes = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if wanted in variables and state != "Z":
            processes.append(int(entry.name))
    return processes
