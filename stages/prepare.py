"""Stage prepare: data/raw/NAME to one canonical table per split in data/prepared/NAME."""

from __future__ import annotations

from pathlib import Path

from ldebm.config import load_params
from ldebm.data.prepare import prepare
from stages._entry import arguments, run


def main() -> None:
    """Prepares one data set."""
    options = arguments(__doc__, "data")
    config = load_params(options.params).dataset(options.data)
    name = options.data
    profile = prepare(config, Path("data/raw") / name, Path("data/prepared") / name)
    rows = ", ".join(f"{facts['rows']} {split}" for split, facts in profile["splits"].items())
    print(f"{name}: {rows} rows, {profile['rejects']['rows']} left out")


if __name__ == "__main__":
    run(main)
