"""A table of the stages that run, on a terminal: what each has come to, and how long it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from pipelines.estimate import words
from pipelines.names import newest

__all__ = ["LiveTable"]

REFRESH = 0.5  # seconds between two pictures


class LiveTable:
    """Shows running stages under the lines that a build says.

    Attributes:
        shows_lines: the newest lines of logs are seen here; they need not be said.

    Args:
        weights: estimated seconds of the stages that may run, where they are known.
        console: where; by default standard error.
    """

    shows_lines = True

    def __init__(self, weights: Mapping[str, float | None], console: Console | None = None) -> None:
        self.weights = dict(weights)
        self.done: set[str] = set()
        self.running: dict[str, tuple[float, str]] = {}
        self.shown = 0.0
        console = console or Console(file=sys.stderr, highlight=False, markup=False)
        # Lines that others print meanwhile go above the table.
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()

    def started(self, name: str) -> None:
        """Takes the start of a stage."""
        self.running[name] = (time.monotonic(), "")

    def line(self, name: str, text: str) -> None:
        """Takes the newest line of a running stage's log."""
        start = self.running.get(name, (time.monotonic(), ""))[0]
        self.running[name] = (start, newest(name, text))

    def finished(self, name: str) -> None:
        """Takes the end of a stage."""
        self.running.pop(name, None)
        self.done.add(name)

    def update(self, force: bool = False) -> None:
        """Draws the table; ``force``: for the last time."""
        now = time.monotonic()
        if force:
            self.live.stop()
        elif now - self.shown >= REFRESH:
            self.shown = now
            self.live.update(self.table(now), refresh=True)

    def table(self, now: float) -> RenderableType:
        """The table at a time of ``time.monotonic``."""
        table = Table(box=None, pad_edge=False, expand=True)
        running = self.running.copy()  # lines come from other threads
        table.add_column(self._head(running, now), no_wrap=True, ratio=2)
        table.add_column("for", justify="right", no_wrap=True)
        table.add_column("of about", justify="right", no_wrap=True)
        table.add_column("says", no_wrap=True, overflow="ellipsis", ratio=3)
        for name, (start, text) in running.items():
            about = self.weights.get(name)
            expected = "?" if about is None else words(about)
            table.add_row(name, words(now - start), expected, text)
        return table

    def _head(self, running: Mapping[str, tuple[float, str]], now: float) -> str:
        head = f"{len(self.done & self.weights.keys())}/{len(self.weights)} stages"
        known = [value for value in self.weights.values() if value]
        if not known or not running:
            return head
        usual = sum(known) / len(known)
        left = sum(
            max(0.0, (weight or usual) - (now - running[name][0] if name in running else 0.0))
            for name, weight in self.weights.items()
            if name not in self.done
        )
        return f"{head}, about {words(left / len(running))} left"
