"""Walks from any file back to raw data and parameters.

dvc.lock, of the working tree or of any revision, says which stage wrote a file from which inputs;
the records of :mod:`~pipelines.lineage.records` add code, commit, device and times. Where there is
no dvc.lock (a GPU queue runs without DVC) the records alone are the way.
:mod:`pipelines.lineage.verify`
checks it.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ldebm.config import OOD_TRANSFORMS
from ldebm.errors import UsageError
from ldebm.files import read_json
from ldebm.yaml_text import parse_yaml
from pipelines.lineage.code_lists import is_code, is_code_list, listed_code
from pipelines.lineage.objects import Objects
from pipelines.lineage.records import records
from pipelines.lineage.revisions import file_at
from pipelines.lineage.twins import adopted, different

__all__ = [
    "Step",
    "Trace",
    "bound_sources",
    "find_record",
    "locked_steps",
    "record_step",
    "restored_by_chance",
    "sources",
    "trace",
]


@dataclass
class Step:
    """One stage on the way: what dvc.lock and, where there is one, its record say."""

    stage: str
    command: str
    inputs: dict[str, str]  # path -> md5
    outputs: dict[str, str]  # path -> md5
    code: dict[str, str]  # path -> md5; empty where `code_list` is of a version that is lost
    params: dict[str, Any]  # dotted key -> value
    record: dict[str, Any] | None = None
    twin: str = ""  # the stage whose record this is, in the names of this one, where it is another
    code_list: dict[str, str] = field(default_factory=dict)  # path of the list of code -> md5
    locked: bool = True  # False: known from its record alone
    after: list[str] = field(default_factory=list)  # the stages whose outputs it read

    @property
    def name(self) -> str:
        """The stage without its data set, experiment and seed."""
        return self.stage.split("@")[0]

    @property
    def anchor(self) -> str:
        """Its place on a page."""
        return "stage-" + re.sub(r"[^A-Za-z0-9_.-]", "-", self.stage)


@dataclass
class Trace:
    """The way back from ``target``: stages from the last to the first."""

    target: str
    steps: list[Step] = field(default_factory=list)
    revision: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        steps = [vars(step) for step in self.steps]
        return {"target": self.target, "revision": self.revision, "steps": steps}

    def forwards(self) -> list[Step]:
        """The steps from raw data to the target, each after the stages whose outputs it reads."""
        known = {step.stage: step for step in self.steps}
        done: dict[str, Step] = {}

        def visit(step: Step) -> None:
            for name in sorted(step.after):
                if name in known and name not in done and name != step.stage:
                    visit(known[name])
            done.setdefault(step.stage, step)

        for step in reversed(self.steps):
            visit(step)
        return list(done.values())

    def lines(self) -> Iterator[str]:
        """The trace as text, one line a fact."""
        yield self.target if self.revision is None else f"{self.target} at {self.revision}"
        for step in self.steps:
            yield f"  {step.stage}: {step.command}"
            for path, md5 in step.inputs.items():
                yield f"    read    {path}  md5:{md5[:12]}"
            for path, md5 in step.outputs.items():
                yield f"    wrote   {path}  md5:{md5[:12]}"
            for key, value in step.params.items():
                yield f"    params  {key} = {value}"
            yield f"    code    {f'{len(step.code)} files' if step.code else 'unknown'}"
            yield f"    run     {_run_line(step.record, step.twin)}"


def _run_line(record: Mapping[str, Any] | None, twin: str = "") -> str:
    if record is None:
        return "no record on this machine"
    commit = str(record["git"].get("commit") or "no commit")[:12]
    dirty = " with changes" if record["git"].get("dirty") else ""
    verdict = record.get("validation")
    checked = "" if verdict is None else f", data {'valid' if verdict['success'] else 'NOT valid'}"
    seed = "" if record.get("seed") is None else f", seed {record['seed']}"
    flow = "" if not record.get("flow_run") else f", flow run {record['flow_run']}"
    reused = ""
    if record.get("reused"):
        trainer = record.get("trained_by") or "an earlier run"
        reused = f", reused what {trainer} trained in {record['trained_seconds']:.1f} s"
    if record.get("trained_with"):
        share = record.get("trained_seconds", record["seconds"])
        reused = (
            f", trained at once with {len(record['trained_with']) - 1} more, {share:.1f} s each"
        )
    restored = f"restored by DVC from its cache; produced by {twin} on " if twin else ""
    return (
        f"{restored}{record['started']}, {record['seconds']:.1f} s{reused}, "
        f"{record.get('device')}{seed}, "
        f"commit {commit}{dirty}{flow}{checked} ({record['file']})"
    )


def trace(target: str, root: Path = Path(), revision: str | None = None) -> Trace:
    """The stages that made ``target``, from the last to the first.

    Args:
        target: a path that a stage wrote (or lies below), a stage, a file of ``results/`` or of
            ``lineage/``, or an experiment.
        root: the project's folder, or that of a GPU queue.
        revision: a git revision or the name of a `dvc exp` whose dvc.lock is read.

    Raises:
        UsageError: no stage in dvc.lock wrote it, or there is no such revision.
    """
    known = records(root)
    files = (Path(target).as_posix(), _inside(Path(target), root).as_posix())
    record = next((item for item in known if item["file"] in files), None)
    if record is not None:
        return Trace(target, [record_step(record)])
    steps = locked_steps(root, revision)
    if steps is None:
        if not known or revision:
            where = (
                f"{revision}: no dvc.lock in it"
                if revision
                else f"{root / 'dvc.lock'}: no such file"
            )
            raise UsageError(f"{where}; nothing was built here yet (`make repro`)")
        steps = _newest(known)
    path, start = _path(target, steps, root)
    result = Trace(path, revision=revision)
    objects = Objects(root)
    waiting = start or [step for step in steps if any(_overlap(path, out) for out in step.outputs)]
    seen: set[str] = set()
    while waiting:
        step = waiting.pop(0)
        if step.stage in seen:
            continue
        seen.add(step.stage)
        if step.record is None:
            step.record, step.twin = find_record(step, known, objects)
        before = _producers(step, sources(step, root), steps)
        step.after = [item.stage for item in before]
        result.steps.append(step)
        waiting += before
    if not result.steps:
        names = [step.stage for step in steps]
        near = get_close_matches(target, [*names, *_experiments(steps)], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(
            f"{target}: not written by any stage in dvc.lock{hint}; give a path under data/, "
            "models/, reports/ or site/, a stage, or the name of an experiment that was built"
        )
    return result


def locked_steps(
    root: Path = Path(), revision: str | None = None, *, code: bool = True
) -> list[Step] | None:
    """The stages of dvc.lock, of the working tree or of a revision; None if there is no lock.

    ``code=False`` leaves the lists of code unread.

    Raises:
        UsageError: the lock is not YAML of DVC's form, or there is no such revision.
    """
    if revision is not None:
        content = file_at(revision, "dvc.lock", root)
    else:
        path = root / "dvc.lock"
        content = path.read_bytes() if path.is_file() else None
    if content is None:
        return None
    try:
        stages = parse_yaml(content)["stages"]
        lists = functools.cache(functools.partial(listed_code, root=root, revision=revision))
        if not code:
            lists = functools.cache(lambda path, md5: None)
        return [_locked_step(name, stage, lists) for name, stage in stages.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = " ".join(str(error).split())[:150]
        raise UsageError(
            f"{root / 'dvc.lock'}: cannot be read ({type(error).__name__}: {message}); "
            "get it back with `git checkout dvc.lock`, or build again (`make repro`)"
        ) from None


def _locked_step(
    name: str, stage: Mapping[str, Any], lists: Callable[[str, str], dict[str, str] | None]
) -> Step:
    inputs = {item["path"]: str(item.get("md5")) for item in stage.get("deps", [])}
    listed = {path: md5 for path, md5 in inputs.items() if is_code_list(path)}
    code = {path: md5 for path, md5 in inputs.items() if is_code(path) and path not in listed}
    for path, md5 in listed.items():
        code |= lists(path, md5) or {}
    return Step(
        stage=name,
        command=str(stage["cmd"]),
        inputs={path: md5 for path, md5 in inputs.items() if not is_code(path)},
        outputs={item["path"]: str(item.get("md5")) for item in stage.get("outs", [])},
        code=code,
        code_list=listed,
        params={k: v for group in stage.get("params", {}).values() for k, v in group.items()},
    )


def record_step(record: dict[str, Any]) -> Step:
    """The step that a record alone describes."""
    return Step(
        stage=record["stage"],
        command=str(record.get("command") or ""),
        inputs={item["path"]: item["md5"] for item in record["inputs"]},
        outputs={item["path"]: item["md5"] for item in record["outputs"]},
        code=dict(record.get("code_md5") or record["code"]),
        params=dict(record["params"]),
        record=record,
        locked=False,
    )


def _newest(known: Sequence[dict[str, Any]]) -> list[Step]:
    """The last execution of every stage, in the order in which they ran."""
    last: dict[str, Step] = {}
    for record in known:
        last.setdefault(record["stage"], record_step(record))
    return list(reversed(last.values()))


def _experiments(steps: Sequence[Step]) -> list[str]:
    paths = [out.split("/") for step in steps for out in step.outputs]
    return sorted({parts[1] for parts in paths if parts[0] == "models" and len(parts) > 1})


def _path(target: str, steps: Sequence[Step], root: Path) -> tuple[str, list[Step]]:
    """The path that the user means, relative to the project, or the stage itself."""
    stage = [step for step in steps if step.stage == target]
    if stage:
        return target, stage
    models = [out for step in steps for out in step.outputs if out.startswith(f"models/{target}/")]
    complete = sorted(out for out in models if out.endswith("/prior/model.safetensors"))
    if complete:
        return complete[0], []
    full = _inside(Path(target), root)
    path = full.as_posix().rstrip("/")
    if path.startswith("results/") and full.suffix == ".json":
        return f"reports/{full.parent.name}/{full.stem}/metrics.json", []
    return path, []


def _inside(path: Path, root: Path) -> Path:
    """The path below ``root``, where it was given from outside."""
    for base in (root, root.resolve()):
        if path.is_relative_to(base):
            return path.relative_to(base)
    return path


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _producers(step: Step, paths: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """The stages that wrote what ``step`` read of ``paths``.

    dvc.lock keeps the stages of experiments that are no longer selected. Of a folder of many
    stages' outputs those count of which the record says that something lay there.
    """
    listed = {item["path"]: item.get("files") for item in (step.record or {}).get("inputs", [])}

    def read(path: str, out: str) -> bool:
        if not _overlap(path, out):
            return False
        files = listed.get(path)
        if files is None or not out.startswith(f"{path}/"):
            return True
        inside = out.removeprefix(f"{path}/")
        return any(name == inside or name.startswith(f"{inside}/") for name in files)

    return [
        other for other in steps if any(read(path, out) for path in paths for out in other.outputs)
    ]


def sources(step: Step, root: Path = Path()) -> list[str]:
    """The inputs to follow: `bind` depends on all data sets, but reads those that it names."""
    if step.name != "bind":
        return list(step.inputs)
    named = bound_sources(step.inputs, step.params)
    if named:
        return named
    paths = []
    for out in step.outputs:
        with contextlib.suppress(UsageError, KeyError, TypeError):  # damaged: `verify` names it
            paths.append(str(read_json(root / out)["path"]))
    return paths


def bound_sources(inputs: Mapping[str, str], params: Mapping[str, Any]) -> list[str]:
    """What a `bind` reads of the folders it depends on: the experiment's data, their classifier or
    the one that its evaluation names, and the data sets that are told apart."""
    data = [str(value) for key, value in params.items() if key.endswith(".data")]
    sections = [value or {} for key, value in params.items() if key.endswith(".evaluate")]
    scoring = [x for part in sections if (x := part.get("classifier") or part.get("judge"))] or data
    judges = [f"data/judge/{name}" for name in scoring if "data/judge" in inputs]
    others = [str(name) for section in sections for name in section.get("ood", [])]
    packed = [name for name in (*data, *others) if name not in OOD_TRANSFORMS]
    return [*judges, *(f"data/packed/{name}" for name in packed)]


def restored_by_chance(stage: str, root: Path = Path()) -> bool:
    """Whether outputs that DVC restored were written here, but by no execution of this stage.

    They are in the cache because another stage wrote the same bytes from other inputs. (What was
    pulled from a remote is no such case: nothing here wrote it.)
    """
    step = next((item for item in locked_steps(root) or [] if item.stage == stage), None)
    known = records(root)
    if step is None or find_record(step, known, Objects(root))[0] is not None:
        return False
    written = {item["md5"] for record in known for item in record["outputs"]}
    return bool(step.outputs) and written.issuperset(step.outputs.values())


def find_record(
    step: Step, known: Sequence[dict[str, Any]], objects: Objects
) -> tuple[dict[str, Any] | None, str]:
    """The record of the execution: it has the outputs of dvc.lock, and as much else as can be.

    Args:
        step: what dvc.lock says.
        known: all records, newest first.
        objects: where files are found by hash.

    Returns:
        The record of the stage itself or else of a twin, in the names of the stage; and the twin.
    """

    def wrote_the_same(record: Mapping[str, Any]) -> bool:
        return sorted(item["md5"] for item in record["outputs"]) == sorted(step.outputs.values())

    like = [record for record in known if record["stage"].split("@")[0] == step.name]
    mine = [
        record
        for record in like
        if record["stage"] == step.stage
        and {item["path"]: item["md5"] for item in record["outputs"]} == step.outputs
    ]

    def agreement(record: Mapping[str, Any]) -> int:
        read = {item["path"]: item["md5"] for item in record["inputs"]}
        code = record.get("code_md5", {}).items()
        same_code = all(step.code.get(path) == md5 for path, md5 in code)
        return sum([read == step.inputs, record["params"] == step.params, 2 * same_code])

    best = max(mine, key=agreement, default=None)  # the newest of equal ones: max keeps the first
    if best is not None and agreement(best) == 4:
        return best, ""
    for record in like:
        if record["stage"] != step.stage and wrote_the_same(record):
            written = adopted(record, step, objects)
            if not different(written, step):
                return written, str(record["stage"])
    return best, ""
