"""Runs one command so that nothing of it outlives the process that started this.

``runner`` starts this file with ``python -IS``, as the leader of a new session. It asks the kernel
for SIGTERM when its parent dies, and adopts whatever its children leave behind (killing dvc
leaves the training that dvc started). On SIGTERM it passes the signal on, so that a training can
write its checkpoint, and after a grace it kills what is left. It loads nothing but the standard
library: a stage must not wait for it.

    python -IS supervise.py PARENT_PID GRACE_SECONDS COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PAUSE = 0.02  # seconds between two looks at a command's processes
STRAY_GRACE = 2.0  # seconds for what a command that has ended left running
_libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int) -> list[int]:
    """Processes below ``root``, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stream:
                parent = int(stream.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(entry))
    processes: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        processes += below
        queue += below
    return processes


def send(number: int) -> None:
    """Signals everything below this process."""
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _reap(main: int) -> tuple[int | None, bool]:
    """The command's exit status if it has ended now, and whether any child is left."""
    status = None
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, False
        if pid == 0:
            return status, True
        if pid == main:
            status = os.waitstatus_to_exitcode(code)


def outlast(main: int, pause: Callable[[], float | None]) -> int | None:
    """Waits until nothing below this process is left; what outlives the command is ended.

    Args:
        main: the command.
        pause: waits a moment; once all was told to stop, it says by when that has to be done.

    Returns:
        The command's exit status.
    """
    code: int | None = None
    deadline = float("inf")
    while True:
        status, left = _reap(main)
        code = status if status is not None else code
        if not left:
            return code
        told = pause()
        if deadline == float("inf"):
            if told is not None:
                deadline = told
            elif code is not None:
                send(signal.SIGTERM)
                deadline = time.monotonic() + STRAY_GRACE
        if time.monotonic() > deadline:
            send(signal.SIGKILL)


def main() -> int:
    """Runs the command and returns its exit code, 128 + n if signal n ended it."""
    parent, grace = int(sys.argv[1]), float(sys.argv[2])
    stopped_at: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopped_at:
            stopped_at.append(time.monotonic())
            send(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM

    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    inherited = [int(fd) for fd in os.environ.pop("LDEBM_HELD_FDS", "").split(",") if fd]
    child = subprocess.Popen(sys.argv[3:], preexec_fn=in_child, pass_fds=inherited)

    def pause() -> float | None:
        time.sleep(PAUSE)
        return stopped_at[0] + grace if stopped_at else None

    code = outlast(child.pid, pause)
    child.returncode = code
    if code is None:
        return 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
