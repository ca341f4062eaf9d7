"""Rewriting the ``run:`` section of params.yaml, which says what is built.

Only the lines of the changed keys are touched, so that comments, anchors and layout stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldebm.config import Params, RunConfig, load_params, nearest
from ldebm.errors import UsageError

__all__ = ["replace_run", "select_run"]


def select_run(
    path: Path, names: list[str], seeds: str | None = None, epochs: str | None = None
) -> RunConfig:
    """Writes a selection into a parameter file.

    Args:
        path: params.yaml.
        names: groups or experiments (also comma-separated); none: keep those of the file.
        seeds: comma-separated integers; None: keep those of the file.
        epochs: length of every training, "null" for the experiments' own; None: keep.

    Returns:
        The new ``run:`` section.

    Raises:
        UsageError: an unknown name, or a seed or length that is not a number.
    """
    params = load_params(path)
    changes: dict[str, Any] = {}
    wanted = [name for item in names for name in item.split(",") if name]
    if wanted:
        experiments = _experiments(params, wanted)
        changes["experiments"] = experiments
        datasets = [data for name in experiments for data in params.datasets_of(name)]
        changes["datasets"] = list(dict.fromkeys(datasets))
    if seeds is not None:
        changes["seeds"] = _seeds(seeds)
    if epochs is not None:
        changes["epochs"] = _epochs(epochs)
    run = params.run.model_copy(update=changes)
    if run != params.run:
        text = replace_run(path.read_text(encoding="utf-8"), changes)
        _check(text, params, run)
        from ldebm.files import write_text  # loads torch: only where something changes

        write_text(path, text)
    return run


def _experiments(params: Params, names: list[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if name in params.groups:
            found += params.groups[name]
        elif name in params.experiments:
            found.append(name)
        else:
            hint = nearest(name, [*params.groups, *params.experiments])
            raise UsageError(f"{name!r} is neither a group nor an experiment of params.yaml{hint}")
    return list(dict.fromkeys(found))


def _seeds(text: str) -> list[int]:
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"seeds {text!r}: expected integers separated by commas, as in 0,1,2")
    return list(dict.fromkeys(int(part) for part in parts))


def _epochs(text: str) -> float | None:
    if text.strip().lower() in {"null", "none"}:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"epochs {text!r}: expected a number above 0, or null")
    return value


def replace_run(text: str, changes: Mapping[str, Any]) -> str:
    """Sets keys of the ``run:`` block in YAML text, each as one line; trailing comments stay.

    Example:
        >>> text = "run:\\n  seeds: [0]  # one\\ndata: {}\\n"
        >>> print(replace_run(text, {"seeds": [1, 2]}), end="")
        run:
          seeds: [1, 2]  # one
        data: {}
    """
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if re.match(r"run:\s*(#.*)?$", line)]
    if len(starts) != 1:
        raise UsageError("params.yaml: expected one `run:` block with a key on each line")
    begin = starts[0] + 1
    end = begin
    while end < len(lines) and (lines[end][0] in " #\n"):
        end += 1
    block = lines[begin:end]
    for key, value in changes.items():
        block = _replace_key(block, key, _yaml(value))
    return "".join(lines[:begin] + block + lines[end:])


def _replace_key(block: list[str], key: str, value: str) -> list[str]:
    result: list[str] = []
    found = False
    skipping = False
    indent = "  "
    for line in block:
        match = re.match(r"( +)([A-Za-z_]+):(.*)$", line)
        if match:
            skipping = match[2] == key
            indent = match[1]
            if skipping:
                comment = re.search(r"\s+#.*$", match[3])
                result.append(f"{indent}{key}: {value}{comment[0] if comment else ''}\n")
                found = True
                continue
        if skipping and line.strip() and not line.lstrip().startswith("#"):
            continue  # the rest of a value that went over several lines
        result.append(line)
    return result if found else [f"{indent}{key}: {value}\n", *result]


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return "null" if value is None else f"{value:g}"


def _check(text: str, before: Params, run: RunConfig) -> None:
    """Refuses to write unless exactly the run section changes."""
    import yaml

    after = Params.model_validate(yaml.safe_load(text))
    if after != before.model_copy(update={"run": run}):
        raise UsageError("params.yaml: its `run:` block has a layout that cannot be rewritten")
