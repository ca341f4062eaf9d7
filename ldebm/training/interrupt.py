"""SIGTERM in training: the step in hand is finished, then a checkpoint is written."""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """Remembers SIGTERM until the step in hand is done."""

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        try:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: the caller decides about signals
            self._previous = None
        return self

    def _note(self, *_: object) -> None:
        self.received = True

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
