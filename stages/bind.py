"""Stage bind: names the packed data of an experiment in data/bound/NAME.json, with its hashes.

DVC cannot look the data set of an experiment up, so that this stage depends on all of data/packed;
its output changes only with the experiment's own data, and the model stages depend on that.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.config import load_params
from ldebm.data.packed import open_packed
from ldebm.errors import UsageError
from ldebm.files import hash_path, write_json
from stages._entry import arguments, run


def main() -> None:
    """Binds one experiment to its data."""
    options = arguments(__doc__, "experiment")
    params = load_params(options.params)
    data = params.experiment(options.experiment).data
    params.dataset(data)
    if data not in params.run.datasets:
        raise UsageError(
            f"experiment {options.experiment!r} uses data set {data!r}, which is not built: "
            f"add {data} to run.datasets of {options.params}"
        )
    path = Path("data/packed") / data
    open_packed(path)
    files = {item.name: hash_path(item) for item in sorted(path.iterdir()) if item.is_file()}
    content = {
        "experiment": options.experiment, "data": data, "path": path.as_posix(), "files": files
    }  # fmt: skip
    write_json(Path("data/bound") / f"{options.experiment}.json", content)


if __name__ == "__main__":
    run(main)
