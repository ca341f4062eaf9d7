"""The base of every group of parameters: frozen, strict, and stable when written down.

A model file holds its resolved parameters, and its bytes may not change because a later version
knows more keys. Such keys are named in ``added`` and left out while they have their default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
)

__all__ = ["Section", "Seeds", "explicit"]


class Section(BaseModel):
    """A frozen group of parameters in which an unknown key is an error.

    The string under a field describes it: :mod:`pipelines.reference` reads it.

    Attributes:
        added: keys that came after the first model files were written.
        former: earlier names of keys, which are read as the present ones.
        unlisted: keys that are empty unless plugins are used, and are not written out then.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )
    added: ClassVar[frozenset[str]] = frozenset()
    former: ClassVar[Mapping[str, str]] = {}
    unlisted: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_added(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        fields = type(self).model_fields
        for name in self.added:
            if getattr(self, name) == fields[name].get_default(call_default_factory=True):
                del content[name]
        return content


def _distinct_seeds(seeds: list[int]) -> list[int]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected one or more integers >= 0, each only once, got {seeds}")
    return seeds


Seeds = Annotated[list[int], AfterValidator(_distinct_seeds)]


def explicit(section: Section) -> dict[str, Any]:
    """A section with every key, defaults included, as plain values in the order of its fields."""
    values = {name: getattr(section, name) for name in type(section).model_fields}
    return {name: _plain(v) for name, v in values.items() if v or name not in section.unlisted}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return explicit(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
