"""Names of the table in :mod:`ldebm.assembly`, or of plugins (docs/extending.md)."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ldebm.config.checking import nearest, options, parse
from ldebm.config.sections import Section
from ldebm.errors import UsageError

__all__ = ["Plugged", "is_plugin", "named_plugins", "plugin_of", "plugins_of"]


class Plugged:
    """Marks a field that holds one of its literals or the name of a plugin, or names of plugins.

    Args:
        group: of the plugins.
        words: what they are called in messages.
    """

    def __init__(self, group: str, words: str = "a plugin") -> None:
        self.group, self.words = group, words

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        known = _built_in(source)

        def check(value: str | list[str]) -> str | list[str]:
            from ldebm.plugins import names, refuse_namesake

            for name in [value] if isinstance(value, str) else value:
                if name in known:
                    refuse_namesake(self.group, name)
                elif name not in (plugins := names(self.group)):
                    hint = nearest(name, [*known, *plugins])
                    raise PydanticCustomError("plugin", "{hint}", {"hint": hint})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def _built_in(annotation: Any) -> list[str]:
    literals = [option for option in options(annotation) if get_origin(option) is Literal]
    return [name for option in literals for name in get_args(option)]


def is_plugin(section: type[Section], key: str, name: str) -> bool:
    """Whether a name in a field is not one of those that are built in."""
    return name not in _built_in(section.model_fields[key].annotation)


def named_plugins(section: Section, key: str) -> list[tuple[str, str]]:
    """The group and name of the plugins in a field; none where what it names is built in."""
    field, value = type(section).model_fields[key], getattr(section, key)
    group = next(item.group for item in field.metadata if isinstance(item, Plugged))
    named = [value] if isinstance(value, str) else value
    return [(group, name) for name in named if is_plugin(type(section), key, name)]


def plugin_of(section: Section, key: str, where: str) -> Any:
    """The plugin that a field names, imported, with its options checked; None: it is built in.

    Args:
        section: of a field that is marked by :class:`Plugged`, and of ``options``.
        key: the field.
        where: the section's own key, for messages.

    Raises:
        UsageError: the plugin cannot be imported, or an option is wrong.
    """
    from ldebm.plugins import find

    options: dict[str, Any] = getattr(section, "options", {})
    for group, name in named_plugins(section, key):
        plugin = find(group, name)
        if plugin.options is not None:
            parse(plugin.options, options, f"{where}.options")
        return plugin
    if options:
        raise UsageError(f"{where}.options: is for plugins; {getattr(section, key)!r} has none")
    return None


def plugins_of(section: Section, key: str) -> dict[str, Any]:
    """The plugins that a field with a list of names has, imported, by name."""
    from ldebm.plugins import find

    return {name: find(group, name) for group, name in named_plugins(section, key)}
