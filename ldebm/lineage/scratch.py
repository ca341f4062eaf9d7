"""Scratch checkouts of a commit, gone when they are left: by the end, an error, Ctrl-C or SIGTERM.

A git worktree in the folder for temporary files, so that the user's working tree is never touched.
What a killed process left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ldebm.errors import LdebmError
from ldebm.lineage.revisions import git

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
    _sweep(root)
    place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    scratch = place / "project"
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "worktree", "add"]  # DVC has a hook
    try:
        added = subprocess.run(
            [*command, "--detach", "--quiet", str(scratch), commit],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        if added.returncode:
            raise LdebmError(f"git worktree add {commit[:12]}: {' '.join(added.stderr.split())}")
        prefix = (git("rev-parse", "--show-prefix", root=root) or b"").decode().strip()
        yield scratch / prefix
    finally:
        _remove(root, place)


def _remove(root: Path, place: Path) -> None:
    git("worktree", "remove", "--force", "--force", str(place / "project"), root=root)
    shutil.rmtree(place, ignore_errors=True)
    git("worktree", "prune", root=root)


def _sweep(root: Path) -> None:
    """Removes what audits left that were killed with no chance to clean up."""
    listing = (git("worktree", "list", "--porcelain", root=root) or b"").decode()
    for line in listing.splitlines():
        place = Path(line.removeprefix("worktree ")).parent
        if not line.startswith("worktree ") or not place.name.startswith(_PREFIX):
            continue
        owner = place.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            _remove(root, place)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
