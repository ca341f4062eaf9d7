"""The project's files at some state: the working tree, or a git revision with DVC's cache.

A revision holds small files (metrics, results, parameters, dvc.lock) itself. What DVC keeps
(curves, samples) is found in the cache by the hash that dvc.lock has for it; where the cache lacks
it, it is simply not there, as with a working tree where it was not built.
"""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

from ldebm.yaml_text import parse_yaml
from pipelines.lineage.objects import Objects
from pipelines.lineage.revisions import git

__all__ = ["Revision", "Snapshot", "WorkingTree"]


class Snapshot(Protocol):
    """Files of the project by their path relative to its folder."""

    name: str

    def read(self, path: str) -> bytes | None:
        """The content of a file; ``None`` where it is not there."""
        ...

    def paths(self, folder: str) -> list[str]:
        """The files below ``folder`` that the state itself holds, sorted."""
        ...

    @property
    def stages(self) -> dict[str, Any]:
        """The stages of dvc.lock, which is read once; none where there is no such file.

        Raises:
            ImportError: the reader of YAML is absent.
        """
        ...


class WorkingTree:
    """The files as they are now.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path = Path()) -> None:
        self.root, self.name = root, "workspace"

    def read(self, path: str) -> bytes | None:
        full = self.root / path
        return full.read_bytes() if full.is_file() else None

    def paths(self, folder: str) -> list[str]:
        files = (item for item in (self.root / folder).rglob("*") if item.is_file())
        return sorted(item.relative_to(self.root).as_posix() for item in files)

    @cached_property
    def stages(self) -> dict[str, Any]:
        return _stages(self.read("dvc.lock"))


class Revision:
    """The files of a commit, and what DVC's cache still has of its outputs.

    Args:
        root: the project's folder, in a git work tree.
        commit: a full hash.
        name: what the user called it.
    """

    def __init__(self, root: Path, commit: str, name: str) -> None:
        self.root, self.commit, self.name = root, commit, name
        self.objects = Objects(root)

    def read(self, path: str) -> bytes | None:
        if path in self._tree:
            return _blob(self.root, self._tree[path])
        return self._cached(path)

    def paths(self, folder: str) -> list[str]:
        prefix = folder.rstrip("/") + "/"
        return sorted(path for path in self._tree if path.startswith(prefix))

    @cached_property
    def _tree(self) -> dict[str, str]:
        """Files of the commit: path -> git's hash of the content."""
        listed = git("ls-tree", "-r", "-z", self.commit, root=self.root) or b""
        lines = [
            line.split("\t", 1) for line in listed.decode(errors="replace").split("\0") if line
        ]
        return {path: facts.split(" ")[2] for facts, path in lines}

    @cached_property
    def stages(self) -> dict[str, Any]:
        return _stages(self.read("dvc.lock") if "dvc.lock" in self._tree else None)

    @cached_property
    def _locked(self) -> dict[str, str]:
        """Outputs of dvc.lock: path -> md5."""
        outputs = (out for stage in self.stages.values() for out in stage.get("outs", []))
        return {str(out["path"]): str(out["md5"]) for out in outputs if "md5" in out}

    def _cached(self, path: str) -> bytes | None:
        if path in self._locked:
            return self.objects.cached(self._locked[path])
        for parent in Path(path).parents:
            folder = self._locked.get(parent.as_posix())
            listing = self.objects.cached(folder) if folder else None
            if listing is not None:
                inside = Path(path).relative_to(parent).as_posix()
                entries: list[dict[str, Any]] = json.loads(listing)
                hashes = [item["md5"] for item in entries if item["relpath"] == inside]
                return self.objects.cached(hashes[0]) if hashes else None
        return None


@lru_cache(maxsize=1024)
def _blob(root: Path, sha: str) -> bytes | None:
    """Content by its hash: revisions share most of their files."""
    return git("cat-file", "blob", sha, root=root)


@lru_cache(maxsize=4)
def _stages(lock: bytes | None) -> dict[str, Any]:
    stages: dict[str, Any] = {} if lock is None else parse_yaml(lock).get("stages", {})
    return stages
