"""Working copies of the project that leave the user's repository as it is.

A :class:`Checkout` has a repository of its own that borrows objects (git's ``alternates``). So the
user's index, ``HEAD``, references and object store are only read; whatever happens to a copy, or to
the process that fills it, nothing of it is left there. The project may be a submodule, a linked
worktree, a folder of a larger repository, or have been moved.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ldebm.errors import LdebmError, UsageError, disk_fault
from pipelines.copies import prune
from pipelines.git import git, git_or_none, run_git, said

__all__ = ["WHOLE", "Checkout", "fingerprint", "make_room", "prefix", "project_files"]

_SMALL = 1 << 20  # bytes up to which files are compared by content, and larger ones by their time
_LARGE = 1 << 24  # bytes from which files that git does not know are linked (somebody's corpus)
WHOLE = ("core.sparseCheckout=false", "index.sparse=false")  # a sparse repository has all


def prefix(root: Path) -> Path:
    """Where ``root`` lies in its repository's working tree."""
    return Path(_lines(root, "rev-parse", "--show-prefix").rstrip("\n"))


def project_files(root: Path) -> list[str]:
    """Files below ``root`` that git knows or would add, also those of repositories inside it."""
    listed = _lines(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return sorted(_present(root, set(listed.split("\0")) - {""}))


def _present(root: Path, listed: Iterable[str]) -> Iterator[str]:
    for name in (item.rstrip("/") for item in listed):
        path = root / name
        if path.is_symlink() or path.is_file():
            yield name
        elif (path / ".git").exists():  # a submodule, or a repository that is none
            yield from (f"{name}/{inner}" for inner in project_files(path))


def fingerprint(root: Path, files: Iterable[str]) -> str:
    """A hash of files with their names and modes; of large ones the size and time stand for all."""
    total = hashlib.sha256()
    for name in files:
        path = root / name
        try:
            facts = path.stat()
            link = os.readlink(path) if path.is_symlink() else ""
            if facts.st_size <= _SMALL and stat.S_ISREG(facts.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = f"{facts.st_size} {facts.st_mtime_ns}"
        except OSError as error:  # a link that leads nowhere, or what may not be read
            facts, link, content = path.lstat(), "", str(error.errno)
        total.update(repr((name, stat.filemode(facts.st_mode), link, content)).encode())
    return total.hexdigest()


@dataclass(frozen=True)
class Checkout:
    """A working copy of a project, with a repository of its own that borrows objects.

    Attributes:
        root: the user's project, in a git repository with a commit.
        folder: the top of the copy; made when it is first filled.
        keep: names at the top of the project that belong to the copy and are left alone.
    """

    root: Path
    folder: Path
    keep: Collection[str] = ()

    def fill(self, commit: str, files: Collection[str] | None = None) -> Path:
        """Gives it the files of a commit, or those of the workspace on top of that commit.

        What git ignores stays as it is. Large files that git does not know are links.

        Args:
            commit: a full hash.
            files: those of the workspace to copy, relative to the project; None: the commit's.

        Returns:
            The project's folder in it.

        Raises:
            UsageError: git refuses.
            LdebmError: a file cannot be read or written.
        """
        project = self.folder / prefix(self.root)
        try:
            self._open()
            (self.folder / ".git" / "HEAD").write_text(f"{commit}\n", encoding="utf-8")
            self._index("read-tree", "--reset", commit)
            if files is None:
                self._index("checkout-index", "--all", "--force", "--index")
                self._submodules()
                tracked = _lines(project, "ls-files", "-z", "--cached")
                files = list(_present(project, set(tracked.split("\0")) - {""}))
            else:
                self._copy(project, files)
            self._remove_others(project, set(files))
            self._index("update-index", "-q", "--refresh")
        except OSError as error:
            raise LdebmError(disk_fault(error) or str(error)) from None
        return project

    def _open(self) -> None:
        """Makes its repository, anew if it is broken, and says where the objects are."""
        own = self.folder / ".git"
        if own.is_symlink() or own.is_file():
            own.unlink()
        place = (f"--git-dir={own}", f"--work-tree={self.folder}")
        if own.is_dir() and run_git(self.root, *place, "ls-files", "--cached").returncode:
            shutil.rmtree(own)
        if not own.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            kind = git(self.root, "rev-parse", "--show-object-format")
            files = {"GIT_DEFAULT_REF_FORMAT": "files"}
            git(self.folder, "init", "-q", "--template=", f"--object-format={kind}", env=files)
        (own / "index.lock").unlink(missing_ok=True)  # of a build that was killed
        objects = os.fsencode(self._theirs("objects"))
        for folder in ("info", "objects/info"):
            (own / folder).mkdir(exist_ok=True)
        (own / "objects" / "info" / "alternates").write_bytes(objects + b"\n")
        for name in ("shallow", "info/exclude", "info/attributes"):
            (own / name).unlink(missing_ok=True)
            if self._theirs(name).is_file():
                shutil.copyfile(self._theirs(name), own / name)

    def _theirs(self, name: str) -> Path:
        """A file or folder of the user's repository."""
        return (self.root / git(self.root, "rev-parse", "--git-path", name)).resolve()

    def _index(self, *words: str) -> None:
        """Runs git on the copy's files and index, with the user's objects and settings."""
        env = {
            "GIT_DIR": git(self.root, "rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(self.folder),
            "GIT_INDEX_FILE": str(self.folder / ".git" / "index"),
            "GIT_OBJECT_DIRECTORY": str(self.folder / ".git" / "objects"),  # borrows theirs
        }
        done = run_git(self.folder, *words, env=env, settings=WHOLE)
        if done.returncode and words[0] != "update-index":  # which says that a file has changed
            raise UsageError(f"git {words[0]}: {said(done)}")

    def _submodules(self) -> None:
        """Fills the submodules of a commit, where the workspace has their repositories."""
        top = Path(_lines(self.root, "rev-parse", "--show-toplevel").rstrip("\n"))
        for entry in _lines(self.folder, "ls-files", "-z", "--stage").split("\0"):
            facts, _, name = entry.partition("\t")
            if facts.startswith("160000") and (top / name / ".git").exists():
                commit = facts.split()[1]
                if git_or_none(top / name, "cat-file", "-e", commit) is not None:
                    Checkout(top / name, self.folder / name).fill(commit)

    def _copy(self, project: Path, files: Iterable[str]) -> None:
        project.mkdir(parents=True, exist_ok=True)
        tracked = set(_lines(project, "ls-files", "-z", "--cached").split("\0"))
        for name in files:
            source, target = self.root / name, project / name
            try:
                if name not in tracked and source.lstat().st_size > _LARGE:
                    make_room(target, self.folder)
                    target.symlink_to(source)
                elif not _same(source, target):
                    make_room(target, self.folder)
                    shutil.copy2(source, target, follow_symlinks=False)
            except FileNotFoundError:
                continue  # an editor's file, gone since it was listed

    def _remove_others(self, project: Path, wanted: Collection[str]) -> None:
        """Removes what is neither wanted nor ignored, and mends links that lead out of the copy."""
        for name in project_files(project):
            path = project / name
            if name.split("/")[0] in self.keep:
                continue
            if name not in wanted:
                path.unlink()
                prune(path.parent, project)
            elif path.is_symlink():
                self._mend(path, (self.root / name).resolve())

    def _mend(self, link: Path, real: Path) -> None:
        """A link out of the copy leads where it does in the workspace; small files are copied.

        A build may write to such a file (params.yaml), and the user's must stay as it is.
        """
        inside = link.exists() and link.resolve().is_relative_to(self.folder.resolve())
        if real.exists() and not inside:
            link.unlink()
            if real.is_file() and real.stat().st_size <= _SMALL:
                shutil.copy2(real, link)
            else:
                link.symlink_to(real)


def _lines(root: Path, *words: str) -> str:
    done = run_git(root, *words)
    if done.returncode:
        raise UsageError(f"{root}: git {words[0]}: {said(done)}")
    return os.fsdecode(done.stdout)


def _same(one: Path, other: Path) -> bool:
    """Whether a file or link need not be copied."""
    a = one.lstat()
    try:
        b = other.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if (a.st_mode, a.st_size) != (b.st_mode, b.st_size):
        return False
    if stat.S_ISLNK(a.st_mode):
        return os.readlink(one) == os.readlink(other)
    if a.st_size > _SMALL:
        return a.st_mtime_ns == b.st_mtime_ns
    return one.read_bytes() == other.read_bytes()


def make_room(target: Path, top: Path) -> None:
    """Removes what is at a path, and files and links where its folders should be."""
    for folder in reversed([item for item in target.parents if item.is_relative_to(top)]):
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
