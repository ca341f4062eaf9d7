"""Takes files out of DVC's cache by their hash, or from the working tree where that has them.

The cache holds a file of md5 ``ab12...`` as ``files/md5/ab/12...``, and for a folder a JSON list of
its files with their md5. Where it lies, DVC's configuration says.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError
from pipelines.lineage.records import dvc_md5

__all__ = ["Objects"]


class Objects:
    """What can be had by hash in a project.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def cache(self) -> Path:
        """The folder of the cache, as DVC's configuration says.

        Raises:
            UsageError: DVC is not installed, this is no DVC project, or its configuration is wrong.
        """
        try:
            from dvc.config import Config, ConfigError
        except ImportError:
            raise UsageError(
                "DVC is not installed here; install it (pip install 'ldebm[pipeline]') or use the "
                "environment that has it"
            ) from None
        root = self.root.resolve()
        folders = (folder / ".dvc" for folder in (root, *root.parents))
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise UsageError(f"{root}: no DVC project (`dvc init` makes one)")
        try:
            stated = Config(str(folder))["cache"].get("dir")
        except ConfigError as error:
            raise UsageError(f"{folder / 'config'}: {' '.join(str(error).split())}") from None
        return Path(stated) if stated else folder / "cache"

    def put(self, path: str, md5: str, target: Path, stage: str) -> None:
        """Copies the content of ``md5`` to ``target``.

        Args:
            path: where it lies in the working tree, for what is not in the cache (metrics are not).
            md5: hash in dvc.lock; of a folder with ``.dir`` behind it.
            target: what is there already is kept if it has the hash, and replaced otherwise.
            stage: the stage that writes it, for the message; empty for files of git.

        Raises:
            UsageError: the content is neither in the cache nor in the working tree.
        """
        if target.exists() and dvc_md5(target) == md5:
            return
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        if not self._from_cache(md5, target):
            here = self.root / path
            if not here.exists() or dvc_md5(here) != md5:
                raise UsageError(
                    f"{path}: md5 {md5} is neither in the cache nor in the working tree; "
                    f"get it with `dvc fetch {stage or path}`, or build it again"
                )
            _copy(here, target)
        if dvc_md5(target) != md5:
            raise UsageError(
                f"{path}: the cache has other bytes for md5 {md5}; remove them from {self.cache} "
                f"and get them again with `dvc fetch {stage or path}`"
            )

    def read(self, path: str, md5: str) -> bytes | None:
        """The content of a file that had this hash; None where it is not at hand."""
        here = self.root / path
        if here.is_file() and dvc_md5(here) == md5:
            return here.read_bytes()
        content = self.cached(md5)
        return content if content is not None and hashlib.md5(content).hexdigest() == md5 else None

    def cached(self, md5: str) -> bytes | None:
        """What the cache has under a hash: a file, or the list of a folder; None for nothing."""
        try:
            return self._entry(md5).read_bytes()
        except (UsageError, OSError):
            return None

    def _from_cache(self, md5: str, target: Path) -> bool:
        """Copies from the cache; False if it lacks a file."""
        entry = self._entry(md5)
        if not entry.is_file():
            return False
        if not md5.endswith(".dir"):
            _copy(entry, target)
            return True
        listing: list[dict[str, Any]] = json.loads(entry.read_text(encoding="utf-8"))
        if not all(self._entry(str(item["md5"])).is_file() for item in listing):
            return False
        target.mkdir(parents=True, exist_ok=True)
        for item in listing:
            _copy(self._entry(str(item["md5"])), target / item["relpath"])
        return True

    def _entry(self, md5: str) -> Path:
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]


def _copy(source: Path, target: Path) -> None:
    """Copies bytes, not links: the scratch folder may write what the cache must keep."""
    if source.is_dir():
        shutil.copytree(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
