"""Which heavy modules a command imports: its speed, without a clock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ldebm.cli

__all__ = ["imported"]

HEAVY = ("dvc", "numpy", "pandas", "pipelines", "polars", "prefect", "pyarrow", "pydantic", "scipy",
         "sentencepiece", "sklearn", "torch")  # fmt: skip


def imported(folder: Path, *arguments: object) -> set[str]:
    """Those of the heavy modules that ``ldebm ARGUMENTS`` imports in a process of its own."""
    script = (
        "import sys, ldebm.cli\n"
        "try: ldebm.cli.main(sys.argv[1:])\n"
        "except SystemExit as stopped: assert not stopped.code, stopped.code\n"
        f"print('', *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(ldebm.cli.__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())
