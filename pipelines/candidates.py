"""What is compared: the evaluated runs of one experiment, in a folder or at a git revision.

What is in git at a revision is read with ``git show``; what DVC keeps (metrics, data bindings,
validation reports) is found by the hash that dvc.lock of that revision has.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ldebm.errors import UsageError
from ldebm.yaml_text import parse_yaml
from pipelines.dag import environment
from pipelines.git import git
from pipelines.lineage import snapshots
from pipelines.results.glossary import present_names
from pipelines.results.recorded import flatten

__all__ = ["Candidate", "Folder", "Revision", "Tree", "load_candidate", "lock", "stand_in"]


class Tree(Protocol):
    """Files of the project at one place."""

    @property
    def words(self) -> str:
        """The place, for people."""
        ...

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where it is not there."""
        ...


def stand_in(root: Path) -> tuple[str, str] | None:
    """Name and address to commit and tag with where git knows nobody, as on a server."""
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
    except UsageError:
        return "ldebm retraining", "ldebm@localhost"
    return None


@dataclass(frozen=True)
class Folder:
    """A working tree."""

    root: Path
    words: str = "the working tree"

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where it is not there."""
        full = self.root / path
        return full.read_bytes() if full.is_file() else None


@dataclass(frozen=True)
class Revision:
    """A git revision of the project at ``root``, with what DVC keeps for it."""

    root: Path
    name: str
    _known: dict[str, bytes | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def words(self) -> str:
        """The revision's name and commit."""
        commit = self.commit[:10]
        return commit if self.name.startswith(commit) else f"{self.name} ({commit})"

    @property
    def commit(self) -> str:
        """The full hash of its commit.

        Raises:
            UsageError: there is no such revision.
        """
        try:
            return git(self.root, "rev-parse", "--verify", "--quiet", f"{self.name}^{{commit}}")
        except UsageError:
            raise UsageError(
                f"revision {self.name!r}: not in this repository; expected a commit, branch or tag"
            ) from None

    def read(self, path: str) -> bytes | None:
        """The content of a file in git or in DVC's cache or remote; None where it is in neither.

        Raises:
            UsageError: dvc.lock of the revision has the file, but its content is nowhere.
        """
        if path not in self._known:
            self._known[path] = self._tracked(path)
        return self._known[path]

    def _tracked(self, path: str) -> bytes | None:
        here = snapshots.Revision(self.root, self.commit, self.name).read(path)
        if here is not None:
            return here
        if path == "dvc.lock" or path not in _outputs(self):
            return None
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "file"
            got = subprocess.run(
                ["dvc", "get", ".", path, "--rev", self.commit, "-q", "-o", str(target)],
                cwd=self.root, env=environment(), capture_output=True, text=True, check=False,
            )  # fmt: skip
            if got.returncode:
                raise UsageError(
                    f"{path} of {self.words} is neither in the DVC cache nor in a remote; "
                    "bring it with `dvc fetch --all-commits`, or build that revision again"
                )
            return target.read_bytes()


def _outputs(tree: Tree) -> set[str]:
    return {out["path"] for stage in lock(tree).values() for out in stage.get("outs", [])}


def lock(tree: Tree) -> dict[str, Any]:
    """The stages of dvc.lock; empty where there is none."""
    text = tree.read("dvc.lock")
    content = parse_yaml(text) if text else None
    return dict((content or {}).get("stages") or {})


@dataclass(frozen=True)
class Candidate:
    """One experiment as it was built and evaluated.

    Attributes:
        experiment: its name.
        where: the place, for people.
        data: name of its data set.
        metrics: by seed, as the reports have them; a seed that was not evaluated is absent.
        files: sha256 of the packed data files, by name; empty where they were not bound.
        models: DVC's md5 of the model of each seed.
        evaluate: the evaluation's parameters.
        validation: the report on the data; None where there is none.
    """

    experiment: str
    where: str
    data: str
    metrics: Mapping[int, Mapping[str, Any]]
    files: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[int, str] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] | None = None

    def values(self, metric: str) -> dict[int, float | None]:
        """The metric by seed; None where a run has none or it is not a finite number."""
        values = {seed: run.get(metric) for seed, run in self.metrics.items()}
        return {seed: value if _finite(value) else None for seed, value in values.items()}


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < float("inf")


def load_candidate(tree: Tree, experiment: str, seeds: Sequence[int]) -> Candidate:
    """Reads the runs of an experiment.

    Args:
        tree: where.
        experiment: its name in params.yaml of that place.
        seeds: which runs; those that were not evaluated are left out.

    Raises:
        UsageError: the place has no such experiment, or a file of it cannot be read.
    """
    section = _experiment(tree, experiment)
    data = str(section["data"])
    metrics = {}
    for seed in seeds:
        report = _json(tree, f"reports/{experiment}/{seed}/metrics.json")
        if report is not None:
            metrics[seed] = flatten(present_names(report))
    stages = lock(tree)
    models = {}
    for seed in metrics:
        outs = stages.get(f"prior@{experiment}-{seed}", {}).get("outs", [])
        md5 = {out["path"]: out["md5"] for out in outs}
        model = md5.get(f"models/{experiment}/{seed}/prior/model.safetensors")
        if model is not None:
            models[seed] = str(model)
    bound = _json(tree, f"data/bound/{experiment}.json") or {}
    return Candidate(
        experiment=experiment,
        where=tree.words,
        data=data,
        metrics=metrics,
        files=bound.get("files", {}),
        models=models,
        evaluate=section.get("evaluate") or {},
        validation=_json(tree, f"reports/validation/{data}/report.json"),
    )


def _experiment(tree: Tree, name: str) -> dict[str, Any]:
    text = tree.read("params.yaml")
    content = parse_yaml(text) if text else None
    section = ((content or {}).get("experiments") or {}).get(name)
    if not isinstance(section, dict) or "data" not in section:
        raise UsageError(f"experiment {name!r} is not in params.yaml of {tree.words}")
    return section


def _json(tree: Tree, path: str) -> dict[str, Any] | None:
    content = tree.read(path)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UsageError(f"{path} of {tree.words}: not valid JSON ({error})") from None
    return value if isinstance(value, dict) else None
