"""Scratch checkouts of a commit, gone when they are left: by the end, an error, Ctrl-C or SIGTERM.

A checkout in the folder for temporary files, so that the user's repository is never touched. What a
killed process left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ldebm.errors import LdebmError
from pipelines.lineage.checkout import Checkout

__all__ = ["Interrupted", "stop_on_sigterm", "worktree"]

_PREFIX = "ldebm-audit-"


class Interrupted(LdebmError):
    """Ctrl-C or SIGTERM ended the work; the message says what was stopped. Exit code 130."""

    exit_code = 130


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM clean up as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever made it stops it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A checkout of ``commit`` that is gone afterwards."""
    _sweep()
    place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        yield Checkout(root, place / "project").fill(commit)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _sweep() -> None:
    """Removes what audits left that were killed with no chance to clean up."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = place.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(place, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
