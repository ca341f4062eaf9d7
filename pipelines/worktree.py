"""The user's project, and worktrees beside it that share its DVC cache.

A build runs in a worktree, so that editing goes on while it runs. The worktree has the state that
was asked for: a commit, or the workspace with its uncommitted changes. It lies in
``.dvc/tmp/runs``, which git and DVC ignore, on the file system of the cache, so that outputs can be
links. Checkpoints and lineage records are shared with the workspace by links. Its repository is its
own, so that the user's is only read.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.errors import LdebmError, UsageError
from ldebm.files import write_text
from pipelines.copies import add_ignored, copy_if_different
from pipelines.dag import ask_dvc, environment
from pipelines.failures import dvc_said
from pipelines.git import git, git_or_none, run_git, said
from pipelines.lineage.checkout import Checkout, fingerprint, make_room, prefix, project_files
from pipelines.lockfile import lock_blocks, merge_lock, read_outs
from pipelines.runner import GRACE, strays
from pipelines.slots import lock_file

__all__ = ["Busy", "State", "Workspace"]

SHARED = (".ckpt", "lineage")
OWN = (*(f"{name}/" for name in SHARED), ".dvc/tmp/", ".dvc/cache/")  # never copied
RUNS = Path(".dvc", "tmp", "runs")
RWLOCK = Path(".dvc", "tmp", "rwlock")


class Busy(LdebmError):
    """Another build works in the same place."""


@dataclass(frozen=True)
class State:
    """What is built.

    Attributes:
        commit: full hash.
        tree: what identifies the files: the hash of the commit's tree, or a hash of ``files``.
        dirty: whether the files differ from the commit.
        files: those of the workspace that git knows or would add; None: the commit's are built.
    """

    commit: str
    tree: str
    dirty: bool
    files: tuple[str, ...] | None = None


class Workspace:
    """A DVC project under git, as the user sees it.

    Args:
        root: the project's folder.

    Raises:
        UsageError: no git repository with a commit, or one that git refuses, or no DVC project.
    """

    def __init__(self, root: Path = Path()) -> None:
        self.root = root.resolve()
        if not (self.root / ".dvc").is_dir():
            raise UsageError(f"{self.root}: no DVC project here; run from the project's folder")
        self.runs = self.root / RUNS
        answer = run_git(self.root, "rev-parse", "--show-prefix")
        none = answer.returncode != 0 and "not a git repository (or any" in said(answer)
        if answer.returncode and not none:
            raise UsageError(f"{self.root}: git cannot be used here: {said(answer)}")
        if none or git_or_none(self.root, "rev-parse", "-q", "--verify", "HEAD") is None:
            unused = "; GIT_DIR is set, but only a repository in the folder or above it counts"
            raise UsageError(
                f"{self.root}: flows need a git repository with a commit, for their worktrees; "
                "`git init`, `git add -A`, `git commit`, or build with `dvc repro`"
                f"{unused if none and 'GIT_DIR' in os.environ else ''}"
            )
        self.inside = prefix(self.root)

    def dvc(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a dvc command; the caller looks at its exit code."""
        return subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=cwd or self.root,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def state(self, revision: str | None = None) -> State:
        """The state of a revision, or of the workspace with what is not committed.

        Files that git ignores are left out. Neither the index nor any branch changes.

        Raises:
            UsageError: there is no such revision.
        """
        answer = git_or_none(
            self.root, "rev-parse", "-q", "--verify", f"{revision or 'HEAD'}^{{commit}}"
        )
        if answer is None:
            raise UsageError(f"revision {revision!r}: git does not know it; see `git log`")
        commit = answer.decode().strip()
        if revision is not None:
            return State(commit, git(self.root, "rev-parse", f"{commit}^{{tree}}"), dirty=False)
        files = tuple(name for name in project_files(self.root) if not name.startswith(OWN))
        changed = git(self.root, "status", "--porcelain", "--untracked-files=normal", "--", ".")
        return State(commit, fingerprint(self.root, files), bool(changed), files)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[int]:
        """Holds the lock of a worktree; its stages hold it too, until their last process ends.

        Yields:
            The open lock file.

        Raises:
            Busy: another build works there.
        """
        path = self.runs / f"{name}.lock"
        deadline = time.monotonic() + GRACE + 10
        while (fd := lock_file(path)) is None:
            owner = _owner(path)
            if owner is not None:
                raise Busy(
                    f"a build of this already runs here: process {owner}; wait for it, "
                    f"or stop it with `kill {owner}`"
                )
            if time.monotonic() > deadline:
                raise Busy(f"{path}: stages of a build that was killed have not ended yet")
            time.sleep(0.1)  # what a killed build left is just being ended
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps([os.getpid(), _birth(os.getpid())]).encode(), 0)
            yield fd
        finally:
            os.ftruncate(fd, 0)
            os.close(fd)

    def place(self, name: str) -> Path:
        """Where the project of worktree ``name`` lies."""
        return self.runs / name / self.inside

    def checkout(self, name: str, state: State) -> Path:
        """Makes worktree ``name``, or brings it to ``state``; outputs that it has stay.

        Returns:
            The project's folder in it.
        """
        project = self.place(name)
        for pid in strays(project):  # of a build that was killed together with its supervisors
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._forget_registered(self.runs / name)
        Checkout(self.root, self.runs / name, SHARED).fill(state.commit, state.files)
        (project / RWLOCK).unlink(missing_ok=True)  # DVC's, maybe half-written: nobody is here
        self._share(project)
        return project

    def _forget_registered(self, folder: Path) -> None:
        """Removes what earlier versions, whose worktrees git knew, left in the repository."""
        link = folder / ".git"
        if link.is_file():
            entry = Path(link.read_text(encoding="utf-8").removeprefix("gitdir: ").strip())
            mine = entry / "gitdir"
            if mine.is_file() and mine.read_text(encoding="utf-8").strip() == str(link):
                shutil.rmtree(entry)

    def _share(self, project: Path) -> None:
        """Points the worktree at the workspace's cache, remotes, checkpoints and records."""
        local = self.root / ".dvc" / "config.local"
        target = project / ".dvc" / "config.local"
        if local.is_file():
            shutil.copyfile(local, target)
            target.chmod(0o600)  # may hold passwords of remotes
        else:
            target.unlink(missing_ok=True)
        settings = [("cache.dir", str(self.cache))]
        settings += [(f"remote.{name}.url", path) for name, path in self.folders.items()]
        config = configparser.RawConfigParser()
        config.optionxform = str  # type: ignore[assignment,method-assign]
        config.read(target, encoding="utf-8")
        for key, value in settings:
            section, _, option = key.rpartition(".")
            section = f"'remote \"{section[7:]}\"'" if section.startswith("remote.") else section
            if not config.has_section(section):
                config.add_section(section)
            config.set(section, option, value)
        with target.open("w", encoding="utf-8") as stream:
            config.write(stream)
        for name in SHARED:
            mine, theirs = project / name, self.root / name
            theirs.mkdir(exist_ok=True)
            if not mine.is_symlink() or mine.readlink() != theirs:  # a copied project
                shutil.rmtree(mine, ignore_errors=True)
                mine.unlink(missing_ok=True)
                mine.symlink_to(theirs, target_is_directory=True)

    @functools.cached_property
    def folders(self) -> dict[str, str]:
        """Remotes that are folders, by name: their paths may be relative to the workspace."""
        remotes = self._places["remotes"].items()
        return {name: str((self.root / url).resolve()) for name, url in remotes if "://" not in url}

    @functools.cached_property
    def cache(self) -> Path:
        """DVC's cache folder.

        Raises:
            UsageError: DVC does not say.
        """
        return Path(self.root, self._places["cache"])

    @property
    def remote(self) -> str | None:
        """The name of the DVC remote that ``dvc push`` takes; None if none is set."""
        name = self._places["default"]
        return None if name is None else str(name)

    @functools.cached_property
    def _places(self) -> dict[str, Any]:
        """What DVC's settings say of both, by one process."""
        return ask_dvc(self.root, "--places")

    def bring(self, project: Path, paths: Iterable[str]) -> None:
        """Links files and folders that git ignores into a worktree (data of params.yaml)."""
        for name in paths:
            source, target = self.root / name, project / name
            if Path(name).is_absolute() or not source.exists():
                continue
            if os.path.lexists(target):
                if git_or_none(project, "check-ignore", "-q", "--", name) is None:
                    continue  # it came with the files
                make_room(target, project)  # a link of a moved project, or an old copy
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)

    def land(
        self, source: Path, order: Sequence[str], names: Sequence[str], target: Path | None = None
    ) -> None:
        """Puts results of a worktree into the workspace, as if ``dvc repro`` had run there.

        Args:
            source: the worktree where the stages were built.
            order: all stages, in DVC's order.
            names: those that are built.
            target: another worktree, in place of the workspace.

        Raises:
            LdebmError: an output could not be put in place; dvc.lock is written all the same.
        """
        target = target or self.root
        built = lock_blocks(_text(source / "dvc.lock"))
        blocks = {name: built[name] for name in names if name in built}
        if not blocks:
            return
        before = _text(target / "dvc.lock")
        after = merge_lock(before, blocks, order)
        if after != before:
            write_text(target / "dvc.lock", after)
        done = self.dvc("--wait-for-lock", "checkout", "--force", *blocks, cwd=target)
        outs = [path for block in blocks.values() for path in read_outs(block)]
        for name in outs:
            copy_if_different(source / name, target / name)
            add_ignored(source / name, target / name)
        missing = [name for name in outs if not (target / name).exists()]
        if missing:
            reason = dvc_said(done.stderr)
            raise LdebmError(f"could not check out {', '.join(missing[:3])}: {reason}")

    def order_lock(self, project: Path, before: str, order: Sequence[str]) -> None:
        """Brings dvc.lock of a worktree into the order that a serial build gives it."""
        now = _text(project / "dvc.lock")
        after = merge_lock(before, lock_blocks(now), order)
        if after != now:
            write_text(project / "dvc.lock", after)

    def remove(self, name: str) -> None:
        """Removes a worktree and its lock."""
        self._forget_registered(self.runs / name)
        shutil.rmtree(self.runs / name, ignore_errors=True)
        (self.runs / f"{name}.lock").unlink(missing_ok=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _birth(pid: int) -> str:
    """When a process was born: a number that is used again is another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _owner(path: Path) -> int | None:
    """The living process that wrote its number into a lock file."""
    try:
        pid, birth = json.loads(path.read_text() or "[0, null]")
    except (OSError, ValueError):
        return None
    return pid if pid and birth == _birth(pid) else None
