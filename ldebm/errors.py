"""The two errors a user can meet, and the exit codes that go with them."""

from __future__ import annotations

__all__ = ["DivergenceError", "LdebmError", "UsageError"]


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
