"""Whether the sources of the data sets differ from what dvc.lock says was fetched.

DVC knows a data set by its section of params.yaml and does not look at the file behind it. This
module does: at the user's own file, at the mirror, and at the parameters. It downloads nothing: a
download is fixed by its sha256, so that it cannot change unless the parameters or the registry do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ldebm.config import DataConfig, load_params
from ldebm.data.folders import as_file
from ldebm.data.kinds import kind_named
from ldebm.data.registry import Source, SourceFile, find_source
from ldebm.errors import UsageError
from ldebm.files import hash_path
from ldebm.yaml_text import parse_yaml
from pipelines.candidates import Folder, lock
from pipelines.git import git
from pipelines.lineage.records import dvc_md5

__all__ = ["MIRROR_VARIABLE", "Finding", "find_changes"]

MIRROR_VARIABLE = "LDEBM_DATA_MIRROR"
State = Literal["same", "changed", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found about one data set.

    Attributes:
        data: its name.
        state: "same"; "changed": it has to be fetched again; "problem": somebody has to act first.
        words: why, in one line.
        fingerprint: hash of the parameters and the source as they are now, to recognise a change
            that was dealt with before.
        overrides: parameters that the changed source needs, as ``dvc exp run -S`` takes them.
    """

    data: str
    state: State
    words: str
    fingerprint: str = ""
    overrides: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def find_changes(
    root: Path = Path(),
    datasets: Sequence[str] = (),
    mirror: str | Path | None = None,
    handled: Collection[str] = (),
) -> list[Finding]:
    """Looks at the source of every data set.

    Args:
        root: the project's folder.
        datasets: which; none: those of ``run:``.
        mirror: folder of the local mirror; None: the value of LDEBM_DATA_MIRROR.
        handled: fingerprints of changes that were dealt with; they count as the same.

    Raises:
        UsageError: params.yaml does not check, or has no such data set.
    """
    params = load_params(root / "params.yaml")
    sections = parse_yaml((root / "params.yaml").read_text(encoding="utf-8"))["data"]
    stages = lock(Folder(root))
    place = mirror or os.environ.get(MIRROR_VARIABLE) or None
    findings = []
    for name in datasets or params.run.datasets:
        config = params.dataset(name)
        recorded = stages.get(f"fetch@{name}")
        finding = _look(root, name, config, sections[name], recorded, place)
        mark = _fingerprint(sections[name], finding)
        if finding.state == "changed" and mark in handled:
            finding = Finding(name, "same", "other than dvc.lock has, and retrained on already")
        findings.append(Finding(name, finding.state, finding.words, mark, finding.overrides))
    return findings


def _fingerprint(section: Any, finding: Finding) -> str:
    text = json.dumps(
        [section, finding.fingerprint, finding.overrides], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _look(
    root: Path,
    name: str,
    config: DataConfig,
    section: Any,
    recorded: Mapping[str, Any] | None,
    mirror: str | Path | None,
) -> Finding:
    if recorded is None:
        return Finding(name, "changed", "not in dvc.lock: it was never built")
    locked = ((recorded.get("params") or {}).get("params.yaml") or {}).get(f"data.{name}")
    if locked != section:
        keys = _differing(locked, section)
        return Finding(name, "changed", f"other parameters than dvc.lock has: {', '.join(keys)}")
    md5 = next((str(out["md5"]) for out in recorded.get("outs", [])), "")
    if config.source == "file":
        return _own_file(root, name, config, md5)
    source = find_source(config.source)
    if source.generator:
        return Finding(name, "same", "made here from its parameters, which are those of dvc.lock")
    return _mirrored(root, name, config, source, md5, mirror)


def _differing(locked: Any, section: Any) -> list[str]:
    if not isinstance(locked, dict) or not isinstance(section, dict):
        return [f"{locked!r} -> {section!r}"]
    keys = sorted({*locked, *section})
    return [
        f"{key} {locked.get(key)!r} -> {section.get(key)!r}"
        for key in keys
        if locked.get(key) != section.get(key)
    ]


def _own_file(root: Path, name: str, config: DataConfig, md5: str) -> Finding:
    path = root / str(config.path)
    if not kind_named(config.kind).is_source(path):
        return Finding(
            name,
            "problem",
            f"{config.path}: no such file; bring it back or correct data.{name}.path",
        )
    try:
        with as_file(path) as file:
            size, now, listing = file.stat().st_size, hash_path(file), {file.name: dvc_md5(file)}
    except UsageError as error:  # a folder without images
        return Finding(name, "problem", str(error))
    if size == 0:
        return Finding(name, "problem", f"{config.path}: the file is empty; bring its rows back")
    if _uncommitted(root, str(config.path)):
        return Finding(
            name, "problem",
            f"{config.path} is in git and has uncommitted changes: commit it, or undo them",
        )  # fmt: skip
    if _folder_md5(listing) == md5:
        return Finding(name, "same", f"{config.path} is what dvc.lock has")
    pin = f"data.{name}.sha256={now}" if config.sha256 else f"+data.{name}.sha256={now}"
    return Finding(
        name, "changed", f"{config.path} is another file than dvc.lock has (sha256 {now[:12]})",
        fingerprint=now, overrides=(pin,),
    )  # fmt: skip


def _uncommitted(root: Path, path: str) -> bool:
    """Whether git knows the file with another content: a build of HEAD would take that."""
    try:
        return bool(git(root, "status", "--porcelain", "--untracked-files=no", "--", path))
    except UsageError:
        return False  # outside the repository


def _mirrored(
    root: Path,
    name: str,
    config: DataConfig,
    source: Source,
    md5: str,
    mirror: str | Path | None,
) -> Finding:
    """A published source: its files are fixed by sha256, in the mirror and elsewhere."""
    hashes: dict[str, str] = {}
    for file in source.files:
        path = None if mirror is None else Path(mirror) / source.folder / file.name
        if path is None or not path.is_file():
            continue
        expected = config.checksums.get(file.name, file.sha256)
        now = hash_path(path)
        if expected is None or now != expected.lower():
            return Finding(name, "problem", _foreign(name, path, file, now, expected), now)
        hashes[file.name] = dvc_md5(path)
    if len(hashes) == len(source.files) and hashes:
        if _folder_md5(hashes) == md5:
            return Finding(name, "same", f"{len(hashes)} files of the mirror are what dvc.lock has")
        return Finding(
            name, "changed", "the mirror's files are others than dvc.lock has", _folder_md5(hashes)
        )
    return _fixed(root, name, config, source)


def _foreign(name: str, path: Path, file: SourceFile, now: str, expected: str | None) -> str:
    wanted = f"expected {expected[:12]}" if expected else "no sha256 is declared"
    return (
        f"{path}: sha256 {now[:12]}, {wanted}: another edition or a damaged file; replace it, or "
        f"accept it with checksums: {{{file.name}: {now}}} in data.{name}"
    )


def _fixed(root: Path, name: str, config: DataConfig, source: Source) -> Finding:
    """Downloaded files: they change only if the declared sha256 does."""
    for file in source.files:
        kept = file.download.name if file.download and file.download.name else file.name
        declared = file.download.sha256 if file.download else file.sha256
        expected = config.checksums.get(kept, declared)
        path = root / "data" / "raw" / name / kept
        if expected and path.is_file() and hash_path(path) != expected.lower():
            words = f"the registry declares another edition of {kept} (sha256 {expected[:12]})"
            return Finding(name, "changed", words, expected)
    return Finding(name, "same", "downloaded files are fixed by their sha256 in the registry")


def _folder_md5(files: Mapping[str, str]) -> str:
    """The hash that dvc.lock has for a folder with these files (name to md5)."""
    listing = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
