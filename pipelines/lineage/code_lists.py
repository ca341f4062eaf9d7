"""What code a stage ran: the lists ``data/code/STAGE.json`` that the stage ``code`` writes.

A stage depends on its list, not on the files in it. In git the lists lie beside dvc.lock, so that
the code behind a lock can be named for any revision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ldebm.sources import CODE
from pipelines.lineage.revisions import file_at, git

__all__ = [
    "code_list",
    "is_code",
    "is_code_list",
    "listed_code",
    "parse_code_list",
]

FOLDER = "data/code"
_SEARCHED = 50  # commits that changed a list, of which the newest are looked through


def code_list(stage: str) -> str:
    """The path of a stage's list.

    Example:
        >>> code_list("prior")
        'data/code/prior.json'
    """
    return f"{FOLDER}/{stage}.json"


def is_code_list(path: str) -> bool:
    """Whether a dependency is a list of code."""
    return path.startswith(f"{FOLDER}/")


def is_code(path: str) -> bool:
    """Whether a dependency stands for code: a module, a folder of them, or a list."""
    return path.split("/")[0] in CODE or is_code_list(path)


def listed_code(
    path: str, md5: str, root: Path = Path(), revision: str | None = None
) -> dict[str, str] | None:
    """The list that had a hash: of the working tree, or else of a commit that changed it.

    Args:
        path: the list.
        md5: its hash in dvc.lock.
        root: the project's folder.
        revision: where to look first, in place of the working tree.

    Returns:
        File -> md5; None where no list with that hash is at hand.
    """
    for content in _versions(path, root, revision):
        if hashlib.md5(content).hexdigest() == md5:
            return parse_code_list(content)
    return None


def _versions(path: str, root: Path, revision: str | None) -> Iterator[bytes]:
    if revision is not None:
        content = file_at(revision, path, root)
        if content is not None:
            yield content
    elif (root / path).is_file():
        yield (root / path).read_bytes()
    known = git("log", f"-{_SEARCHED}", "--format=%H", "--all", "--", path, root=root) or b""
    for commit in known.decode().split():
        content = git("show", f"{commit}:./{path}", root=root)
        if content is not None:
            yield content


def parse_code_list(content: bytes) -> dict[str, str] | None:
    """The files of a list and their md5; None if it is none."""
    try:
        listing = json.loads(content)
    except ValueError:
        return None
    if not isinstance(listing, dict):
        return None
    return {str(name): str(md5) for name, md5 in listing.items()}
