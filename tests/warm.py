"""The builds' quick ``python`` (:mod:`pipelines.warm`), for tests that start hundreds of commands.

What differs from Python itself: the seed of hashes is the same for all, and modules are not taken
apart at the end; tests of whether a second build gives the same bytes use Python for one of two.
"""

import atexit
import functools
import os
from pathlib import Path

from pipelines.warm import WarmPython

__all__ = ["warm_python"]


@functools.cache
def warm_python() -> Path:
    """A folder with a quick ``python``; its server ends with this process."""
    settings = {"OMP_NUM_THREADS": "1", "GX_ANALYTICS_ENABLED": "false"}
    python = WarmPython({**os.environ, **settings}, wait=True)
    atexit.register(python.close)
    return Path(python.path)
