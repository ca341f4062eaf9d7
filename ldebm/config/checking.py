"""Checks parameters against a section: one line for a mistake, with what was expected instead."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from ldebm.config.sections import Section
from ldebm.errors import UsageError

__all__ = ["Kind", "expected", "nearest", "options", "parse", "present"]

SectionT = TypeVar("SectionT", bound=Section)
WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
PLURAL = {int: "integers", float: "numbers", str: "strings", Any: "values"}
LIMITS = {"gt": "greater than", "ge": "of at least", "lt": "less than", "le": "of at most"}
SHOWN = 60  # characters of a value in a message
LISTED = 40  # names in a message


class Kind(NamedTuple):
    """What a place in the parameters holds: an annotation, and the limits of a field."""

    annotation: Any
    limits: Sequence[Any] = ()


def nearest(name: str, known: Any) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``known``, else the list of them."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = [*names[:LISTED], *(["..."] if len(names) > LISTED else [])]
    return f"; known: {', '.join(shown)}" if names else ""


def parse(
    section: type[SectionT], content: Any, where: str = "", file: str = "params.yaml"
) -> SectionT:
    """Checks ``content`` against ``section``.

    Text is not read as a number, nor a number as true or false; 1e3 is an integer.

    Args:
        section: what is expected.
        content: plain values.
        where: dotted key of ``content`` in its file.
        file: what was read, for messages.

    Raises:
        UsageError: with one line that names the key, the value and what was expected.
    """
    try:
        content = present(section, _plain(content, where))
        return section.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise UsageError(f"{file}: {_explained(section, content, error, where)}") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None


def present(section: type[Section], content: Any) -> Any:
    """``content`` with earlier names of keys (``Section.former``) replaced by the present ones."""
    return _present(Kind(section), content)


def _present(kind: Kind, value: Any) -> Any:
    if isinstance(value, list):
        return [_present(_inside(kind, 0) or Kind(None), item) for item in value]
    if not isinstance(value, dict):
        return value
    former: dict[str, str] = {}
    for option in options(kind.annotation):
        former |= option.former if _is_section(option) else {}
    content = {}
    for key, item in value.items():
        name = key if former.get(key, key) in value else former[key]
        content[name] = _present(_inside(kind, name) or Kind(None), item)
    return content


def _plain(value: Any, key: str) -> Any:
    """``value`` as JSON holds it; raises ValueError for what only YAML can hold."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                said = f"YAML reads a key of {key or 'the file'} as {_shown(name)}, not as a string"
                raise ValueError(f"{said}; put it in quotes")
        return {name: _plain(item, _dotted(key, name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, _dotted(key, index)) for index, item in enumerate(value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{key}: YAML reads this as {_shown(value)}; put a string in quotes")


def _explained(section: type[Section], content: Any, error: ValidationError, where: str) -> str:
    """The first mistake in words, and how many more there are."""
    errors = error.errors(include_url=False)
    # A mistyped key is often the cause of a missing one: it comes first.
    first = min(errors, key=lambda item: item["type"] != "extra_forbidden")
    path, kind = _place(section, first["loc"])
    key, value = _dotted(where, *path), first["input"]
    others = {_place(section, item["loc"])[0] for item in errors} - {path}
    if first["type"] == "extra_forbidden" or first["loc"][-1:] == ("[key]",):
        above = first["loc"][: -2 if first["loc"][-1] == "[key]" else -1]
        meant, hint = _meant(_place(section, above)[1], path[-1])
        others.discard((*path[:-1], *meant.split(".")))
        said = f"unknown key {key!r}{hint}"
    elif first["type"] == "missing":
        said = f"{key!r} is missing; expected {expected(kind)}"
        missing = [item["loc"] for item in errors if item["type"] == "missing"]
        said += _misspelt(section, content, missing)
    elif first["type"] == "value_error":
        said = f"{key}: " if key else ""
        said += first["msg"].removeprefix("Value error, ")
    else:
        advice = first["msg"] if first["type"] == "plugin" else _advice(kind, value)
        said = f"{key}: expected {expected(kind)}, got {_shown(value)}{advice}"
    end = "s" if len(others) > 1 else ""
    return said + (f" (and {len(others)} more mistake{end})" if others else "")


def _misspelt(section: type[Section], content: Any, missing: list[tuple[int | str, ...]]) -> str:
    """Which name a new one may stand for: one that lacks several keys is likely a slip."""
    loc = missing[0]
    for end, name in enumerate(loc[:-1]):
        named = options(_place(section, loc[:end])[1].annotation)
        if any(get_origin(option) is dict for option in named):
            others = [str(other) for other in content if other != name]
            close = difflib.get_close_matches(str(name), others, n=1, cutoff=0.7)
            if close and sum(item[:-1] == loc[: end + 1] for item in missing) > 1:
                return f"; did you mean {close[0]!r} by {name!r}?"
        content = content[name]
    return ""


def _place(section: type[Section], loc: Iterable[int | str]) -> tuple[tuple[str, ...], Kind]:
    """The keys that lead to a place, and what it holds.

    Pydantic also names members of unions and the key of a mapping in its path: they are left out.
    """
    path: list[str] = []
    kind = Kind(section)
    for part in loc:
        inner = _inside(kind, part)
        if inner is not None:
            path, kind = [*path, str(part)], inner
        elif any(_is_section(option) for option in options(kind.annotation)):
            path, kind = [*path, str(part)], Kind(None)
    return tuple(path), kind


def _inside(kind: Kind, part: int | str) -> Kind | None:
    for option in options(kind.annotation):
        arguments = get_args(option)
        if _is_section(option) and part in option.model_fields:
            field = option.model_fields[part]
            return Kind(field.annotation, field.metadata)
        if get_origin(option) is dict and part != "[key]":
            return Kind(arguments[1])
        if get_origin(option) in (list, tuple) and isinstance(part, int):
            return Kind(arguments[min(part, len(arguments) - 1)])
    return None


def options(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [item for member in get_args(annotation) for item in options(member)]
    return [annotation]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _meant(kind: Kind, name: str) -> tuple[str, str]:
    """What an unknown key of a place may stand for, and the words for it.

    A key of the same section that is spelt nearly so comes first, then one further down that is
    called so (``prior.lr``), then any that is spelt alike.
    """
    names = [str(item) for item in _names(kind)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    below = [key for key in _below(kind) if key.rpartition(".")[2] == name]
    close = close or below or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        return "", nearest(name, names)
    return close[0], f"; did you mean {close[0]!r}?"


def _names(kind: Kind) -> list[Any]:
    """The keys that a section, or a mapping with fixed keys, may have."""
    for option in options(kind.annotation):
        if _is_section(option):
            return list(option.model_fields)
        if get_origin(option) is dict:
            return list(get_args(get_args(option)[0]))
    return []


def _below(kind: Kind) -> Iterator[str]:
    """Dotted keys of the sections inside a section."""
    for option in options(kind.annotation):
        if _is_section(option):
            for name, field in option.model_fields.items():
                yield name
                yield from (f"{name}.{key}" for key in _below(Kind(field.annotation)))


def expected(kind: Kind) -> str:
    """What a place holds, in words.

    Example:
        >>> expected(Kind(int | None))
        'an integer or null'
        >>> expected(Kind(list[str]))
        'a list of strings'
        >>> expected(Kind(Literal["mala", "ula"]))
        "'mala' or 'ula'"
    """
    limits = "".join(f" {text}" for text in _limits(kind.limits))
    plugged = next((str(limit.words) for limit in kind.limits if hasattr(limit, "words")), "")
    words: list[str] = []
    for option in options(kind.annotation):
        named = plugged and (option is str or get_origin(option) is list)
        words += [plugged] if named else _words(option, limits)
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _words(option: Any, limits: str) -> list[str]:
    arguments = get_args(option)
    if option is type(None):
        return ["null"]
    if get_origin(option) is Literal:
        return [repr(value) for value in arguments]
    if _is_section(option):
        return ["a section"]
    if get_origin(option) is tuple:
        return [f"a list of {len(arguments)} {PLURAL[arguments[0]]}"]
    if get_origin(option) in (list, dict):
        inner = PLURAL.get(arguments[-1], "sections" if _is_section(arguments[-1]) else "lists")
        if get_origin(option) is list:
            return [f"a list of {inner}{limits}"]
        names = " and ".join(repr(key) for key in get_args(arguments[0])) or "names"
        return [f"a mapping of {names} to {inner}{limits}"]
    return [WORDS.get(option, str(option)) + limits]


def _limits(limits: Sequence[Any]) -> list[str]:
    """The limits of a field in words, lower before upper."""
    worded = []
    for limit in limits:
        for name, words in LIMITS.items():
            if (bound := getattr(limit, name, None)) is not None:
                worded.append(f"{words} {bound:g}")
        if (least := getattr(limit, "min_length", None)) is not None:
            worded.append(f"with {least} or more items")
        if (pattern := getattr(limit, "pattern", None)) is not None:
            worded.append(f"that matches {pattern}")
    return (
        [worded[0], *(f"and {text.removeprefix('of ')}" for text in worded[1:])] if worded else []
    )


def _dotted(*parts: str | int) -> str:
    return ".".join(str(part) for part in parts if part != "")


def _shown(value: Any) -> str:
    """A value as a person would write it in YAML."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a section ({', '.join(map(str, value))})"[:SHOWN] if value else "an empty section"
    text = repr(value) if isinstance(value, str | int | float | list) else f"{value} (not a string)"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _advice(kind: Kind, value: Any) -> str:
    """What to do about a value that YAML reads as another type than was meant."""
    wanted = options(kind.annotation)
    if isinstance(value, str) and bool in wanted:
        for meant, words in (("true", ("true", "yes", "on")), ("false", ("false", "no", "off"))):
            if value.lower() in words:
                return f"; write {meant}"
    if isinstance(value, str) and {int, float}.intersection(wanted):
        try:
            float(value)
        except ValueError:
            return ""
        return "; write it without quotes"
    return "; put it in quotes" if str in wanted and isinstance(value, int | float) else ""
