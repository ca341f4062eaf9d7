"""Names of data sets and experiments: keys of YAML, of DVC and parts of paths; names of stages."""

from __future__ import annotations

import re

from ldebm.errors import UsageError

__all__ = ["check_name", "newest"]

NAME = re.compile(r"[a-z][a-z0-9_-]*")
WORDS = {"yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"}


def check_name(name: str) -> str:
    """The name, if it is text to every reader of YAML.

    Raises:
        UsageError: it is not one.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"name {name!r}: expected a small letter, then small letters, digits, - and _"
        )
    if name in WORDS:
        raise UsageError(f"name {name!r}: YAML reads it as a value, not as text; choose another")
    return name


def newest(name: str, line: str) -> str:
    """A line of a stage's log without the kind of the stage, which its name says already.

    Example:
        >>> newest("run 1: prior@talk-0", "prior: 3/10")
        '3/10'
    """
    kind = name.rpartition(": ")[2].partition("@")[0]
    return line.removeprefix(f"{kind}: ")
