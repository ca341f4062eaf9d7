"""params.yaml: composed from ``conf/``, for the experiments that are selected.

It holds every key of the selected experiments and of their data sets, defaults included, in the
order and format that DVC's own writer keeps: ``dvc exp run -S`` changes one line. A fingerprint in
its first lines says what was composed; so values that somebody typed afterwards are known, named,
and never written over unasked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any, Literal

from ldebm.config.checking import parse
from ldebm.config.params import Params, RunConfig, load_params
from ldebm.config.sections import explicit
from ldebm.errors import UsageError
from ldebm.yaml_text import format_yaml, parse_yaml
from pipelines.library import Library

__all__ = [
    "Edit",
    "Edits",
    "Status",
    "differing",
    "extended",
    "length_line",
    "params_of",
    "select_run",
    "status",
    "write_params",
]

Edits = Literal["refuse", "keep", "copy", "discard"]

SCHEMA = "docs/reference/params.schema.json"
HEAD = """\
# What `dvc repro` builds: every key of the selected experiments, composed from conf/ by `ldebm select`.
# Change a value in an editor or with `dvc exp run -S KEY=VALUE`; `ldebm select --status` lists what differs.
# yaml-language-server: $schema={schema}
# composed: {digest} of conf/ {conf}
"""  # noqa: E501
MISSING = object()


@dataclass(frozen=True)
class Edit:
    """A key whose value in params.yaml is not the one that conf/ gives."""

    key: str
    here: Any
    composed: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.here)} (conf/: {_shown(self.composed)})"


@dataclass(frozen=True)
class Status:
    """How params.yaml compares with its composition.

    Attributes:
        params: what params.yaml says.
        differences: keys that differ from what conf/ gives now.
        edited: whether params.yaml was changed since it was composed; False: conf/ was.
        own: keys of the sections that conf/ does not have.
    """

    params: Params
    differences: tuple[Edit, ...]
    edited: bool
    own: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The differences that would be lost by composing params.yaml again."""
        return self.differences if self.edited else ()

    def summary(self) -> str | None:
        """One line that names the keys that differ; None where nothing does."""
        if not self.differences:
            return None
        some = ", ".join(item.key for item in self.differences[:4])
        more = len(self.differences) - 4
        some += f" and {more} more" if more > 0 else ""
        if self.edited:
            return f"params.yaml differs from conf/ in {some} (`ldebm select --status`)"
        return f"conf/ was changed after params.yaml was composed: {some} (`ldebm select` takes it)"


def length_line(run: RunConfig) -> str | None:
    """One line on trainings that are given other lengths than their own; None where none are."""
    if run.epochs is None:
        return None
    return (
        f"run.epochs: {run.epochs:g}, in place of the epochs of every training; "
        "`ldebm select --epochs null` ends it"
    )


def status(path: str | Path = "params.yaml") -> Status:
    """Compares a parameter file with its composition from the ``conf/`` beside it.

    Sections that ``conf/`` does not have are the file's own and count as equal.

    Raises:
        UsageError: the file or a file of conf/ is wrong.
    """
    path = Path(path)
    params = load_params(path)
    library = Library(path.parent)
    here = explicit(params)
    facts = (_fingerprint(here), library.fingerprint())
    stated = _stated(path)
    own = [f"data.{name}" for name in params.data if name not in library.data]
    own += [f"experiments.{name}" for name in params.experiments if name not in library.experiments]
    if facts == stated:  # neither was changed: nothing has to be composed
        return Status(params, (), False, tuple(own))
    composed = explicit(_composed(params, library))
    differences = tuple(starmap(Edit, differing(here, composed, missing=MISSING)))
    return Status(params, differences, facts[0] != stated[0], tuple(own))


def _composed(params: Params, library: Library) -> Params:
    """What conf/ gives for the sections of a parameter file; others stay as they are."""
    names = {name: name in library.experiments for name in params.experiments}
    data = {name: name in library.data for name in params.data}
    changes: dict[str, Any] = {
        "experiments": {
            name: library.experiment(name) if there else params.experiments[name]
            for name, there in names.items()
        },
        "data": {
            name: library.dataset(name) if there else params.data[name]
            for name, there in data.items()
        },
    }
    if library.folder.is_dir():
        changes["retrain"] = library.retrain()
    return params.model_copy(update=changes)


def select_run(
    path: str | Path,
    names: Sequence[str] = (),
    seeds: str | None = None,
    epochs: str | None = None,
    edits: Edits = "refuse",
) -> RunConfig:
    """Composes a parameter file for a selection, or changes its seeds and lengths alone.

    Args:
        path: params.yaml.
        names: groups or experiments, also comma-separated; none: those of the file.
        seeds: comma-separated integers; None: keep those of the file.
        epochs: length of every training, "null" for the experiments' own; None: keep.
        edits: what becomes of values that conf/ does not give: ``refuse`` to compose over them,
            ``keep`` the sections that stay selected as they stand and refuse if others would be
            lost, ``copy`` the same without refusing (the file is a copy), or ``discard`` them.

    Returns:
        The new ``run:`` section.

    Raises:
        UsageError: an unknown name, a seed or length that is not a number, or edits that would be
            lost; the file is then as it was.
    """
    path = Path(path)
    library = Library(path.parent)
    before = None if edits == "discard" else load_params(path)
    run = before.run if before else _old_run(path)
    recompose = bool(names) or (seeds is None and epochs is None) or before is None
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = _seeds(seeds)
    if epochs is not None:
        changes["epochs"] = _epochs(epochs)
    if recompose:
        known = list(before.experiments) if before else []
        changes["experiments"] = library.expand(names or run.experiments, known)
        if not changes["experiments"]:
            raise UsageError("select: name a group or an experiment (conf/groups.yaml)")
    run = run.model_copy(update=changes)
    if before is None:
        params = library.params(run)
    elif recompose:
        keep = edits in ("keep", "copy")
        params = _selected(before, run, library, keep)
        if edits != "copy":
            _refuse_loss(status(path), params if keep else None)
    else:
        params = before.model_copy(update={"run": run})
    if recompose:
        write_params(path, params)
    elif params != before:
        write_params(path, params, _stated(path))
    return params.run


def params_of(path: str | Path, names: Sequence[str], seeds: Sequence[int]) -> Params:
    """The parameters of groups and experiments: as the file has them, else as conf/ gives them.

    Args:
        path: params.yaml.
        names: groups or experiments.
        seeds: of the selection.

    Raises:
        UsageError: an unknown name, or a file that is wrong.
    """
    path = Path(path)
    before, library = load_params(path), Library(path.parent)
    experiments = library.expand(names, list(before.experiments))
    run = before.run.model_copy(update={"experiments": experiments, "seeds": list(seeds)})
    return _selected(before, run, library, keep=True)


def extended(params: Params, root: Path, data: str | None, experiment: str | None) -> Params:
    """The parameters with a data set, or an experiment and what it reads, from conf/ as well.

    Raises:
        UsageError: neither params.yaml nor conf/ has the name.
    """
    library = Library(root)
    if data is not None and data not in library.data:
        params.dataset(data)  # says what is known
    if experiment is not None and experiment not in library.experiments:
        params.experiment(experiment)
    more = {experiment: library.experiment(experiment)} if experiment else {}
    wanted = [data] if data else [name for item in more.values() for name in item.datasets()]
    others = {name: library.dataset(name) for name in wanted if name in library.data}
    return params.model_copy(
        update={
            "data": {**others, **params.data},
            "experiments": {**more, **params.experiments},
        }
    )


def _refuse_loss(state: Status, after: Params | None) -> None:
    """Stops where composing again would lose what somebody typed.

    Args:
        state: the file's before.
        after: what it will be, if edits in sections that stay there are kept.
    """
    lost = [item for item in state.edits if after is None or not _holds(after, item.key)]
    if lost:
        listed = "; ".join(str(item) for item in lost[:3])
        more = f"; and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise UsageError(
            f"params.yaml has values that conf/ does not give ({listed}{more}): keep them with "
            "`ldebm select --save NAME`, or drop them with --discard"
        )


def _holds(params: Params, key: str) -> bool:
    section, _, rest = key.partition(".")
    entries: Any = getattr(params, section, None)
    return not isinstance(entries, dict) or rest.partition(".")[0] in entries


def _old_run(path: Path) -> RunConfig:
    """The ``run:`` of a file whose other sections are given up; empty where it cannot be read."""
    try:
        return parse(RunConfig, parse_yaml(path.read_text(encoding="utf-8"))["run"], "run")
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return RunConfig(datasets=[], experiments=[], seeds=[0])


def _selected(before: Params, run: RunConfig, library: Library, keep: bool) -> Params:
    """The sections of a selection: composed, or the file's own where conf/ has none."""
    wanted = {
        name: before.experiments[name]
        if name not in library.experiments or (keep and name in before.experiments)
        else library.experiment(name)
        for name in run.experiments
    }
    own = {n: item for n, item in before.experiments.items() if n not in library.experiments}
    experiments = {**wanted, **own}
    used = list(dict.fromkeys(data for item in wanted.values() for data in item.datasets()))
    needed = dict.fromkeys([*used, *(d for item in own.values() for d in item.datasets())])
    data = {
        name: before.dataset(name)
        if name not in library.data or (keep and name in before.data)
        else library.dataset(name)
        for name in needed
    }
    data |= {n: item for n, item in before.data.items() if n not in library.data}
    there = library.folder.is_dir() and not keep
    content = {
        "run": explicit(run) | {"datasets": used},
        "data": {name: explicit(item) for name, item in data.items()},
        "experiments": {name: explicit(item) for name, item in experiments.items()},
        "retrain": explicit(library.retrain() if there else before.retrain),
    }
    return parse(Params, content, "")


def write_params(path: Path, params: Params, stated: tuple[str, str] | None = None) -> None:
    """Writes a parameter file, whole or not at all.

    Args:
        path: params.yaml.
        params: what it will say.
        stated: the fingerprints of what was composed; None: of what conf/ gives now.
    """
    from ldebm.files import write_text  # loads torch: only where something changes

    if stated is None:
        library = Library(path.parent)
        stated = (_fingerprint(explicit(_composed(params, library))), library.fingerprint())
    head = HEAD.format(schema=SCHEMA, digest=stated[0], conf=stated[1])
    write_text(path, head + format_yaml(explicit(params)))


def _fingerprint(content: Mapping[str, Any]) -> str:
    """Of all values but ``run:``, which selects and is not composed."""
    rest = {name: value for name, value in content.items() if name != "run"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _stated(path: Path) -> tuple[str, str]:
    """The fingerprints that the file's first lines give; empty where there are none."""
    text = path.read_text(encoding="utf-8")
    match = re.search(r"^# composed: ([0-9a-f]+) of conf/ ([0-9a-f]+)$", text, re.MULTILINE)
    return (match[1], match[2]) if match else ("", "")


def differing(
    one: Any, other: Any, key: str = "", missing: Any = None
) -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys whose values differ in two nested mappings, with both values.

    Args:
        one: a mapping, or a plain value.
        other: likewise.
        key: what stands before the keys.
        missing: what counts as the value of a key that one side lacks.

    Example:
        >>> list(differing({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}))
        [('a.b', 1, 3)]
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            inner = f"{key}.{name}" if key else str(name)
            yield from differing(one.get(name, missing), other.get(name, missing), inner, missing)
    elif one != other:
        yield key, one, other


def _shown(value: Any) -> str:
    return "absent" if value is MISSING else json.dumps(value, ensure_ascii=False)


def _seeds(text: str) -> list[int]:
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"seeds {text!r}: expected integers separated by commas, as in 0,1,2")
    return list(dict.fromkeys(int(part) for part in parts))


def _epochs(text: str) -> float | None:
    if text.strip().lower() in {"null", "none"}:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"epochs {text!r}: expected a number above 0, or null")
    return value
