"""Stage fetch: brings the source files of a data set to data/raw/NAME.

Reads the data registry, the mirror named by LDEBM_DATA_MIRROR, or the network.
"""

from __future__ import annotations

import os
from pathlib import Path

from ldebm.data.fetch import MIRROR_VARIABLE, fetch
from ldebm.data.registry import find_source
from stages._entry import arguments, parameters, run


def main() -> None:
    """Fetches one data set."""
    options = arguments(__doc__, "data")
    config = parameters(options).dataset(options.data)
    source = None if config.source == "file" else find_source(config.source)
    mirror = os.environ.get(MIRROR_VARIABLE) or None
    fetch(source, config, Path("data/raw") / options.data, mirror)


if __name__ == "__main__":
    run(main)
