"""Stage bind: names the packed data of an experiment in data/bound/NAME.json, with its hashes.

DVC cannot look the data set of an experiment up, so that this stage depends on all of data/packed;
its output changes only with the experiment's own data, and the model stages depend on that. What
evaluation alone reads, the classifier and the data sets of ``evaluate.ood``, is named in
data/bound/NAME.measure.json. The plugins of the experiment are named with their hashes too, so that
a change of one trains only what uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldebm.config.plugged import named_plugins
from ldebm.data.packed import JUDGE, open_packed
from ldebm.errors import UsageError
from ldebm.files import hash_path, write_json
from ldebm.plugins import hashes
from stages._entry import arguments, parameters, run


def main() -> None:
    """Binds one experiment to its data."""
    options = arguments(__doc__, "experiment")
    params = parameters(options)
    data, *others = params.require_datasets(options.experiment)
    config = params.experiment(options.experiment)
    kind = named_plugins(params.dataset(data), "kind")
    names = {"experiment": options.experiment, "data": data}
    bound = {**names, **_packed(data), **_plugins(kind + config.plugins())}
    classifier = _files(Path("data/judge") / (config.evaluate.classifier or data))
    measure = {**names, "judge": classifier if JUDGE in classifier["files"] else None}
    measure["ood"] = {name: _packed(name) for name in others}
    measure |= _plugins(config.metric_plugins())
    folder = Path("data/bound")
    write_json(folder / f"{options.experiment}.json", bound)
    write_json(folder / f"{options.experiment}.measure.json", measure)


def _plugins(named: list[tuple[str, str]]) -> dict[str, Any]:
    """The hashes of the files of plugins; nothing where there are none."""
    return {"plugins": {"named": named, "files": hashes(named)}} if named else {}


def _packed(data: str) -> dict[str, Any]:
    path = Path("data/packed") / data
    open_packed(path)
    return _files(path)


def _files(path: Path) -> dict[str, Any]:
    """Where a folder is, and the hashes of its files."""
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; build it first (`dvc repro`)")
    files = {item.name: hash_path(item) for item in sorted(path.iterdir()) if item.is_file()}
    return {"path": path.as_posix(), "files": files}


if __name__ == "__main__":
    run(main)
