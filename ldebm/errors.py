"""The two errors a user can meet, and the exit codes that go with them."""

from __future__ import annotations

__all__ = [
    "REBUILD",
    "DivergenceError",
    "LdebmError",
    "UsageError",
    "disk_fault",
    "explained",
    "require_count",
]

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


def require_count(value: int, name: str) -> None:
    """Checks that there is at least one of something.

    Raises:
        UsageError: it is no whole number from 1 on.

    Example:
        >>> require_count(-3, "n")
        Traceback (most recent call last):
        ...
        ldebm.errors.UsageError: n -3: expected a whole number from 1 on
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise UsageError(f"{name} {value!r}: expected a whole number from 1 on")


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


def explained(error: BaseException, program: str) -> tuple[str, int]:
    """A failure of a command line in words, and its exit code; with 0 the words are its help.

    Args:
        error: any; those of the parser (typer's, click's) know their command.
        program: its name, where no command was reached.
    """
    if isinstance(error, LdebmError):
        return str(error), error.exit_code
    message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        return str(context.get_help()), 0  # a group alone: that is no error
    if message is not None:
        command = context.command_path if context is not None else program
        return f"{message()} (see `{command} --help`)", 2
    return disk_fault(error) or f"{type(error).__name__}: {error}; `--debug` shows where", 1
