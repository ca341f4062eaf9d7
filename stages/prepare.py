"""Stage prepare: data/raw/NAME to one canonical table per split in data/prepared/NAME."""

from __future__ import annotations

import sys
from pathlib import Path

from ldebm.data.limits import notes
from ldebm.data.prepare import prepare
from stages._entry import arguments, parameters, run


def main() -> None:
    """Prepares one data set."""
    options = arguments(__doc__, "data")
    config = parameters(options).dataset(options.data)
    name = options.data
    profile = prepare(config, Path("data/raw") / name, Path("data/prepared") / name)
    rows = ", ".join(f"{facts['rows']} {split}" for split, facts in profile["splits"].items())
    rejects = profile["rejects"]
    why = ", ".join(f"{reason}: {count}" for reason, count in rejects["reasons"].items())
    for note in notes(profile):
        print(f"warning: {name}: {note}", file=sys.stderr)
    print(f"{name}: {rows} rows, {rejects['rows']} left out{f' ({why})' if why else ''}")


if __name__ == "__main__":
    run(main)
