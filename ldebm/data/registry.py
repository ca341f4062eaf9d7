"""Every data set of the papers, as ``registry.toml`` has them.

A file is known by its sha256. It may come from a local mirror, whose layout is
``<mirror>/<folder>/<file name>``, or by HTTPS, where the published file is sometimes packed in
another way and then has its own sha256. Where the sha256 of a download is not known, params.yaml
has to give it (``data.<name>.checksums``), since nothing is used unchecked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ldebm.config import DataConfig, nearest
from ldebm.errors import UsageError

__all__ = ["SOURCES", "Download", "Kind", "Source", "SourceFile", "find_source"]

Kind = Literal["points", "sentences", "dialogues", "documents", "images", "embeddings"]


@dataclass(frozen=True)
class Download:
    """Where one file can be downloaded.

    Attributes:
        url: HTTPS address of the file, or of the archive that holds it.
        sha256: of the file as it is kept (of the member, for an archive); None where not known.
        bytes: size of what the address serves, where known.
        member: path in the archive (zip or tar), if it is one.
        name: name under which the file is kept where it differs from the mirror's.
    """

    url: str
    sha256: str | None = None
    bytes: int | None = None
    member: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set: name and sha256 in the mirror, and where to download it.

    Attributes:
        optional: True where it is fetched only if the data set asks for it (``full: true``).
    """

    name: str
    sha256: str | None = None
    bytes: int | None = None
    download: Download | None = None
    optional: bool = False


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: as ``data.<name>.source`` has it.
        kind: what its rows are.
        description: one sentence.
        licence: as its publisher states it.
        citation: the paper to cite.
        folder: its folder in a mirror; empty where the names of the files have theirs.
        files: what it consists of; empty for generators and where no file is to be had.
        generator: True where this project makes the data itself.
        supply: what the user has to bring where files are missing or incomplete.
    """

    name: str
    kind: Kind
    description: str
    licence: str
    citation: str
    folder: str = ""
    files: list[SourceFile] = field(default_factory=list)
    generator: bool = False
    supply: str = ""

    def wanted(self, config: DataConfig) -> list[SourceFile]:
        """The files of a data set; where none is registered, those that ``checksums`` names."""
        stated = [SourceFile(name, sha256) for name, sha256 in sorted(config.checksums.items())]
        files = self.files or (stated if self.folder else [])
        return [file for file in files if config.full or not file.optional]


def _sources() -> dict[str, Source]:
    """The sources of ``registry.toml`` by name, in its order."""
    path = Path(__file__).with_suffix(".toml")
    sources: dict[str, Source] = {}
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        table.setdefault("folder", "" if table.get("generator") else name)
        files = [_part(part, sources) for part in table.pop("parts", ())]
        for group in table.pop("files", ()):
            files += [_file(row, group) for row in group["rows"].splitlines() if row]
        sources[name] = Source(name=name, files=files, **table)
    return sources


def _part(path: str, sources: Mapping[str, Source]) -> SourceFile:
    """A file of another source, under the folder of that."""
    folder, _, name = path.partition("/")
    return replace(next(f for f in sources[folder].files if f.name == name), name=path)


def _file(row: str, group: Mapping[str, Any]) -> SourceFile:
    """One file: a row, and what ``registry.toml`` says of all rows of its group."""
    name, *known = row.split()
    sha256, size, *published = (None if item == "-" else item for item in known)
    number = int(size) if size else None
    served, other = (published or [sha256])[0], published[1] if len(published) > 1 else None
    base, place = group.get("base"), None
    if base and "archive" in group:
        member = f"{group['archive']}/{other or name}".removeprefix("/")
        place = Download(base, served, member=member, name=other)
    elif base:
        url = f"{base}/{PurePosixPath(name).name}"
        place = Download(url, served, None if published else number, name=other)
    return SourceFile(name, sha256, number, place, group.get("optional", False))


SOURCES: dict[str, Source] = _sources()


def find_source(name: str) -> Source:
    """The source called ``name``.

    Raises:
        UsageError: there is none; the message has the nearest name.
    """
    if name not in SOURCES:
        hint = nearest(name, [*SOURCES, "file"])
        raise UsageError(f"source {name!r} is not in the data registry{hint}")
    return SOURCES[name]
