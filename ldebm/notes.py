"""What running code tells whoever records it: its device, and facts of its own.

Code that trains or evaluates calls :func:`note`; without a recording around it nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Recording", "note", "note_device", "recording_of", "running"]

_active: list[Recording] = []


class Recording:
    """What a running stage may add to its record.

    Attributes:
        stage: its name.
        device: where it computes.
        facts: of its own.
    """

    def __init__(self, stage: str = "") -> None:
        self.stage = stage
        self.device: torch.device | None = None
        self.facts: dict[str, Any] = {}


@contextmanager
def recording_of(stage: str) -> Iterator[Recording]:
    """A block whose notes are collected."""
    recording = Recording(stage)
    _active.append(recording)
    try:
        yield recording
    finally:
        _active.pop()


def running() -> Recording | None:
    """The innermost recording, if there is one."""
    return _active[-1] if _active else None


def note(**facts: Any) -> None:
    """Adds facts to the running recording, if there is one."""
    if _active:
        _active[-1].facts |= facts


def note_device(device: torch.device) -> None:
    """Says in the running recording, if there is one, where the code computes."""
    if _active:
        _active[-1].device = device
