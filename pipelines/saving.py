"""Turns what was typed into params.yaml into files of ``conf/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldebm.config.params import Params
from ldebm.config.sections import explicit
from ldebm.errors import UsageError
from ldebm.yaml_text import format_yaml
from pipelines.library import CONF, Library
from pipelines.names import check_name
from pipelines.selection import status, write_params

__all__ = ["save_edits"]


def save_edits(path: str | Path, name: str) -> list[Path]:
    """Writes the edited experiments and data sets of a parameter file to ``conf/``.

    One edited experiment becomes ``name``, several become ``name-EXPERIMENT``; the same holds for
    data sets, whose experiments are saved with them. The file then selects the new ones in place of
    those that they came from.

    Args:
        path: params.yaml.
        name: of the new experiment.

    Returns:
        The files that were written.

    Raises:
        UsageError: nothing was edited, the name is taken or not one, or an edit is of a section
            that all experiments share; nothing is then written.
    """
    path = Path(path)
    check_name(name)
    library, state = Library(path.parent), status(path)
    keys = [item.key.split(".") for item in state.edits]
    if not keys:
        raise UsageError("params.yaml has no values of its own: there is nothing to save")
    shared = [".".join(key) for key in keys if key[0] not in ("experiments", "data")]
    if shared:
        section = shared[0].partition(".")[0]
        raise UsageError(
            f"{shared[0]} is of all experiments: write it to {CONF}/{section}.yaml instead"
        )
    data = _new_names(name, [key[1] for key in keys if key[0] == "data"])
    touched = [key[1] for key in keys if key[0] == "experiments"]
    touched += [
        experiment
        for experiment, config in state.params.experiments.items()
        if set(config.datasets()) & data.keys()
    ]
    experiments = _new_names(name, touched)
    _free(library, state.params, experiments.values(), data.values())
    files = [_data_file(library, state.params, old, new) for old, new in data.items()]
    files += [
        _experiment_file(library, state.params, old, new, data) for old, new in experiments.items()
    ]
    for file, text in files:
        _write(file, text)
    try:
        _reselect(path, state.params, experiments)
    except UsageError:
        for file, _ in files:
            file.unlink()
        raise
    return [file for file, _ in files]


def _new_names(name: str, old: list[str]) -> dict[str, str]:
    names = list(dict.fromkeys(old))
    return {item: name if len(names) == 1 else f"{name}-{item}" for item in names}


def _free(library: Library, params: Params, experiments: Any, data: Any) -> None:
    for kind, new, known in (
        ("experiment", experiments, {*library.experiments, *library.groups, *params.experiments}),
        ("data set", data, {*library.data, *params.data}),
    ):
        for name in new:
            if name in known:
                raise UsageError(f"{kind} {name!r} is there already; choose another name")


def _data_file(library: Library, params: Params, old: str, new: str) -> tuple[Path, str]:
    delta = _delta(explicit(library.dataset(old)), explicit(params.dataset(old)))
    parent = f"/{library.data[old]}@_here_"
    return library.folder / "data" / f"{new}.yaml", _text(parent, delta)


def _experiment_file(
    library: Library, params: Params, old: str, new: str, data: dict[str, str]
) -> tuple[Path, str]:
    content = explicit(params.experiment(old))
    content["data"] = data.get(content["data"], content["data"])
    evaluate = content["evaluate"]
    evaluate["ood"] = [data.get(item, item) for item in evaluate["ood"]]
    evaluate["classifier"] = data.get(evaluate["classifier"], evaluate["classifier"])
    parent, delta = None, content
    if old in library.experiments:
        parent = f"/{library.experiments[old]}@_here_"
        delta = _delta(explicit(library.experiment(old)), content)
    return library.folder / "experiment" / f"{new}.yaml", _text(parent, delta)


def _delta(base: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """What has to be written over ``base``, mapping by mapping, so that it becomes ``target``."""
    delta: dict[str, Any] = {}
    for key, value in target.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _delta(old, value):
                delta[key] = inner
        elif value != old:
            delta[key] = value
    return delta


def _text(parent: str | None, delta: dict[str, Any]) -> str:
    defaults = {"defaults": [parent, "_self_"]} if parent else {}
    return "# Saved from params.yaml by `ldebm select --save`.\n" + format_yaml(defaults | delta)


def _write(file: Path, text: str) -> None:
    from ldebm.files import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


def _reselect(path: Path, params: Params, experiments: dict[str, str]) -> None:
    """Selects what was saved, and checks that it is what stood in the file."""
    library = Library(path.parent)
    selected = [experiments.get(name, name) for name in params.run.experiments]
    after = library.params(params.run.model_copy(update={"experiments": selected}))
    for old, new in experiments.items():
        wanted, got = explicit(params.experiment(old)), explicit(after.experiment(new))
        for section in ("backbone", "cluster", "prior"):
            if wanted[section] != got[section]:
                raise UsageError(
                    f"experiments.{old}.{section} cannot be written as changes to {CONF}/: "
                    f"write {CONF}/experiment/{new}.yaml by hand"
                )
    write_params(path, after)
