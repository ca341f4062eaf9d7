"""Files that go between the workspace and its worktrees beside what DVC checks out."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Collection
from pathlib import Path

__all__ = ["add_ignored", "copy_if_different", "mirror", "prune"]


def mirror(source: Path, target: Path, folder: str, outs: Collection[str]) -> None:
    """Makes what else lies in a folder that a stage depends on the same in another project.

    Stages that are not selected, or ran by hand, left it there, and DVC hashes the folder with it:
    built without it, the stage would look out of date in the workspace after every build.

    Args:
        source: the project to copy from.
        target: the project that becomes like it.
        folder: relative to both; holds some of ``outs``.
        outs: outputs of the selected stages, which are left as they are.
    """
    here, there = _files_but(source, folder, outs), _files_but(target, folder, outs)
    for name in there - here:
        (target / name).unlink()
        prune((target / name).parent, target / folder)
    for name in here:
        old, new = source / name, target / name
        if name in there:
            if new.samefile(old) or filecmp.cmp(old, new, shallow=False):
                continue
            new.unlink()
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old.resolve(), new)
        except OSError:  # another file system, or one without links
            shutil.copy2(old, new)


def copy_if_different(source: Path, target: Path) -> None:
    """Copies an output that is not in the cache (`cache: false`)."""
    if not source.is_file():
        return
    content = source.read_bytes() if source.stat().st_size < 1 << 24 else None
    if target.is_file() and (content is None or target.read_bytes() == content):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.copyfile(source, part)
    os.replace(part, target)


def add_ignored(source: Path, target: Path) -> None:
    """Takes over lines that DVC has added to the .gitignore beside an output."""
    theirs, mine = source.parent / ".gitignore", target.parent / ".gitignore"
    if not theirs.is_file():
        return
    old = mine.read_text(encoding="utf-8") if mine.is_file() else ""
    lines = theirs.read_text(encoding="utf-8").splitlines()
    new = [line for line in lines if line not in old.splitlines()]
    if new:
        mine.write_text(old + "".join(f"{line}\n" for line in new), encoding="utf-8")


def _files_but(root: Path, folder: str, outs: Collection[str]) -> set[str]:
    """Files below a folder that belong to none of the outputs, relative to the project."""
    paths = set()
    for where, folders, files in os.walk(root / folder):
        base = Path(where).relative_to(root)
        folders[:] = [name for name in folders if str(base / name) not in outs]
        paths |= {str(base / name) for name in files} - set(outs)
    return paths


def prune(folder: Path, top: Path) -> None:
    """Removes a folder and those above it, up to ``top``, that are empty."""
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
