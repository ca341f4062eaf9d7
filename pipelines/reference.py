"""The configuration reference and the JSON Schema of params.yaml, from the fields' descriptions.

    python -m pipelines.reference

writes ``docs/reference/configuration.md`` and ``docs/reference/params.schema.json``, and the pages
of :mod:`pipelines.reference_pages`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from ldebm.config.checking import Kind, expected, nearest, options
from ldebm.config.params import Params
from ldebm.config.sections import Section
from ldebm.errors import UsageError
from ldebm.files import write_text

__all__ = ["Entry", "Table", "find", "markdown", "schema", "tables"]

PAGE = Path("docs/reference/configuration.md")
SCHEMA = Path("docs/reference/params.schema.json")
NAME = "NAME"  # stands for a name that the user chooses
HEAD = """\
# Configuration

<!-- Written by `python -m pipelines.reference` from the docstrings in ldebm/config/. -->

Every key of params.yaml, with its type, its default and its meaning. `NAME` stands for a name of
your choice. `ldebm config KEY` prints the same for one key. Anything else in params.yaml stops
`dvc repro`, `dvc exp run` and the commands of `ldebm` before anything runs. For editors there is a
JSON Schema, [params.schema.json](params.schema.json).
"""


class Entry(NamedTuple):
    """One key of a section."""

    key: str
    kind: str
    default: str
    meaning: str
    section: type[Section] | None = None  # what it holds, where that is a section

    @property
    def text(self) -> str:
        """Type and default on one line, the meaning on the next."""
        default = "required" if self.default == "required" else f"default {self.default}"
        return f"  {self.kind}; {default}\n{textwrap.indent(textwrap.fill(self.meaning), '  ')}"


class Table(NamedTuple):
    """One kind of section, and everywhere that it may stand."""

    section: type[Section]
    places: list[str]
    entries: list[Entry]


def tables() -> list[Table]:
    """All sections of params.yaml, in the order in which they are met."""
    tables_of: dict[type[Section], Table] = {}
    for place, section in _sections(Params, ""):
        if section not in tables_of:
            tables_of[section] = Table(section, [], _entries(section))
        tables_of[section].places.append(place)
    return list(tables_of.values())


def _sections(section: type[Section], place: str) -> Iterator[tuple[str, type[Section]]]:
    yield place, section
    for name, field in section.model_fields.items():
        inner, under = _held(field)
        if inner is not None:
            yield from _sections(inner, ".".join(filter(None, (place, name, under))))


def _held(field: FieldInfo) -> tuple[type[Section] | None, str]:
    """The section that a field holds, alone or by name, and what comes between in a key."""
    for option in options(field.annotation):
        inner = get_args(option)[-1] if get_origin(option) in (list, dict) else option
        if isinstance(inner, type) and issubclass(inner, Section):
            return inner, {list: "0", dict: NAME}.get(get_origin(option), "")
    return None, ""


def _entries(section: type[Section]) -> list[Entry]:
    meanings = descriptions(section)
    return [
        Entry(
            name,
            expected(Kind(field.annotation, field.metadata)),
            _default(field),
            meanings.get(name, ""),
            _held(field)[0],
        )
        for name, field in section.model_fields.items()
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required() or (field.validate_default and field.default is None):
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Section):
        return "its defaults"
    return default if isinstance(default, str) and default else json.dumps(default)


@functools.cache
def descriptions(section: type[Section]) -> dict[str, str]:
    """The string under every field of a section."""
    texts: dict[str, str] = {}
    for base in section.__mro__:
        if not issubclass(base, Section):
            break
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                texts.setdefault(field.target.id, " ".join(ast.literal_eval(text.value).split()))
    return texts


def find(key: str) -> list[tuple[list[str], Entry]]:
    """The entries that a key, or the end of one, stands for, with their full keys.

    Raises:
        UsageError: there is none.

    Example:
        >>> [(keys, entry.default) for keys, entry in find("prior.levels")]
        [(['experiments.NAME.prior.levels'], '6')]
    """
    parts, entries, known = key.split("."), [], set()
    for table in tables():
        for entry in table.entries:
            keys = [f"{place}.{entry.key}".strip(".") for place in table.places]
            known |= {".".join(full.split(".")[-len(parts) :]) for full in keys}
            same = [full for full in keys if _ends(full.split("."), parts)]
            if same:
                entries.append((same, entry))
    if not entries:
        raise UsageError(f"config: there is no key {key!r}{nearest(key, known)}")
    return entries


def _ends(full: list[str], parts: list[str]) -> bool:
    end = full[-len(parts) :]
    return len(end) == len(parts) and all(
        a in (NAME, "0") or a == b for a, b in zip(end, parts, strict=True)
    )


def markdown() -> str:
    """The reference as a page."""
    every = tables()
    titles = {table.section: table.places[0] for table in every}
    lines = [HEAD]
    for table in every:
        title = titles[table.section] or "params.yaml"
        about = " ".join((inspect.getdoc(table.section) or "").split("\n\n")[0].split())
        lines += [f"## {title}", "", about.replace("``", "`"), ""]
        if len(table.places) > 1:
            lines += [f"Also: {', '.join(f'`{place}`' for place in table.places[1:])}.", ""]
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for entry in table.entries:
            kind = re.sub(r"'([^']*)'", r"`\1`", entry.kind)
            if entry.section is not None:
                anchor = re.sub(r"[^\w-]", "", titles[entry.section]).lower()
                kind = re.sub("sections?", rf"[\g<0>](#{anchor})", kind)
            cells = [f"`{entry.key}`", kind, _cell(entry.default), entry.meaning]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(default: str) -> str:
    return default if default in ("required", "its defaults") else f"`{default}`"


class _Untitled(GenerateJsonSchema):
    """Without titles, which would repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """The JSON Schema of params.yaml."""
    content = Params.model_json_schema(schema_generator=_Untitled)
    content["$schema"] = GenerateJsonSchema.schema_dialect
    known = {table.section.__name__: table for table in tables()}
    for name, part in [(Params.__name__, content), *content["$defs"].items()]:
        for entry in known[name].entries:
            part["properties"][entry.key]["description"] = entry.meaning
    return content


def main() -> None:
    """Writes the pages and the schema."""
    from pipelines.reference_pages import commands, metrics

    write_text(PAGE, markdown())
    write_text(PAGE.with_name("commands.md"), commands())
    write_text(PAGE.with_name("metrics.md"), metrics())
    write_text(SCHEMA, json.dumps(schema(), indent=1) + "\n")


if __name__ == "__main__":
    main()
