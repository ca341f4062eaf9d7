"""Walks from any file back to raw data and parameters, and checks the way.

dvc.lock says which stage wrote a file from which inputs; the records of :mod:`ldebm.lineage` add
code, commit, device and times; the files in ``data/bound`` say which data set an experiment read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError
from ldebm.files import hash_path, read_json
from ldebm.lineage import dvc_md5, records

__all__ = ["Step", "Trace", "trace", "verify"]


@dataclass
class Step:
    """One stage on the way: what dvc.lock and, where there is one, its record say."""

    stage: str
    command: str
    inputs: dict[str, str]  # path -> md5
    outputs: dict[str, str]  # path -> md5
    code: dict[str, str]  # path -> md5
    params: dict[str, Any]  # dotted key -> value
    record: dict[str, Any] | None = None


@dataclass
class Trace:
    """The way back from ``target``: stages from the last to the first."""

    target: str
    steps: list[Step] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"target": self.target, "steps": [vars(step) for step in self.steps]}

    def lines(self) -> Iterator[str]:
        """The trace as text, one line a fact."""
        yield self.target
        for step in self.steps:
            yield f"  {step.stage}: {step.command}"
            for path, md5 in step.inputs.items():
                yield f"    read    {path}  md5:{md5[:12]}"
            for path, md5 in step.outputs.items():
                yield f"    wrote   {path}  md5:{md5[:12]}"
            for key, value in step.params.items():
                yield f"    params  {key} = {value}"
            yield f"    code    {len(step.code)} files"
            yield f"    run     {_run_line(step.record)}"


def _run_line(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "no record on this machine"
    commit = str(record["git"]["commit"] or "no commit")[:12]
    dirty = " with changes" if record["git"]["dirty"] else ""
    verdict = record["validation"]
    checked = "" if verdict is None else f", data {'valid' if verdict['success'] else 'NOT valid'}"
    seed = "" if record["seed"] is None else f", seed {record['seed']}"
    return (
        f"{record['started']}, {record['seconds']:.1f} s, {record['device']}{seed}, "
        f"commit {commit}{dirty}{checked} ({record['file']})"
    )


def trace(target: str, root: Path = Path()) -> Trace:
    """The stages that made ``target``, from the last to the first.

    Args:
        target: a path that a stage wrote (or lies below), a file of ``results/``, or an experiment.
        root: the project's folder.

    Raises:
        UsageError: no stage in dvc.lock wrote it.
    """
    steps = _locked(root)
    path = _path(target, steps, root)
    known = records(root)
    result = Trace(path)
    waiting = [path]
    seen: set[str] = set()
    while waiting:
        current = waiting.pop(0)
        for step in steps:
            if step.stage in seen or not any(_overlap(current, out) for out in step.outputs):
                continue
            seen.add(step.stage)
            step.record = _record(step, known)
            result.steps.append(step)
            waiting += _sources(step, root)
    if not result.steps:
        raise UsageError(
            f"{target}: not written by any stage in dvc.lock; give a path under data/, models/, "
            "reports/ or site/, or the name of an experiment that was built"
        )
    return result


def _locked(root: Path) -> list[Step]:
    import yaml  # absent on a machine that has only the core

    path = root / "dvc.lock"
    if not path.is_file():
        raise UsageError(f"{path}: no such file; nothing was built here yet (`make repro`)")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = []
    for name, stage in content["stages"].items():
        inputs = {item["path"]: str(item.get("md5")) for item in stage.get("deps", [])}
        params = {k: v for group in stage.get("params", {}).values() for k, v in group.items()}
        steps.append(
            Step(
                stage=name,
                command=str(stage["cmd"]),
                inputs={p: md5 for p, md5 in inputs.items() if not _is_code(p)},
                outputs={item["path"]: str(item.get("md5")) for item in stage.get("outs", [])},
                code={p: md5 for p, md5 in inputs.items() if _is_code(p)},
                params=params,
            )
        )
    return steps


def _is_code(path: str) -> bool:
    return path.split("/")[0] in {"ldebm", "stages"}


def _path(target: str, steps: list[Step], root: Path) -> str:
    """The path that the user means, relative to the project."""
    models = [out for step in steps for out in step.outputs if out.startswith(f"models/{target}/")]
    complete = sorted(out for out in models if out.endswith("/prior/model.safetensors"))
    if complete:
        return complete[0]
    full = Path(target)
    if full.is_absolute() and full.is_relative_to(root.resolve()):
        full = full.relative_to(root.resolve())
    path = full.as_posix().rstrip("/")
    if path.startswith("results/") and full.suffix == ".json":
        return f"reports/{full.parent.name}/{full.stem}/metrics.json"
    return path


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _sources(step: Step, root: Path) -> list[str]:
    """The inputs to follow: `bind` depends on all data sets, but reads the one that it names."""
    if step.stage.startswith("bind@"):
        bound = [root / out for out in step.outputs if (root / out).is_file()]
        return [str(read_json(path)["path"]) for path in bound]
    return list(step.inputs)


def _record(step: Step, known: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest record of the stage that has the outputs of dvc.lock."""
    for record in known:
        written = {item["path"]: item["md5"] for item in record["outputs"]}
        if record["stage"] == step.stage and written == step.outputs:
            return record
    return None


def verify(result: Trace, root: Path = Path()) -> list[str]:
    """Hashes everything on the way again.

    Returns:
        One line for each file, parameter or piece of code that is not what the lock and the records
        say; empty if all is as it was.
    """
    problems: dict[str, None] = {}
    hashed: dict[str, str | None] = {}

    def current(path: str) -> str | None:
        if path not in hashed:
            hashed[path] = dvc_md5(root / path) if (root / path).exists() else None
        return hashed[path]

    params = _params(root)
    for step in result.steps:
        joined = step.stage.startswith("bind@") or step.stage == "report"
        files = {**({} if joined else step.inputs), **step.outputs, **step.code}
        for path, md5 in files.items():
            found = current(path)
            if found is None:
                problems[f"{path}: missing ({step.stage})"] = None
            elif found != md5:
                problems[f"{path}: differs, md5 {found}, dvc.lock has {md5} ({step.stage})"] = None
        for key, value in step.params.items():
            now = _lookup(params, key)
            if now != value and not key.startswith("run"):
                problems[f"params.yaml: {key} is {now}, {step.stage} was built with {value}"] = None
        problems.update(dict.fromkeys(_record_problems(step, root)))
        if step.stage.startswith("bind@"):
            problems.update(dict.fromkeys(_bound_problems(step, root)))
    return list(problems)


def _record_problems(step: Step, root: Path) -> Iterator[str]:
    if step.record is None:
        return
    for item in step.record["outputs"]:
        path = root / item["path"]
        if path.exists() and hash_path(path) != item["sha256"]:
            yield f"{item['path']}: sha256 differs from {step.record['file']}"
    if not all(item in step.code for item in step.record["code"]):
        extra = sorted(set(step.record["code"]) - set(step.code))
        yield f"{step.record['file']}: ran code that dvc.lock does not list: {', '.join(extra)}"


def _bound_problems(step: Step, root: Path) -> Iterator[str]:
    for out in step.outputs:
        if not (root / out).is_file():
            continue
        bound = read_json(root / out)
        for name, sha256 in bound["files"].items():
            path = root / bound["path"] / name
            if not path.is_file():
                yield f"{bound['path']}/{name}: missing, {out} names it"
            elif hash_path(path) != sha256:
                yield f"{bound['path']}/{name}: sha256 differs from {out}"


def _params(root: Path) -> Any:
    import yaml

    path = root / "params.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lookup(params: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(params, Mapping) or part not in params:
            return None
        params = params[part]
    return params
