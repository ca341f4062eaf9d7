"""Where this machine keeps what was computed of a model once and for all.

By default ``~/.cache/ldebm`` (``XDG_CACHE_HOME`` is obeyed); ``LDEBM_CACHE`` names another folder.
Everything there is keyed by what it was computed from, may be deleted at any time, and is never
needed: where the folder cannot be written to, it is computed again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ldebm.errors import UsageError
from ldebm.files import hash_json

__all__ = ["cache_folder", "kept"]

T = TypeVar("T")


def cache_folder() -> Path:
    """The folder; it need not exist.

    Raises:
        OSError: there is no home to put it in.
    """
    if own := os.environ.get("LDEBM_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(shared) if shared else Path.home() / ".cache") / "ldebm"
    except RuntimeError as error:
        raise OSError(str(error)) from None


def kept(
    name: str,
    key: Any,
    read: Callable[[Path], T],
    make: Callable[[], T],
    write: Callable[[Path, T], None],
) -> tuple[T, str]:
    """What is kept under ``name`` and ``key``, made and kept if it is not there or is damaged.

    Args:
        name: what it is, with the suffix of its file.
        key: JSON of everything that it depends on.
        read: reads the file; a :class:`UsageError` says that it is damaged.
        make: computes it.
        write: writes the file, atomically.

    Returns:
        It, and a sentence on where it is kept if it was made now, else nothing.
    """
    stem, dot, suffix = name.partition(".")
    try:
        path = cache_folder() / f"{stem}-{hash_json(key)[:32]}{dot}{suffix}"
    except OSError as error:
        return make(), f"it is not kept: {error}"
    if path.is_file():
        with contextlib.suppress(UsageError, OSError):
            return read(path), ""
    made = make()
    try:
        write(path, made)
    except OSError as error:
        return made, f"it cannot be kept in {path.parent}: {error.strerror or error}"
    return made, f"it is kept in {path}"
