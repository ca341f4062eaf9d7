"""The trainer for somebody who waits: Ctrl-C, or a time budget, ends a training and keeps its best.

It is :class:`~ldebm.training.trainer.Loop` with another end. A budget of seconds shortens the
training as soon as its speed shows that it would not end in time, so that the learning rate falls
as it would in a shorter one.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from ldebm.config import TrainingConfig
from ldebm.errors import UsageError
from ldebm.seeding import configure
from ldebm.training.interrupt import Interrupt
from ldebm.training.trainer import Loop, Task, TrainResult

__all__ = ["Trainer", "as_configured"]

SPEED_AFTER = 20  # updates after which the speed is known, and between looks at it


class Trainer:
    """Trains tasks one after the other.

    Args:
        seconds: budget of all of them together; ``None``: as long as they are.
        first: score a task before its first update, so that training cannot end below that.

    Attributes:
        ended: task by title -> how it ended before its length: ``Ctrl-C`` or ``time``.
        updates: task by title -> updates that were made.
        validation: task by title -> its validations.
    """

    def __init__(self, seconds: float | None = None, *, first: bool = False) -> None:
        if seconds is not None and not seconds > 0:
            raise UsageError(f"seconds {seconds!r}: expected a number above 0, or None")
        self.begun, self.seconds, self.first = time.monotonic(), seconds, first
        self.ended: dict[str, str] = {}
        self.updates: dict[str, int] = {}
        self.validation: dict[str, list[dict[str, float]]] = {}

    def until(self, share: float) -> float | None:
        """The moment at which a share of the budget is spent."""
        return None if self.seconds is None else self.begun + share * self.seconds

    def run(
        self, task: Task, config: TrainingConfig, *, title: str, share: float = 1.0
    ) -> TrainResult:
        """Trains ``task`` as :func:`~ldebm.training.trainer.train` does, without a checkpoint.

        Args:
            task: module and losses.
            config: length and optimiser.
            title: shown in the progress.
            share: of the budget that may be spent when this task ends.
        """
        with _CtrlC() as pressed:
            loop = _Loop(task, config, title, pressed, self.until(share))
            if self.first and loop.validate_steps:
                loop.validate_first()
            loop.run(Interrupt(), None)
        self.updates[title], self.validation[title] = loop.step, loop.validation
        if loop.why:
            self.ended[title] = loop.why
            reason = "stopped by Ctrl-C" if pressed.received else "its time is over"
            kept = "the best weights" if loop.best else "the weights"
            print(f"{title}: {reason} at update {loop.step}; {kept} are kept", file=sys.stderr)
        return loop.result()


class _CtrlC:
    """Remembers the first Ctrl-C; the second one interrupts as usual."""

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None

    def __enter__(self) -> _CtrlC:
        with contextlib.suppress(ValueError):  # not the main thread: there is no Ctrl-C
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


class _Loop(Loop):
    """A training that Ctrl-C or a deadline ends early."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        title: str,
        pressed: _CtrlC,
        deadline: float | None,
    ) -> None:
        super().__init__(task, config, None, title, [])
        self.pressed, self.deadline = pressed, deadline
        self.marked = self.step, time.monotonic()
        self.wanted, self.why = self.total, ""

    def validate_first(self) -> None:
        """Scores the initial weights."""
        self._validate()

    @property
    def stopped(self) -> bool:
        if self.pressed.received:
            self.why = "Ctrl-C"
        elif self.deadline is not None and self.step and time.monotonic() > self.deadline:
            self.why = "time"
        return bool(self.why) or super().stopped

    def end_update(self) -> None:
        super().end_update()
        if self.deadline is not None and self.step - self.marked[0] >= SPEED_AFTER:
            self._shorten(self.deadline)

    def _shorten(self, deadline: float) -> None:
        """Ends the training where it can be by the deadline, at the speed of the last updates."""
        now, (step, then) = time.monotonic(), self.marked
        self.marked = self.step, now
        left = max(0.0, deadline - now) * (self.step - step) / max(now - then, 1e-9)
        total = min(self.wanted, max(self.step + 1, self.step + int(left)))
        if total != self.total:
            self.total = total
            if (shorten := getattr(self.task, "shorten", None)) is not None:
                shorten(total)


@contextlib.contextmanager
def as_configured(threads: int, *, quiet: bool = False) -> Iterator[None]:
    """The numeric settings of a stage in the block, and after it those of the caller again.

    Args:
        threads: of the CPU.
        quiet: show no progress.
    """
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    debug = torch.get_deterministic_debug_mode()
    silence = contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        configure(threads)
        with silence:
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.set_deterministic_debug_mode(debug)
