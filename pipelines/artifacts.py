"""What a flow shows in Prefect: one progress bar, a table and a page of text per run.

An artifact that cannot be written (a server that has gone) never fails a build, nor holds it up:
Prefect tries for more than a minute to reach its server.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

__all__ = ["ProgressBar", "publish", "write"]

UPDATE_SECONDS = 2.0
LAST_SECONDS = 5.0  # for the last state of a progress bar
LOST_SECONDS = 300.0  # without artifacts after one that could not be written
logger = logging.getLogger(__name__)


class ProgressBar:
    """The progress artifact of a build: the share of its estimated time that is done.

    Args:
        key: lower-case letters, numbers and dashes.
        weights: seconds by stage, for those that may run.
    """

    shows_lines = False  # the log of the flow run is read without it

    def __init__(self, key: str, weights: Mapping[str, float | None]) -> None:
        known = [value for value in weights.values() if value]
        usual = sum(known) / len(known) if known else 1.0
        self.weights = {name: value or usual for name, value in weights.items()}
        self.lines: dict[str, str] = {}
        self.done: set[str] = set()
        self._shown: tuple[float, str] | None = None
        self._at = 0.0
        self._id: UUID | None = None
        self._writing = threading.Thread()
        if self.weights:
            made = write(lambda: create_progress_artifact(0.0, key, "starting"))
            self._id = made if isinstance(made, UUID) else None

    def started(self, name: str) -> None:
        """A stage counts when it has ended."""

    def line(self, name: str, text: str) -> None:
        """Takes the newest line of a running stage's log."""
        self.lines[name] = text

    def finished(self, name: str) -> None:
        """Takes the end of a stage."""
        self.done.add(name)
        self.lines.pop(name, None)

    def update(self, force: bool = False) -> None:
        """Has the artifact written by a thread, at most every two seconds.

        Args:
            force: this is the last state: write it in any case, and wait a little for it.
        """
        now = time.monotonic()
        if self._id is None or (now - self._at < UPDATE_SECONDS and not force):
            return
        self._at = now
        if force and self._writing.ident:
            self._writing.join(LAST_SECONDS)
        if self._writing.is_alive():
            return
        part = sum(weight for name, weight in self.weights.items() if name in self.done)
        percent = round(100.0 * part / sum(self.weights.values()), 1)
        count = f"{len(self.done & self.weights.keys())} of {len(self.weights)} stages"
        text = "; ".join([count, *(f"{name}: {line}" for name, line in self.lines.copy().items())])
        if (percent, text) != self._shown:
            self._shown = (percent, text)
            artifact = self._id
            run = contextvars.copy_context().run  # the thread writes for this flow run
            work = (write, lambda: update_progress_artifact(artifact, percent, text))
            self._writing = threading.Thread(target=run, args=work, daemon=True)
            self._writing.start()
            if force:
                self._writing.join(LAST_SECONDS)


class _Writer:
    """Writes artifacts; after one that could not be written none for a while."""

    def __init__(self) -> None:
        self.lost_at = float("-inf")

    def __call__(self, write: Callable[[], Any]) -> Any:
        if time.monotonic() - self.lost_at < LOST_SECONDS:
            return None
        try:
            return write()
        except Exception as error:
            self.lost_at = time.monotonic()
            logger.warning("an artifact could not be written: %s", error)
            return None


write = _Writer()


def publish(key: str, page: str, title: str, rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """Writes a page of text under a key such as ``build-report``, its rows as ``build-table``."""
    table = [dict(row) for row in rows]
    if table:
        name = f"{key.removesuffix('-report')}-table"
        write(lambda: create_table_artifact(table, name, title))
    write(lambda: create_markdown_artifact(page, key, title))
