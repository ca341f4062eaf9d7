"""Reads files of other revisions from git: commits, branches, tags, and `dvc exp` names.

Experiments of DVC are commits under ``refs/exps``; git finds them without DVC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ldebm.errors import UsageError
from pipelines.git import git_or_none

__all__ = ["file_at", "find_commit", "git", "hashes_at", "resolve"]


def git(*arguments: str, root: Path = Path(), stdin: bytes | None = None) -> bytes | None:
    """What git prints, or None if it fails or is not installed."""
    return git_or_none(root, *arguments, stdin=stdin)


def find_commit(name: str, root: Path = Path()) -> str | None:
    """The commit of a git revision or of a ``dvc exp`` name; ``None`` where there is none.

    Raises:
        UsageError: several experiments have that name.
    """
    if name.startswith("-") or not name.strip():
        return None
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", root=root)
    return commit.decode().strip() if commit else _experiment(name, root)


def _experiment(name: str, root: Path) -> str | None:
    """The commit of a ``dvc exp`` name: DVC keeps them as refs/exps/<2>/<38>/<name>."""
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps", root=root)
    commits = {}
    for line in (listed or b"").decode(errors="replace").splitlines():
        commit, _, ref = line.partition(" ")
        parts = ref.split("/", 4)
        if len(parts) == 5 and len(parts[2]) == 2 and parts[4] == name:
            commits[f"{parts[2]}{parts[3]}"[:7]] = commit
    if len(commits) > 1:
        bases = ", ".join(sorted(commits))
        raise UsageError(
            f"{name}: experiments on several commits ({bases}) have this name; give the hash that "
            "`dvc exp show` prints"
        )
    return next(iter(commits.values()), None)


def resolve(revision: str, root: Path = Path()) -> str:
    """The commit that a git revision or the name of a `dvc exp` means.

    Raises:
        UsageError: there is none, or several experiments have the name.
    """
    commit = find_commit(revision, root)
    if commit is None:
        raise UsageError(
            f"{revision!r}: neither a git revision nor an experiment; see `git log` and "
            "`dvc exp list --all-commits`"
        )
    return commit


def file_at(revision: str, path: str, root: Path = Path()) -> bytes | None:
    """The content of a file of the project at a revision; None if it was not there.

    Raises:
        UsageError: there is no such revision.
    """
    return git("show", f"{resolve(revision, root)}:./{path}", root=root)


def hashes_at(
    commit: str, paths: Sequence[str], root: Path = Path(), algorithm: str = "sha256"
) -> dict[str, str | None] | None:
    """The hashes of files at a commit, all in one call of git.

    Returns:
        None for a file that was not there; None altogether without the commit or without git.
    """
    prefix = git("rev-parse", "--show-prefix", root=root)
    if prefix is None or git("cat-file", "-e", f"{commit}^{{commit}}", root=root) is None:
        return None
    place = prefix.decode().strip()
    asked = "".join(f"{commit}:{place}{path}\n" for path in paths)
    answer = git("cat-file", "--batch", root=root, stdin=asked.encode()) or b""
    hashes: dict[str, str | None] = {}
    at = 0
    for path in paths:
        end = answer.index(b"\n", at)
        header = answer[at:end].split(b" ")
        at = end + 1
        if header[-1] == b"missing":
            hashes[path] = None
            continue
        size = int(header[-1])
        hashes[path] = hashlib.new(algorithm, answer[at : at + size]).hexdigest()
        at += size + 1
    return hashes
