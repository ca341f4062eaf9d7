"""The lineage record of a running stage: what dvc.yaml says about it, filled in with its keys.

Stages name neither their inputs nor their outputs twice: this module reads them from the DAG.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.yaml_text import parse_yaml
from pipelines.lineage.code_lists import is_code
from pipelines.lineage.records import recorded

__all__ = ["Plan", "plan", "this_stage"]

KEYS = ("data", "experiment", "seed")


@dataclass(frozen=True)
class Plan:
    """One instance of a stage: its name in DVC, and what it reads and writes."""

    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[str, Any]


def plan(stage: str, keys: Mapping[str, str], root: Path = Path()) -> Plan:
    """Fills the definition of a stage in.

    Args:
        stage: its name in dvc.yaml.
        keys: values of its matrix, by name.
        root: the project's folder.
    """
    definition = parse_yaml((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    params = parse_yaml((root / "params.yaml").read_text(encoding="utf-8"))

    def filled(kind: str) -> list[str]:
        items = [next(iter(i)) if isinstance(i, dict) else i for i in definition.get(kind, [])]
        return [re.sub(r"\$\{item\.(\w+)\}", lambda match: keys[match[1]], item) for item in items]

    instance = "-".join(keys[key] for key in definition.get("matrix", {}))
    return Plan(
        name=f"{stage}@{instance}" if instance else stage,
        inputs=[dep for dep in filled("deps") if not is_code(dep)],
        outputs=[path for kind in ("outs", "plots", "metrics") for path in filled(kind)],
        params={key: _lookup(params, key) for key in filled("params")},
    )


def _lookup(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


@contextlib.contextmanager
def this_stage() -> Iterator[None]:
    """Records the stage that this process runs (``python -m stages.NAME --KEY ...``)."""
    keys = _keys()
    try:
        mine = None if keys is None else plan(_stage(), keys)
    except (KeyError, TypeError, ValueError):
        mine = None  # wrong keys or parameters: the stage explains them and stops
    if mine is None or keys is None:
        yield
        return
    seed = int(keys["seed"]) if "seed" in keys else None
    with recorded(
        mine.name,
        inputs=mine.inputs,
        outputs=mine.outputs,
        params=mine.params,
        seed=seed,
        command=shlex.join(["python", "-m", f"stages.{_stage()}", *sys.argv[1:]]),
    ):
        yield


def _stage() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.rpartition(".")[2] if spec else ""


def _keys() -> dict[str, str] | None:
    """The stage's keys on the command line; None outside a project or with other parameters."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for key in (*KEYS, "params"):
        parser.add_argument(f"--{key}")
    try:
        options = vars(parser.parse_known_args()[0])
    except argparse.ArgumentError:
        return None
    here = all(Path(name).is_file() for name in ("dvc.yaml", "params.yaml"))
    if not here or options.pop("params") not in (None, "params.yaml"):
        return None
    return {key: value for key, value in options.items() if value is not None}
