"""Runs a stage again in a scratch checkout, and compares what it writes with dvc.lock.

The scratch folder is a checkout of the commit whose code dvc.lock names, with the stage's
inputs copied out of DVC's cache and its parameters set to those of the lock. The stage trains from
the beginning (``LDEBM_NO_REUSE=1``, no checkpoints). The working tree is only read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ldebm.errors import LdebmError, UsageError
from ldebm.files import read_json, write_text
from ldebm.sources import CODE
from ldebm.yaml_text import format_yaml, parse_yaml
from pipelines.git import environment
from pipelines.lineage.differences import Difference, first_difference
from pipelines.lineage.objects import Objects
from pipelines.lineage.records import dvc_md5
from pipelines.lineage.revisions import git, hashes_at
from pipelines.lineage.scratch import Interrupted, stop_on_sigterm, worktree
from pipelines.lineage.trace import Step, locked_steps, trace
from pipelines.lineage.twins import bound_folders

__all__ = ["Audit", "Output", "audit_stage"]

_SEARCHED = 50  # commits of dvc.lock that are looked through for the code of a stage
_FORGET = (  # of the caller's environment: they would lead the stage out of the scratch folder
    "LDEBM_LINEAGE", "LDEBM_FLOW_RUN_ID", "PREFECT__FLOW_RUN_ID", "PREFECT_FLOW_RUN_ID",
    "DVC_ROOT", "DVC_STAGE",
)  # fmt: skip


@dataclass(frozen=True)
class Output:
    """What became of one output: hashes, and the first difference if there is one.

    ``difference`` is None for a different output too where the old one is no longer here.
    """

    path: str
    expected: str
    actual: str | None
    difference: Difference | None = None

    @property
    def same(self) -> bool:
        """Whether every byte is."""
        return self.expected == self.actual

    def line(self) -> str:
        """As text."""
        if self.same:
            return f"same     {self.path}"
        if self.actual is None:
            return f"missing  {self.path}: the stage did not write it"
        where = self.difference or (
            f"md5 {self.actual}, dvc.lock has {self.expected}, whose content is not in the cache"
        )
        return f"differs  {self.path}: {where}"


@dataclass
class Audit:
    """The result of running a stage again."""

    stage: str
    code: str
    seconds: float
    outputs: list[Output] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def different(self) -> list[Output]:
        """The outputs that are not what dvc.lock has."""
        return [output for output in self.outputs if not output.same]

    @property
    def same(self) -> bool:
        """Whether all outputs are."""
        return not self.different

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        outputs = [
            {
                "path": output.path,
                "same": output.same,
                "expected": output.expected,
                "actual": output.actual,
                "difference": output.difference and output.difference.to_json(),
            }
            for output in self.outputs
        ]
        return {
            "stage": self.stage,
            "same": self.same,
            "code": self.code,
            "seconds": round(self.seconds, 1),
            "notes": self.notes,
            "outputs": outputs,
        }

    def lines(self) -> Iterator[str]:
        """As text."""
        yield f"{self.stage}: ran again in {self.seconds:.1f} s with {self.code}"
        for note in self.notes:
            yield f"  note     {note}"
        for output in self.outputs:
            yield f"  {output.line()}"
        count = len(self.outputs)
        if self.same:
            yield f"{self.stage}: all {count} outputs have the same bytes"


def audit_stage(stage: str, root: Path = Path(), *, use_workspace: bool = False) -> Audit:
    """Executes a stage of dvc.lock again, apart from the working tree.

    Args:
        stage: its name in dvc.lock, ``prior@chatter-ldebm-0``.
        root: the project's folder.
        use_workspace: run the code of the working tree instead of the recorded one.

    Raises:
        UsageError: no such stage; the recorded code is in no commit; or an input is neither in the
            cache nor here.
        LdebmError: the stage failed when it was run again.
        Interrupted: by Ctrl-C or SIGTERM; the stage is stopped and the scratch worktree removed.
    """
    root = root.resolve()
    steps = {step.stage: step for step in locked_steps(root) or []}
    if stage not in steps:
        near = get_close_matches(stage, list(steps), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = "see `dvc stage list`" if steps else "nothing was built here yet (`make repro`)"
        raise UsageError(f"{stage!r}: no stage of dvc.lock{hint}; {where}")
    if git("rev-parse", "--git-dir", root=root) is None:
        raise UsageError(f"{root}: audit needs git and a repository, for its scratch worktree")
    step = steps[stage]
    step.record = trace(stage, root).steps[0].record
    commit = _commit(step, root, use_workspace)
    clock, scratch = time.perf_counter(), None
    try:
        with stop_on_sigterm(), worktree(root, commit) as scratch:
            return _again(step, steps, root, scratch, commit, use_workspace)
    except KeyboardInterrupt:
        spent = time.perf_counter() - clock
        left = scratch is not None and scratch.exists()
        place = f"{scratch} is left" if left else "its scratch worktree was removed"
        raise Interrupted(
            f"audit of {stage} stopped after {spent:.0f} s: nothing was compared, {place}"
        ) from None


def _again(
    step: Step, steps: Mapping[str, Step], root: Path, scratch: Path, commit: str, changed: bool
) -> Audit:
    """Prepares the scratch checkout, runs the stage there and compares.

    Args:
        step: the stage.
        steps: all stages of dvc.lock, by name.
        root: the project's folder.
        scratch: the checkout.
        commit: what was checked out.
        changed: run the code of the working tree instead.
    """
    objects = Objects(root)
    result = Audit(step.stage, f"commit {commit[:12]}", 0.0)
    if changed:
        _take_workspace(root, scratch)
        result.code = f"the working tree's code (on commit {commit[:12]})"
    else:
        wanted = [path for path in step.code if (scratch / path).is_dir()]
        other = [path for path in wanted if dvc_md5(scratch / path) != step.code[path]]
        result.notes += [f"{path} is not the folder that dvc.lock names" for path in other]
    result.notes += _set_params(step, scratch)
    result.notes += _put_inputs(step, steps, scratch, objects)
    shutil.copyfile(root / "dvc.lock", scratch / "dvc.lock")  # the report draws its graph
    clock = time.perf_counter()
    _run(step, root, scratch)
    result.seconds = time.perf_counter() - clock
    expected = scratch / ".expected"
    for number, (path, md5) in enumerate(step.outputs.items()):
        result.outputs.append(_compare(path, md5, scratch, expected / str(number), objects))
    return result


def _commit(step: Step, root: Path, use_workspace: bool) -> str:
    """The commit that has the code of dvc.lock.

    That of the record, the current one, or one that changed dvc.lock: where the stage ran with
    changes, these are often committed with it.
    """
    head = (git("rev-parse", "HEAD", root=root) or b"").decode().strip()
    if use_workspace and head:
        return head
    if step.code_list and not step.code:
        raise UsageError(
            f"{step.stage}: {', '.join(step.code_list)} of the time it was built is neither here "
            "nor in git, so its code is not known; --workspace runs the code of the working tree"
        )
    recorded = step.record["git"].get("commit") if step.record else None
    history = git("log", f"-{_SEARCHED}", "--format=%H", "--", "dvc.lock", root=root) or b""
    reasons = []
    for commit in dict.fromkeys(filter(None, [recorded, head, *history.decode().split()])):
        files = [path for path in step.code if not (root / path).is_dir()]
        there = hashes_at(commit, files, root, "md5")
        if there is None:
            reasons.append(f"commit {commit[:12]} is not in this repository")
            continue
        other = [path for path in files if there[path] != step.code[path]]
        if not other:
            return str(commit)
        reasons.append(f"commit {commit[:12]} has another {', '.join(other[:3])}")
    raise UsageError(
        f"{step.stage}: its code is in no known commit ({'; '.join(reasons[:2]) or 'none'}); "
        "--workspace runs the code of the working tree"
    )


def _take_workspace(root: Path, scratch: Path) -> None:
    """Puts the working tree's code in place of the commit's."""
    wanted = (*CODE, "dvc.yaml", "params.yaml", ".dvcignore")
    listing = git("ls-files", "-z", "-co", "--exclude-standard", "--", *wanted, root=root) or b""
    for name in CODE:
        shutil.rmtree(scratch / name, ignore_errors=True)
    for name in filter(None, listing.decode().split("\0")):
        if (root / name).is_file():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, scratch / name)


def _set_params(step: Step, scratch: Path) -> list[str]:
    """Gives params.yaml the values that dvc.lock has for the stage."""
    path = scratch / "params.yaml"
    params = parse_yaml(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = []
    for key, value in step.params.items():
        *parents, last = key.split(".")
        place = params
        for part in parents:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        if place.get(last) != value:
            place[last] = value
            changed.append(key)
    if not changed:
        return []
    write_text(path, format_yaml(params))
    return [f"parameters from dvc.lock, not from its params.yaml: {', '.join(changed)}"]


def _put_inputs(
    step: Step, steps: Mapping[str, Step], scratch: Path, objects: Objects
) -> list[str]:
    """Copies what the stage reads, as dvc.lock has it, into the scratch folder.

    Returns:
        Notes on folders of many stages' outputs that have changed since the stage read them.
    """
    outputs = {path: (md5, s.stage) for s in steps.values() for path, md5 in s.outputs.items()}
    wanted: dict[str, tuple[str, str]] = {}
    for path, md5 in step.inputs.items():
        inside = {out: entry for out, entry in outputs.items() if out.startswith(path + "/")}
        wanted.update({path: (md5, outputs[path][1])} if path in outputs else inside)
        if path not in outputs and inside:
            shutil.rmtree(scratch / path, ignore_errors=True)  # metrics of other runs, from git
        elif path not in outputs:
            wanted[path] = (md5, "")
    for path in list(wanted):
        if path.startswith("data/bound/"):  # the stage reads the data set that the file names
            objects.put(path, wanted[path][0], scratch / path, wanted[path][1])
            for data in bound_folders(read_json(scratch / path)):
                wanted[data["path"]] = outputs.get(data["path"], ("", "pack"))
    for path, (md5, stage) in wanted.items():
        if path not in step.outputs:
            objects.put(path, md5, scratch / path, stage)
    return [
        f"{path} holds more or other outputs now than when {step.stage} read it"
        for path, md5 in step.inputs.items()
        if path not in wanted and dvc_md5(scratch / path) != md5
    ]


def _environment(root: Path, scratch: Path) -> dict[str, str]:
    kept = {name: value for name, value in environment().items() if name not in _FORGET}
    programs = str(Path(sys.executable).parent)
    paths = [str(scratch), *filter(None, [os.environ.get("PYTHONPATH")])]
    if kept.get("LDEBM_DATA_MIRROR"):  # may be relative to the project
        kept["LDEBM_DATA_MIRROR"] = str((root / kept["LDEBM_DATA_MIRROR"]).resolve())
    return {
        **kept,
        "LDEBM_NO_REUSE": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _run(step: Step, root: Path, scratch: Path) -> None:
    """Runs the command of dvc.lock in a session of its own, which ends with this process."""
    for path in step.outputs:  # metrics.json comes with the commit
        target = scratch / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    log = scratch / ".audit.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(
            step.command, shell=True, cwd=scratch, env=_environment(root, scratch), stdout=stream,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait()
        finally:
            _end(child)
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        print(*tail, sep="\n", file=sys.stderr)
        raise LdebmError(
            f"{step.stage}: `{step.command}` failed with exit code {code} when run again"
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the whole session of the child, if it is still there."""
    for kind, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
            return


def _compare(path: str, md5: str, scratch: Path, place: Path, objects: Objects) -> Output:
    target = scratch / path
    if not target.exists():
        return Output(path, md5, None)
    actual = dvc_md5(target)
    if actual == md5:
        return Output(path, md5, actual)
    try:
        objects.put(path, md5, place / Path(path).name, "")
    except UsageError:
        return Output(path, md5, actual)
    return Output(path, md5, actual, first_difference(place / Path(path).name, target))
