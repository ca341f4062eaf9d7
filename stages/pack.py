"""Stage pack: data/prepared/NAME to memory-mapped arrays in data/packed/NAME.

Stops where the validation report says that the data are not as expected.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.data.packed import require_valid
from ldebm.data.packing import pack
from stages._entry import arguments, parameters, run


def main() -> None:
    """Packs one data set."""
    options = arguments(__doc__, "data")
    name = options.data
    config = parameters(options).dataset(name)
    require_valid(Path("reports/validation") / name / "report.json")
    pack(config, Path("data/prepared") / name, Path("data/packed") / name)


if __name__ == "__main__":
    run(main)
