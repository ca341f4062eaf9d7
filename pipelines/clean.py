"""The ``clean`` flow: worktrees, logs, checkpoints and files that nothing needs, and the cache.

It only says what it would delete, unless it is told to delete. Nothing that a build works on now is
touched, and the cache is never collected while one runs.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.errors import LdebmError, UsageError
from pipelines.engine import current
from pipelines.failures import dvc_said
from pipelines.slots import lock_file
from pipelines.worktree import Workspace

__all__ = ["CleanReport", "Item", "clean"]

DAY = 86400.0
LOGS = "logs"
WORK = "work"
TEXTS = ".texts-"  # folders in which `prepare` keeps texts while it works (ldebm.data.kinds.spill)
PART = re.compile(r"\..+\.([0-9a-f]{8}|\d+)\.part")  # files that are being written


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Attributes:
        kind: ``worktree``, ``log``, ``checkpoint``, ``unfinished`` or ``cache``.
        path: what it is.
        bytes: how much space it has; links into the cache are not counted.
        why: why nothing needs it.
    """

    kind: str
    path: str
    bytes: int
    why: str


@dataclass(frozen=True)
class CleanReport:
    """What was, or would be, deleted.

    Attributes:
        items: all of it.
        deleted: whether it was.
        kept: worktrees that are in use, or younger than asked for.
    """

    items: tuple[Item, ...]
    deleted: bool
    kept: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Space of all items."""
        return sum(item.bytes for item in self.items)

    def lines(self) -> list[str]:
        """The report in lines."""
        verb = "deleted" if self.deleted else "would delete"
        lines = [
            f"{verb} {item.kind} {item.path} ({_size(item.bytes)}): {item.why}"
            for item in self.items
        ]
        lines += [f"kept {name}" for name in self.kept]
        hint = "" if self.deleted or not self.items else "; `--delete` does it"
        return [*lines, f"{verb} {len(self.items)} things, {_size(self.bytes)}{hint}"]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        items = [vars(item) for item in self.items]
        return {"items": items, "deleted": self.deleted, "kept": list(self.kept)}


def clean(
    root: Path = Path(), *, days: float = 7.0, cache: bool = False, delete: bool = False
) -> CleanReport:
    """Removes what finished builds have left.

    Args:
        root: the project's folder.
        days: worktrees, logs, checkpoints and unfinished files that are younger are kept.
        cache: also collect DVC's cache: everything that neither the workspace, nor a branch, a
            tag, an experiment or a kept worktree uses. Refused while a build runs.
        delete: do it; else only say what would go.

    Raises:
        UsageError: no project, or ``cache`` while a build runs.
    """
    workspace = Workspace(root)
    now = time.time()
    items: list[Item] = []
    kept: list[str] = []
    with contextlib.ExitStack() as stack:
        for folder in _worktrees(workspace):
            fd = lock_file(workspace.runs / f"{folder.name}.lock")
            if fd is None:
                kept.append(f"{folder.name}: a build works there")
                continue
            stack.callback(os.close, fd)
            age = (now - _touched(workspace, folder)) / DAY
            if age < days:
                kept.append(f"{folder.name}: used {age:.1f} days ago")
                continue
            why = f"not used for {age:.0f} days; its results are in the cache"
            items.append(Item("worktree", _shown(workspace, folder), _bytes(folder), why))
            if delete:
                workspace.remove(folder.name)
        busy = any("works there" in name for name in kept)
        items += _old_files(workspace, now - days * DAY, delete)
        if not busy:
            items += _checkpoints(workspace, now - days * DAY, delete)
            items += _unfinished(workspace, now - days * DAY, delete)
        if cache:
            if busy:
                raise UsageError("the cache is not collected while a build runs; wait for its end")
            items += _collect(workspace, delete)
    report = CleanReport(tuple(items), delete, tuple(kept))
    rows = [vars(item) for item in items]
    engine = current()
    page = "# Clean\n\n" + "\n".join(f"- {line}" for line in report.lines()) + "\n"
    engine.publish("clean-report", page, "Clean", rows)
    engine.say(report.lines()[-1])
    return report


def _worktrees(workspace: Workspace) -> Iterator[Path]:
    if not workspace.runs.is_dir():
        return
    for folder in sorted(workspace.runs.iterdir()):
        if folder.is_dir() and folder.name not in (LOGS, WORK):
            yield folder


def _touched(workspace: Workspace, folder: Path) -> float:
    """When a build last worked in a worktree: its lock file is written at its start."""
    lock = workspace.runs / f"{folder.name}.lock"
    times = [path.stat().st_mtime for path in (lock, folder / "dvc.lock") if path.is_file()]
    return max(times, default=folder.stat().st_mtime)


def _old_files(workspace: Workspace, before: float, delete: bool) -> Iterator[Item]:
    """Logs, and locks of work, that nobody has written to for long."""
    for path in _untouched(workspace.runs / LOGS, before):
        yield Item("log", _shown(workspace, path), path.stat().st_size, "old")
        if delete:
            path.unlink(missing_ok=True)
    for path in _untouched(workspace.runs / WORK, before):
        if delete and (fd := lock_file(path)) is not None:
            path.unlink(missing_ok=True)
            os.close(fd)


def _untouched(folder: Path, before: float) -> list[Path]:
    """The files of a folder, at any depth, that were last written to before a time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if path.stat().st_mtime <= before)


def _checkpoints(workspace: Workspace, before: float, delete: bool) -> Iterator[Item]:
    """Checkpoints that no training has written to for long: a finished one deletes its own."""
    folder = workspace.root / ".ckpt"
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and path.stat().st_mtime <= before:
            why = "of a training that nobody went on with"
            yield Item("checkpoint", _shown(workspace, path), path.stat().st_size, why)
            if delete:
                path.unlink(missing_ok=True)


def _unfinished(workspace: Workspace, before: float, delete: bool) -> Iterator[Item]:
    """What a stage that was killed had not finished writing; every other one removes its own."""
    for folder, folders, files in os.walk(workspace.root):
        here = Path(folder)
        left = [here / name for name in folders if name.startswith(TEXTS)]
        left += [here / name for name in files if PART.fullmatch(name)]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in sorted(left):
            if path.is_symlink() or _written(path) > before:
                continue
            size = _bytes(path) if path.is_dir() else path.stat().st_size
            yield Item("unfinished", _shown(workspace, path), size, "of a stage that was killed")
            if delete:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    """When a file, or a folder and what is in it, was last written to; infinity if it is gone."""
    try:
        return max(item.lstat().st_mtime for item in (path, *path.rglob("*")))
    except FileNotFoundError:
        return math.inf


def _collect(workspace: Workspace, delete: bool) -> Iterator[Item]:
    """DVC's garbage collection, keeping all that a commit, an experiment or a worktree names."""
    keep = ["--workspace", "--all-commits", "--all-experiments"]
    projects = [workspace.place(folder.name) for folder in _worktrees(workspace)]
    names = [item for place in projects if (place / ".dvc").is_dir() for item in ("-p", str(place))]
    words = ["gc", *keep, *names]
    dry = workspace.dvc(*words, "--dry", "--force")
    if dry.returncode:
        raise LdebmError(f"dvc gc: {dvc_said(dry.stderr)}")
    count = _number(dry.stdout + dry.stderr)
    if count:
        yield Item("cache", f"{count} objects", 0, "no commit, experiment or worktree has them")
    if delete and count:
        done = workspace.dvc(*words, "--force")
        if done.returncode:
            raise LdebmError(f"dvc gc: {dvc_said(done.stderr)}")


def _number(text: str) -> int:
    """How many objects DVC says it would remove."""
    counts = [int(number) for number in re.findall(r"(\d+) objects", text)]
    return max(counts, default=0)


def _shown(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.root).as_posix()


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        facts = path.lstat()
        if not path.is_symlink() and path.is_file() and facts.st_nlink == 1:
            total += facts.st_size
    return total


def _size(count: int) -> str:
    """Bytes for people.

    Example:
        >>> _size(900), _size(2_500_000)
        ('900 B', '2.5 MB')
    """
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
