"""Reads and writes YAML exactly as DVC does, so that both see the same values and the same lines.

DVC follows YAML 1.2: ``no`` and ``1_000`` are text, ``1e5`` is a number. A reader of YAML 1.1 would
take them otherwise.
"""

from __future__ import annotations

import io
import json
from typing import Any

__all__ = ["alias_line", "format_yaml", "parse_yaml"]


def parse_yaml(content: bytes | str) -> Any:
    """The content as plain values; ``1e-3`` is a number, as DVC reads it, which YAML 1.1 does not.

    Raises:
        ImportError: ruamel.yaml is absent, as on a machine that has only the core.
        ValueError: it is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(content)
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def alias_line(content: str) -> int | None:
    """The line, from 1, of the first alias (``*name``) in YAML; None where there is none.

    Values that an alias shares cannot be set one by one: DVC's writer changes one of them, and puts
    it back when it comes to the other.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.events import AliasEvent

    if "&" not in content or "*" not in content:
        return None
    for event in YAML(typ="safe", pure=True).parse(content):
        if isinstance(event, AliasEvent):
            return int(event.start_mark.line) + 1
    return None


def format_yaml(content: dict[str, Any]) -> str:
    """The text that DVC writes for plain values: changing one of them changes its line alone."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.default_flow_style = False
    text = io.StringIO()
    writer.dump(
        json.loads(json.dumps(content, default=str)), text
    )  # without aliases of what is one object
    return text.getvalue()
