"""The code and the data that a run was made with, from lineage records or dvc.lock.

Both are found by the hash of the run's metrics.json, so what is said of a run is true of it even if
the same experiment was run again since. Records have sha256 of code, dvc.lock has md5; two runs are
compared by the hash that both have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldebm.files import json_text
from pipelines.compare.targets import Run
from pipelines.lineage.code_lists import is_code, is_code_list, parse_code_list

__all__ = ["Origin", "changed_code", "changed_data", "origin"]

TRAINED_BY = ("backbone", "cluster", "prior", "evaluate")


@dataclass
class Origin:
    """What made a run.

    Attributes:
        code: kind of hash (``sha256`` or ``md5``) -> file -> hash.
        data: file of the packed data set -> sha256; the binding's own md5 if only that is known.
        facts: commit, dirty, device, versions of the evaluation's record.
        evaluate: the evaluation's parameters as params.yaml had them. (A model's own configuration
            has those of its training time: evaluating anew does not change the model.)
    """

    code: dict[str, dict[str, str]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] | None = None


def origin(run: Run, records: Sequence[Mapping[str, Any]]) -> Origin:
    """Code and data of a run, as far as they are known here.

    Args:
        run: recorded or evaluated.
        records: all lineage records, newest first.
    """
    result = Origin()
    md5 = hashlib.md5(json_text(run.raw_metrics).encode()).hexdigest()
    path = f"reports/{run.experiment}/{run.seed}/metrics.json"
    bound = _from_records(result, records, path, md5) or _from_lock(result, run, path, md5)
    if bound is not None:
        _read_data(result, run, bound)
    return result


def _from_records(
    result: Origin, records: Sequence[Mapping[str, Any]], path: str, md5: str
) -> str | None:
    """Walks back from the metrics over outputs of the same path and hash; gives the binding's.

    A file of a model that no record has under its path was restored by DVC: then the record of the
    stage that wrote the same bytes for another experiment is its own.
    """
    written, twins = {}, {}
    for record in reversed(records):
        for item in record["outputs"]:
            written[item["path"], item["md5"]] = record
            twins[_in_model(item["path"]), item["md5"]] = record
    waiting, code, bound = [(path, md5)], {}, None
    seen: set[str] = set()
    while waiting:
        path, md5 = waiting.pop()
        own = written.get((path, md5))
        record = own or (twins.get((_in_model(path), md5)) if _in_model(path) else None)
        if record is None or record["file"] in seen:
            continue
        seen.add(record["file"])
        stage = record["stage"].partition("@")[0]
        if stage not in TRAINED_BY:
            continue
        if stage == "evaluate":
            result.evaluate = _section(record["params"])
            result.facts = {
                "commit": record["git"]["commit"],
                "dirty": record["git"]["dirty"],
                "device": record["device"],
                **{f"version of {k}": v for k, v in record["versions"].items()},
            }
        code.update(record["code"])
        for item in record["inputs"]:
            if _is_binding(item["path"]) and own:  # that of a twin has another name in it
                bound = item["md5"]
            waiting.append((item["path"], item["md5"]))
    if result.facts:  # the record of these very metrics is here
        result.code["sha256"] = code
    return bound


def _from_lock(result: Origin, run: Run, path: str, md5: str) -> str | None:
    """The same from the dvc.lock of the run's state, if that is the run's."""
    if run.snapshot is None:
        return None
    try:
        stages = run.snapshot.stages
    except ImportError:
        return None
    instance = f"{run.experiment}-{run.seed}"
    evaluated = stages.get(f"evaluate@{instance}", {})
    outputs = evaluated.get("outs", [])
    if not any(out["path"] == path and out.get("md5") == md5 for out in outputs):
        return None
    result.evaluate = _section(evaluated.get("params", {}).get("params.yaml", {}))
    code: dict[str, str] = {}
    bound, lost = None, False
    for stage in TRAINED_BY:
        for item in stages.get(f"{stage}@{instance}", {}).get("deps", []):
            if is_code_list(item["path"]):
                listed = run.snapshot.read(item["path"]) or b""
                lost = lost or hashlib.md5(listed).hexdigest() != item.get("md5")
                code |= parse_code_list(listed) or {}
            elif is_code(item["path"]):
                code[item["path"]] = str(item.get("md5"))
            elif _is_binding(item["path"]):
                bound = str(item.get("md5"))
    if not lost:
        result.code["md5"] = code
    return bound


def _in_model(path: str) -> str:
    """The path of a model's file without experiment and seed; empty for other files."""
    parts = path.split("/")
    return "/".join(parts[3:]) if parts[0] == "models" else ""


def _is_binding(path: str) -> bool:
    """Whether a file names the data of an experiment (and not what only measures it)."""
    return path.startswith("data/bound/") and not path.endswith(".measure.json")


def _section(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section of ``experiments.E.evaluate``."""
    sections = [value for key, value in params.items() if key.endswith(".evaluate")]
    return dict(sections[0]) if sections and isinstance(sections[0], Mapping) else None


def _read_data(result: Origin, run: Run, md5: str) -> None:
    """The files that the binding names, if the binding is still at hand; else its own hash.

    Those of plugins are code.
    """
    path = f"data/bound/{run.experiment}.json"
    content = run.snapshot.read(path) if run.snapshot is not None else None
    if content is None or hashlib.md5(content).hexdigest() != md5:
        result.data = {path: md5}
        return
    bound = json.loads(content)
    result.data = {f"{bound['path']}/{name}": sha for name, sha in bound["files"].items()}
    for code in result.code.values():
        code.update(bound.get("plugins", {}).get("files", {}))


def changed_code(first: Origin, second: Origin) -> dict[str, tuple[str | None, str | None]] | None:
    """Files whose hash differs; ``None`` where the code of a side is not known."""
    for digest in ("sha256", "md5"):
        if digest in first.code and digest in second.code:
            return _changed(first.code[digest], second.code[digest])
    return None


def changed_data(first: Origin, second: Origin) -> dict[str, tuple[str | None, str | None]] | None:
    """Likewise for the packed data."""
    if not first.data or not second.data:
        return None
    whole = [any(key.startswith("data/bound/") for key in item.data) for item in (first, second)]
    if whole[0] != whole[1]:
        return None  # the files of one, only the hash of their list of the other
    return _changed(first.data, second.data)


def _changed(
    first: Mapping[str, str], second: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    keys = sorted(first.keys() | second.keys())
    both = {key: (first.get(key), second.get(key)) for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}
