"""Stage ``code``: checks all parameters, and lists the files that every stage runs.

DVC does not see imports, so this stage reads them: for every stage of dvc.yaml it writes
``data/code/STAGE.json``, path -> md5, of the modules that ``stages/STAGE.py`` imports. The stage
depends on that one file. Any change of code runs this stage; only those whose list has changed run
after it.

It runs before all others and whenever params.yaml changes, which no list depends on: a mistake in a
parameter stops a build here, also one that no stage reads.
"""

from __future__ import annotations

import re
from pathlib import Path

from ldebm.config import load_params
from ldebm.config.plugged import plugins_of
from ldebm.files import write_json
from ldebm.plugins import plugin_files
from ldebm.sources import GROUPS, closure
from pipelines.lineage.code_lists import code_list
from pipelines.lineage.records import dvc_md5
from stages._entry import arguments, run

__all__ = ["PLUGINS_OF", "stage_names", "write_lists"]

# Stages that depend on all plugins of a group. Those of an experiment reach the stages of its model
# by way of `bind`, so that a change of one trains only what uses it.
_DATA = ("prepare", "validate", "pack")
PLUGINS_OF = {stage: ("kinds",) for stage in _DATA} | {"bind": GROUPS, "report": ("metrics",)}


def stage_names(root: Path = Path()) -> list[str]:
    """The stages of dvc.yaml, in its order."""
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    stages = text.partition("\nstages:\n")[2].partition("\nartifacts:\n")[0]
    return [match.group(1) for match in re.finditer(r"^  ([a-z_]+):$", stages, re.MULTILINE)]


def write_lists(root: Path = Path()) -> None:
    """Writes the list of every stage of dvc.yaml but this one."""
    hashes: dict[str, str] = {}
    for stage in stage_names(root):
        if stage == "code":
            continue
        files = {path: root / path for path in closure(f"stages.{stage}", root)}
        for group in PLUGINS_OF.get(stage, ()):
            files |= plugin_files(group)
        for path, file in files.items():
            if path not in hashes:
                hashes[path] = dvc_md5(file)
        write_json(root / code_list(stage), {path: hashes[path] for path in sorted(files)})


def main() -> None:
    """Checks the parameters and writes all lists; those also where the check fails.

    DVC has deleted the lists when the stage begins, and git would miss them.
    """
    options = arguments(__doc__)
    try:
        params = load_params(options.params)
        for data in params.run.datasets:
            plugins_of(params.dataset(data), "kind")
        for experiment in params.run.experiments:
            params.require_datasets(experiment)
            params.experiment(experiment).check_plugins(f"experiments.{experiment}")
    finally:
        write_lists()


if __name__ == "__main__":
    run(main)
