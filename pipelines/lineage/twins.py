"""Records of twins: executions that are the same but for the names of data set and experiment.

DVC does not run a stage whose outputs, as dvc.lock has them, are in its cache. A twin puts them
there: two experiments with the same first stage write the same bytes. The stage that DVC restores
has no record of its own, but the record of its twin proves where the bytes come from if command,
seed, inputs, parameters, code and outputs are all the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.lineage.objects import Objects

if TYPE_CHECKING:
    from pipelines.lineage.trace import Step

__all__ = ["adopted", "bound_folders", "different", "neutral", "words"]

_KEYS = ("data", "experiment", "seed")
_BOUND = "data/bound/"  # the files that hold the names of their experiment and data set


def words(command: str) -> dict[str, str]:
    """Data set, experiment and seed of a stage, from its command.

    Example:
        >>> words("python -m stages.prior --experiment e --seed 0")
        {'experiment': 'e', 'seed': '0'}
    """
    pairs = dict(itertools.pairwise(shlex.split(command)))
    return {key: pairs[f"--{key}"] for key in _KEYS if f"--{key}" in pairs}


def neutral(path: str, names: Mapping[str, str]) -> str:
    """A path or a parameter with names replaced.

    Example:
        >>> neutral("models/e/0/prior", {"experiment": "e", "seed": "0"})
        'models/{experiment}/{seed}/prior'
    """
    for key, word in names.items():
        path = re.sub(rf"(?<![^/.]){re.escape(word)}(?=/|$|\.json$|\.)", "{" + key + "}", path)
    return path


def adopted(record: Mapping[str, Any], step: Step, objects: Objects) -> dict[str, Any]:
    """The record of a possible twin in the names of a step: its paths, parameters and command.

    A file of ``data/bound`` that says the same as that of the step, but for the names, counts as
    the step's.

    Args:
        record: of another stage of the same kind.
        step: what dvc.lock says.
        objects: where files are found by hash.
    """
    mine, theirs = words(step.command), words(str(record.get("command") or ""))
    paths = {neutral(path, mine): path for path in (*step.inputs, *step.outputs)}
    keys = {neutral(key, mine): key for key in step.params}

    def renamed(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        entries = []
        for item in items:
            path = paths.get(neutral(item["path"], theirs), item["path"])
            bound = path.startswith(_BOUND) and path in step.inputs and path != item["path"]
            same = _same_binding(item, path, step.inputs[path], objects) if bound else {}
            entries.append({**item, **same, "path": path})
        return entries

    command = str(record.get("command") or "")
    same_command = _neutral_command(command) == _neutral_command(step.command)
    return {
        **record,
        "stage": step.stage,
        "command": step.command if same_command else command,
        "inputs": renamed(record["inputs"]),
        "outputs": renamed(record["outputs"]),
        "params": {
            keys.get(neutral(key, theirs), key): value for key, value in record["params"].items()
        },
    }


def different(record: Mapping[str, Any], step: Step) -> list[str]:
    """What of a record is not the step's, in words; empty if it is a record of this execution."""
    read, wrote = (
        {item["path"]: item["md5"] for item in record[kind]} for kind in ("inputs", "outputs")
    )
    code = record.get("code_md5") or {}
    differing = []
    if record.get("command") != step.command:
        differing.append("the command")
    for kind, one, other in (
        ("outputs", wrote, step.outputs),
        ("inputs", read, step.inputs),
        ("parameters", record["params"], step.params),
    ):
        names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
        if names:
            differing.append(f"{kind} ({', '.join(names)})")
    edited = sorted(path for path, md5 in code.items() if step.code.get(path) != md5)
    if edited or not code:
        differing.append(f"code ({', '.join(edited[:3]) or 'unknown'})")
    return differing


def _neutral_command(command: str) -> list[str]:
    """The words of a command without the names; the seed stays, it is no name."""
    names = {word: key for key, word in words(command).items() if key != "seed"}
    return [names.get(word, word) for word in shlex.split(command)]


def _same_binding(item: Mapping[str, Any], path: str, md5: str, objects: Objects) -> dict[str, str]:
    """The hashes of the step's file, if the twin's says the same; empty if not, or not known."""
    theirs, mine = objects.read(item["path"], item["md5"]), objects.read(path, md5)
    if theirs is None or mine is None:
        return {}
    if _unnamed(theirs) is None or _unnamed(theirs) != _unnamed(mine):
        return {}
    return {"md5": md5, "sha256": hashlib.sha256(mine).hexdigest()}


def bound_folders(binding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The folders that a file of ``data/bound`` names, each with its ``path``; damaged ones not."""
    ood = binding.get("ood")
    parts = [binding, binding.get("judge"), *(ood.values() if isinstance(ood, dict) else [])]
    return [part for part in parts if isinstance(part, dict) and isinstance(part.get("path"), str)]


def _unnamed(content: bytes) -> Any:
    """What a file of ``data/bound`` says, without the names of experiment and data set."""
    try:
        bound = json.loads(content)
    except ValueError:
        return None
    if not isinstance(bound, dict):
        return None
    names = {key: str(bound.pop(key)) for key in ("experiment", "data") if key in bound}
    for folder in bound_folders(bound):
        folder["path"] = neutral(folder["path"], names)
    return bound
