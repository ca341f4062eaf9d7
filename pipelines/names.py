"""Names of data sets and experiments: keys of YAML, of DVC and parts of paths."""

from __future__ import annotations

import re

from ldebm.errors import UsageError

__all__ = ["check_name"]

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
