"""The two errors a user can meet, and the exit codes that go with them."""

from __future__ import annotations

__all__ = ["REBUILD", "DivergenceError", "LdebmError", "UsageError", "disk_fault"]

REBUILD = "if a stage wrote it, build it again (`dvc repro`)"  # what to do about a damaged file

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_CLOSED = ("Read-only file system", "Permission denied", "Operation not permitted")


class LdebmError(Exception):
    """A run failed for a reason that the message explains. Commands exit with 1."""

    exit_code = 1


class UsageError(LdebmError):
    """The input is wrong: a parameter, a file, an option. Commands exit with 2.

    The message is one line that names the value, what was expected and what to do.
    """

    exit_code = 2


class DivergenceError(LdebmError):
    """Training produced non-finite or exploding values and was stopped."""


def disk_fault(error: BaseException) -> str | None:
    """One line for an error that means a full disk or a place without permission; None for others.

    Libraries that write files in other languages raise errors of their own, with the system's text.

    Example:
        >>> disk_fault(OSError(28, "No space left on device", "models/x"))
        'models/x: No space left on device; free some space and start again'
    """
    text = str(error)
    fault = next((words for words in (*_FULL, *_CLOSED) if words in text), None)
    if fault is None:
        return None
    hint = "free some space" if fault in _FULL else "check owner, mode and mount"
    path = getattr(error, "filename", None)
    what = f"{path}: {fault}" if path else " ".join(text.split())
    return f"{what}; {hint} and start again"
