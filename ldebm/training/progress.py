"""Progress of what takes a while: a bar on a terminal, elsewhere one line per tenth, or more."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["Progress"]

LINES = 10
SECONDS = 20.0  # at most between two lines of a training, whose tenths may take hours


class Progress:
    """Shows updates, loss terms, speed and time left, on stderr.

    Args:
        title: what is done.
        total: updates in all.
        done: updates done before this process.
        unit: what is counted.
        pause: seconds between lines, instead of tenths: what is done at once says nothing.
    """

    def __init__(
        self, title: str, total: int, done: int = 0, unit: str = "updates", pause: float = 0.0
    ) -> None:
        self.title, self.total, self.begun = title, total, done
        self.unit, self.pause = unit, pause
        self.clock = self.said = time.monotonic()
        self.next_line = done + max(1, total // LINES)
        self.bar: RichProgress | None = None
        if sys.stderr.isatty():
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}  {task.fields[terms]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(title, total=total, completed=done, terms="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, step: int, terms: Mapping[str, float]) -> None:
        """Reports the state after ``step`` updates."""
        seconds = max(time.monotonic() - self.clock, 1e-9)
        speed = (step - self.begun) / seconds
        named = "  ".join(
            f"{name} {value:.4g}"
            for name, value in terms.items()
            if name not in ("update", "epoch")
        )
        if self.bar:
            self.bar.update(self.task, completed=step, terms=f"{named}  {speed:.1f}/s")
        elif self._due(step):
            if step >= self.next_line:
                self.next_line += max(1, self.total // LINES)
            self.said = time.monotonic()
            left = (self.total - step) / max(speed, 1e-9)
            parts = [f"{self.title}: {step}/{self.total}", named]
            parts += [f"{speed:.2f} {self.unit}/s", f"{left:.0f} s left"]
            print("  ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def _due(self, step: int) -> bool:
        waited = time.monotonic() - self.said
        if self.pause:
            return waited >= self.pause
        return step >= self.next_line or step == self.total or waited >= SECONDS
