"""Priors, backbones, metrics and kinds of data that are added from outside (docs/extending.md).

A plugin is one object with a name: of a file ``plugins/GROUP/NAME.py`` of the project, which calls
it ``plugin``; of an installed package, which names it as an entry point NAME of the group
``ldebm.GROUP``; or registered by a program (:func:`register`). None is imported before it is used,
and this module imports no PyTorch, so that parameters are checked without either.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ldebm.errors import UsageError
from ldebm.sources import OWN, PLUGINS, files_of

if TYPE_CHECKING:
    from ldebm.backbones.base import Backbone
    from ldebm.config import EvaluateConfig
    from ldebm.config.sections import Section
    from ldebm.data.kinds.base import Kind
    from ldebm.data.packed import Packed
    from ldebm.model import Model
    from ldebm.priors.base import Prior

__all__ = [
    "BackbonePlugin",
    "KindPlugin",
    "MetricPlugin",
    "PriorPlugin",
    "find",
    "hashes",
    "names",
    "plugin_files",
    "refuse_namesake",
    "register",
    "require_same",
]

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class PriorPlugin:
    """A prior of one latent vector, ``prior.kind: NAME``.

    Attributes:
        build: (D, the experiment's prior section, generator of initial weights) -> the prior.
        task: what trains it: ``task.of(inputs)`` takes :class:`ldebm.training.inputs.PriorInputs`
            and gives a :class:`ldebm.training.trainer.Task`. None: only its standardisation is
            fitted, to the aggregate posterior.
        options: checks ``prior.options``; None: they are not checked.
    """

    build: Callable[..., Prior]
    task: Any = None
    options: type[Section] | None = None


@dataclass(frozen=True)
class BackbonePlugin:
    """A backbone with one latent vector, ``backbone.arch: NAME``.

    Attributes:
        build: a class of (the experiment's backbone section, meta of the packed data, generator of
            initial weights).
        kinds: of data that it models.
        task: what trains it, in place of :class:`ldebm.training.backbone_task.BackboneTask`.
        options: checks ``backbone.options``; None: they are not checked.
    """

    build: type[Backbone]
    kinds: tuple[str, ...]
    task: Any = None
    options: type[Section] | None = None


@dataclass(frozen=True)
class MetricPlugin:
    """Numbers of a trained model that evaluation adds where ``evaluate.metrics`` has NAME.

    Comparisons and the report read the glossary: a module that imports PyTorch inside functions
    alone does not slow them down.

    Attributes:
        measure: (model, its packed data, the evaluate section) -> numbers, called NAME or NAME_*.
        glossary: of every number, which way is better ("lower", "higher" or "") and its meaning.
    """

    measure: Callable[[Model, Packed, EvaluateConfig], Mapping[str, float]]
    glossary: Mapping[str, tuple[Literal["lower", "higher", ""], str]] = field(default_factory=dict)


@dataclass(frozen=True)
class KindPlugin:
    """A kind of data, ``data.D.kind: NAME``.

    The stages of the data import no PyTorch, and training no polars: so both classes are given by
    functions that import them.

    Attributes:
        data: gives the class that reads, cleans, checks and packs
            (:class:`ldebm.data.kinds.base.Kind`).
        model: gives the class of models of such data (:class:`ldebm.model.Model`).
    """

    data: Callable[[], type[Kind]]
    model: Callable[[], type[Model]]


TYPES: dict[str, type[Any]] = {
    "priors": PriorPlugin,
    "backbones": BackbonePlugin,
    "metrics": MetricPlugin,
    "kinds": KindPlugin,
}
_registered: dict[str, dict[str, Any]] = {group: {} for group in TYPES}


def register(name: str, plugin: Any) -> None:
    """Adds a plugin to this process: for notebooks and tests.

    The stages of a build are processes of their own: for them it is a file in ``plugins/``, or an
    entry point.

    Raises:
        UsageError: it is no plugin.

    Example:
        >>> register("null", MetricPlugin(lambda model, packed, config: {"null": 0.0}))
        >>> find("metrics", "null").measure(None, None, None)
        {'null': 0.0}
    """
    for group, kind in TYPES.items():
        if isinstance(plugin, kind):
            _registered[group][name] = plugin
            return
    expected = ", ".join(kind.__name__ for kind in TYPES.values())
    raise UsageError(f"plugin {name!r}: expected one of {expected}, got {type(plugin).__name__}")


@dataclass(frozen=True)
class _Place:
    """Where a plugin is: a module, its attribute, and what a message calls it."""

    module: str
    attribute: str
    where: str


def _places(group: str) -> dict[str, _Place]:
    """The plugins of a group in the project's folder and in installed packages."""
    places: dict[str, _Place] = {}
    for path in sorted((ROOT / PLUGINS / group).glob("[!_.]*")):
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            where = f"{PLUGINS}/{group}/{path.name}"
            places[path.stem] = _Place(f"{PLUGINS}.{group}.{path.stem}", "plugin", where)
    for entry in _installed(group, tuple(sys.path)):
        where = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        if entry.name in places and places[entry.name].where != where:
            both = f"{places[entry.name].where} and {where}"
            raise UsageError(f"plugin {entry.name!r} of {group}: is in {both}; remove one")
        places[entry.name] = _Place(entry.module, entry.attr, where)
    return places


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Entry points of the packages on ``path``, which is sys.path."""
    return tuple(_entry_points(path).select(group=f"ldebm.{group}"))


@functools.cache
def _entry_points(path: tuple[str, ...]) -> Any:
    """All that the packages on ``path`` register; reading them, for all groups at once, is slow."""
    return importlib.metadata.entry_points()


def names(group: str) -> list[str]:
    """What plugins of a group there are. None is imported."""
    return sorted({*_registered[group], *_places(group)})


def find(group: str, name: str) -> Any:
    """The plugin of a group with that name, imported now.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    if name in _registered[group]:
        return _registered[group][name]
    places = _places(group)
    if name not in places:
        known = ", ".join(names(group)) or "none"
        raise UsageError(
            f"plugin {name!r} of {group}: there is none (known: {known}); install its package, or "
            f"put it into {PLUGINS}/{group}/{name}.py"
        )
    place = places[name]
    if place.where.startswith(PLUGINS) and str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    try:
        plugin = importlib.import_module(place.module)
        for part in place.attribute.split("."):
            plugin = getattr(plugin, part)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"plugin {name!r} ({place.where}): cannot be imported ({said}); correct or remove it"
        ) from error
    if not isinstance(plugin, TYPES[group]):
        raise UsageError(
            f"plugin {name!r} ({place.where}): {place.attribute} is of type "
            f"{type(plugin).__name__}; expected {TYPES[group].__name__}"
        )
    return plugin


def refuse_namesake(group: str, name: str) -> None:
    """Refuses a plugin with the name of something built in, which would be used in its place.

    Raises:
        UsageError: there is one.
    """
    files = (f"{PLUGINS}/{group}/{name}{end}" for end in (".py", "/__init__.py"))
    where = next((file for file in files if (ROOT / file).is_file()), None)
    if where is None and name in _registered[group]:
        where = "registered by this program"
    for entry in _installed(group, tuple(sys.path)) if where is None else ():
        if entry.name == name:
            where = f"package {entry.dist.name}" if entry.dist else entry.value
    if where is not None:
        raise UsageError(
            f"plugin {name!r} of {group} ({where}): {name!r} is built in, and would be used in its "
            "place; give the plugin another name"
        )


def plugin_files(group: str, named: Iterable[str] | None = None) -> dict[str, Path]:
    """The files of plugins by path, without those of the project's own packages that they import.

    The path of an installed file begins with the name and version of its package. What a program
    registered has no files here.

    Args:
        group: of the plugins.
        named: which; None: all that there are.
    """
    places = _places(group)
    paths: dict[str, Path] = {}
    for name in places if named is None else named:
        if name in places:
            files = files_of(places[name].module, ROOT)
            paths |= {p: file for p, file in files.items() if p.split("/")[0] not in OWN}
    return dict(sorted(paths.items()))


def hashes(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The sha256 of the files of plugins, by path.

    Args:
        named: group and name of each.
    """
    files: dict[str, Path] = {}
    for group, name in named:
        files |= plugin_files(group, [name])
    return {path: hashlib.sha256(files[path].read_bytes()).hexdigest() for path in sorted(files)}


def require_same(
    recorded: Mapping[str, str], named: Iterable[tuple[str, str]], file: str | Path
) -> None:
    """Stops a stage whose plugins are not those of the build: DVC does not see installed packages.

    Args:
        recorded: what :func:`hashes` said when the file was written.
        named: group and name of each.
        file: where that stands.

    Raises:
        UsageError: a file of a plugin is another one now.
    """
    now = hashes(named)
    for path in sorted(now.keys() | recorded.keys()):
        if now.get(path) != recorded.get(path):
            raise UsageError(
                f"{file}: plugin file {path} is not the one that the build began with; run "
                "`dvc repro -s -f code`, then `dvc repro`"
            )
