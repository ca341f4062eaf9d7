"""Ctrl-C, SIGTERM and SIGHUP: the first stops a command in good order, a second one at once.

Whatever a flow has started ends with its process, see :mod:`pipelines.supervise`: leaving at once
loses nothing, a training still writes its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType

__all__ = [
    "STOPPED", "Interrupted", "check", "leave_within", "listen", "name", "program", "received",
    "word",
]  # fmt: skip

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = "interrupted; the next start continues from what is finished"
SAME = 1.0  # seconds in which a signal counts once: `timeout` and `make` send theirs twice
_received: list[tuple[int, float]] = []
_program = ["python -m pipelines"]


class Interrupted(BaseException):
    """A signal ended the command. No error: nothing that handles errors may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def name(program: str) -> None:
    """Says as what this process was started."""
    _program[0] = program


def program() -> str:
    """As what this process was started: ``ldebm``, or ``python -m pipelines``."""
    return _program[0]


def listen() -> None:
    """Takes the signals from now on; one that is ignored (``nohup``) stays ignored."""
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _take)


def received() -> int | None:
    """The number of the signal that came first; None if none has come."""
    return _received[0][0] if _received else None


def check() -> None:
    """Raises again what a callback of some library has swallowed.

    Raises:
        Interrupted: a signal has come.
    """
    if _received:
        raise Interrupted(_received[0][0])


def _take(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _received:
        _received.append((number, now))
        raise Interrupted(number)
    if now - _received[0][1] > SAME:
        _leave(f"{word()}: ended at once; stages that still run end by themselves", number)


def leave_within(seconds: float) -> None:
    """Ends this process after a while if it has not ended by itself: who is left waits in vain."""
    number = received()
    if number is not None:
        timer = threading.Timer(seconds, _leave, [f"{word()}: {STOPPED}", number])
        timer.daemon = True
        timer.start()


def word() -> str:
    """The last word of that, which begins its messages."""
    return program().split()[-1]


def _leave(text: str, number: int) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"\n{text}\n".encode())
    os._exit(128 + number)
