"""The DAG as DVC sees it: stages, what each needs, and which are out of date.

Nothing of dvc.yaml is restated here. ``pipelines/describe.py`` asks DVC, in another process, and
this module reads its answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError
from pipelines import git
from pipelines.lineage.records import dvc_md5
from pipelines.lockfile import read_outs

__all__ = [
    "Dag",
    "Stage",
    "ask_dvc",
    "environment",
    "fingerprints",
    "read_dag",
    "work_key",
]

PARAMS = "params.yaml"  # as a whole a dependency of the stage `code` alone
HELPER = Path(__file__).with_name("describe.py")


@dataclass(frozen=True)
class Stage:
    """One stage of the DAG with its templates filled in.

    Attributes:
        name: as DVC addresses it, ``prior@ptb-ldebm-0``.
        cmd: its command.
        deps: files and folders it reads, code included.
        params: its parameters, by dotted key.
        outs: files and folders it writes.
        parents: names of the stages whose outputs it reads.
        metrics: those of ``outs`` that hold metrics.
        changes: why DVC calls it out of date; empty: it is not, as far as its own inputs go.
        beside: stages whose training it does with its own, so that they find it done.
    """

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: Mapping[str, Any]
    outs: tuple[str, ...]
    parents: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def limit(self, seconds: float | None) -> float | None:
        """What it may take where a stage may take ``seconds``: as many times as it trains."""
        return None if seconds is None else seconds * (1 + len(self.beside))

    @property
    def only_checks(self) -> bool:
        """Whether it runs to check the parameters, which none of its outputs depend on."""
        return PARAMS in self.deps and set(self.changes) == {f"{PARAMS}: modified"}


@dataclass(frozen=True)
class Dag:
    """Stages in the order in which ``dvc repro`` runs them.

    Attributes:
        stages: by name.
    """

    stages: Mapping[str, Stage]

    def stale(self) -> list[str]:
        """Stages that are out of date, or may become so because of one above them."""
        stale: set[str] = set()
        checks: set[str] = set()
        for name, stage in self.stages.items():
            reached = (stale - checks).intersection(stage.parents)
            if stage.changes or reached:
                stale.add(name)
            if stage.only_checks and not reached:
                checks.add(name)
        return [name for name in self.stages if name in stale]

    def below(self, name: str) -> set[str]:
        """All stages that need ``name``, directly or not."""
        reached = {name}
        for other, stage in self.stages.items():  # parents come first in this order
            if reached.intersection(stage.parents):
                reached.add(other)
        return reached - {name}

    def part(self, names: Collection[str]) -> Dag:
        """The stages ``names`` and all that they need."""
        wanted: set[str] = set()
        queue = [name for name in names if name in self.stages]
        while queue:
            name = queue.pop()
            if name not in wanted:
                wanted.add(name)
                queue += [parent for parent in self.stages[name].parents if parent in self.stages]
        return Dag({name: self.stages[name] for name in self.stages if name in wanted})

    def depth(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """For every stage the time from its start to the end of the longest chain below it."""
        rest = dict.fromkeys(self.stages, 0.0)
        for name in reversed(list(self.stages)):
            rest[name] += seconds.get(name, 1.0)
            for parent in self.stages[name].parents:
                if parent in rest:
                    rest[parent] = max(rest[parent], rest[name])
        return rest


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: this interpreter's ``python`` first, no telemetry.

    Nothing in it names a git repository.
    """
    result = git.environment()
    result["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{result.get('PATH', '')}"
    for name in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS"):
        result.setdefault(name, "1")
    if "LDEBM_TRACK" in result:  # not into the copy of the project in which a build works
        result.setdefault("LDEBM_TRACK_DIR", str(Path(".track").resolve()))
    result.update(extra or {})
    return result


def ask_dvc(root: Path, *words: str) -> dict[str, Any]:
    """Runs the helper in ``root`` and returns its answer.

    Raises:
        UsageError: DVC refuses (its words), or there is no DVC project.
    """
    done = subprocess.run(
        [sys.executable, "-P", str(HELPER), *words],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UsageError(f"{root}: dvc cannot read this project: {lines[-1]}")
    answer = done.stdout.strip().splitlines()[-1]
    return dict(json.loads(answer))


def read_dag(root: Path, targets: Sequence[str] = ()) -> Dag:
    """Reads the part of the DAG that ``targets`` (stages or outputs; none: all) need.

    Raises:
        UsageError: ``root`` is no DVC project, dvc.yaml or params.yaml is wrong, or a target is
            unknown.
    """
    if not (root / "dvc.yaml").is_file():
        raise UsageError(f"{root.resolve()}: no dvc.yaml here; run from the project's folder")
    answer = ask_dvc(root, *targets)
    stages = {}
    for item in answer["stages"]:
        changes = tuple(sorted(_reasons(item.pop("changes"))))
        lists = {key: tuple(item[key]) for key in ("deps", "outs", "parents", "metrics")}
        stages[item["name"]] = Stage(**{**item, **lists}, changes=changes)
    return Dag(stages)


def _reasons(changes: Iterable[Any]) -> Iterable[str]:
    """DVC's list of changes as short lines: ``params.yaml: modified``."""
    for change in changes:
        if not isinstance(change, Mapping):
            yield str(change)
            continue
        for paths in change.values():
            if not isinstance(paths, Mapping):
                yield str(paths)
                continue
            for path, what in paths.items():
                if isinstance(what, Mapping):
                    yield from (f"{key}: {how}" for key, how in what.items())
                else:
                    yield f"{path}: {what}"


def fingerprints(dag: Dag, root: Path) -> dict[str, str]:
    """What identifies the result of every stage before anything has run.

    Two worktrees whose stages have the same fingerprint build the same: command, parameters, files
    and, all the way up, the stages that it needs.
    """
    made = {out for stage in dag.stages.values() for out in stage.outs}
    hashes: dict[str, str] = {}
    results: dict[str, str] = {}  # what others see of a stage: without what it only checks
    for name, stage in dag.stages.items():
        files = {}
        for dep in stage.deps:
            within = any(out == dep or out.startswith(f"{dep}/") for out in made)
            if not within and (root / dep).exists():
                files[dep] = dvc_md5(root / dep)
        above = {parent: results.get(parent, "") for parent in stage.parents}
        checked = files.pop(PARAMS, None)
        facts = [name, stage.cmd, stage.params, files, above, stage.outs]
        results[name] = _hash(facts)
        hashes[name] = _hash([*facts, checked]) if checked else results[name]
    return hashes


def _hash(facts: list[Any]) -> str:
    return hashlib.md5(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def work_key(stage: Stage, root: Path, lock: Mapping[str, str]) -> str:
    """What identifies the work of a stage whose inputs are there.

    Two experiments that train the same first stage, on the same data, have one key: the second does
    not start beside the first, and then takes its checkpoint.

    Args:
        stage: its inputs are built.
        root: the worktree.
        lock: entries of its dvc.lock.
    """
    kind, _, subject = stage.name.partition("@")
    name = re.sub(r"-\d+$", "", subject) or "\0"
    made = {path: md5 for block in lock.values() for path, md5 in read_outs(block).items()}
    inputs: dict[str, Any] = {}
    for dep in stage.deps:
        within = {path: md5 for path, md5 in made.items() if path.startswith(f"{dep}/")}
        if name in dep and dep.endswith(".json") and (root / dep).is_file():
            inputs[dep] = (root / dep).read_text(encoding="utf-8")  # it names the experiment
        elif dep in made:
            inputs[dep] = made[dep]
        elif within or not (root / dep).exists():
            inputs[dep] = within
        else:
            inputs[dep] = dvc_md5(root / dep)
    facts = json.dumps([kind, stage.cmd, stage.params, inputs], sort_keys=True, default=str)
    return _hash([facts.replace(name, "*")])
