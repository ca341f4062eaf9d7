"""Calls of git, independent of the environment that hooks have.

Git sets ``GIT_DIR``, ``GIT_INDEX_FILE`` and others for its hooks. A program that is started by one
and passes them on works on the wrong repository or index, so every call of git, and every child
that may call it, gets its variables from here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from ldebm.errors import UsageError

__all__ = ["environment", "git", "git_or_none", "run_git", "said"]

# What `git rev-parse --local-env-vars` lists, except for settings (`git -c`), and variables that
# change the meaning of paths.
_LOCAL = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_COMMON_DIR",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_NAMESPACE",
        "GIT_SHALLOW_FILE",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_REPLACE_REF_BASE",
        "GIT_QUARANTINE_PATH",
        "GIT_CONFIG",
        "GIT_ATTR_SOURCE",
        "GIT_LITERAL_PATHSPECS",
        "GIT_GLOB_PATHSPECS",
        "GIT_NOGLOB_PATHSPECS",
        "GIT_ICASE_PATHSPECS",
    }
)
# No hook of the user runs, no daemon starts, and an index is one file.
_QUIET = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.splitIndex=false")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of this process without those that name a repository, for its children."""
    kept = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", **(extra or {})}  # `git status` writes no index


def run_git(
    root: Path,
    *words: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    settings: Iterable[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Runs git in ``root``; the caller looks at its exit code.

    Args:
        root: a folder.
        words: subcommand and arguments.
        env: variables on top of :func:`environment`.
        stdin: what it reads.
        settings: ``key=value``, on top of those that keep git quiet.

    Raises:
        UsageError: there is no git.
    """
    options = [item for setting in (*_QUIET, *settings) for item in ("-c", setting)]
    try:
        return subprocess.run(
            ["git", *options, *words],
            cwd=root,
            env=environment({"LC_ALL": "C", **(env or {})}),
            capture_output=True,
            check=False,
            input=stdin,
        )
    except FileNotFoundError:
        if not root.is_dir():
            raise UsageError(f"{root}: no such folder") from None
        raise UsageError("git: no such program; install git") from None


def git(
    root: Path,
    *words: str,
    env: Mapping[str, str] | None = None,
    settings: Iterable[str] = (),
) -> str:
    """What git prints, without white space at its ends; see :func:`run_git`.

    Raises:
        UsageError: git is missing or refuses.
    """
    done = run_git(root, *words, env=env, settings=settings)
    if done.returncode:
        raise UsageError(f"git {words[0]}: {said(done)}")
    return os.fsdecode(done.stdout).strip()


def git_or_none(root: Path, *words: str, stdin: bytes | None = None) -> bytes | None:
    """What git prints; None if it fails or is missing."""
    try:
        done = run_git(root, *words, stdin=stdin)
    except UsageError:
        return None
    return done.stdout if done.returncode == 0 else None


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What git wrote on stderr, as one line."""
    text = " ".join(os.fsdecode(done.stderr).split()).removeprefix("fatal: ")
    return text or f"exit code {done.returncode}"
