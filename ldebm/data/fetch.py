"""Bringing the source files of a data set to ``data/raw/<name>``: made, copied or downloaded.

In this order: the generator where the source has one; the local mirror where it holds the file;
HTTPS. The sha256 is checked on every way. A download that was cut off continues where it stopped,
and a file appears under its name only when it is complete and checked.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.folders import as_file
from ldebm.data.registry import Download, Source, SourceFile, find_source
from ldebm.errors import UsageError
from ldebm.files import atomic_path, hash_path, write_parquet

__all__ = ["MIRROR_VARIABLE", "Downloader", "extract_member", "fetch", "mirror_path"]

MIRROR_VARIABLE = "LDEBM_DATA_MIRROR"
CHUNK = 1 << 16  # bytes, of which a connection that breaks off loses the last
LIMIT = 4 << 30  # bytes, for a file of unknown size
DEFAULT_ROWS = {"train": 50000, "valid": 5000, "test": 5000}
RESUMED, NO_SUCH_RANGE = 206, 416  # HTTP


def fetch(
    source: Source | None,
    config: DataConfig,
    target: str | Path,
    mirror: str | Path | None = None,
    downloader: Downloader | None = None,
) -> None:
    """Brings the source files of ``config`` to the folder ``target``.

    Args:
        source: the source that ``config`` names; None for a user's own file.
        config: the data set.
        target: ``data/raw/<name>``.
        mirror: folder with ``<source folder>/<file>``; usually the value of LDEBM_DATA_MIRROR.
        downloader: how to download; the default keeps unfinished files in ``.ckpt/downloads``.

    Raises:
        UsageError: a file is nowhere to be had, or its sha256 differs.
    """
    target = Path(target)
    if config.source == "file":
        _copy_user_file(config, target)
        return
    source = source or find_source(config.source)
    if source.generator:
        GENERATORS[source.name](config, target)
        return
    files = source.wanted(config)
    if not files:
        raise UsageError(f"source {source.name!r}: no file to fetch: {source.supply}")
    with _all_or_nothing(target):
        for file in files:
            mirrored = mirror_path(source, file, mirror)
            if mirrored is not None:
                expected = config.checksums.get(file.name, file.sha256)
                _copy(mirrored, target / file.name, expected, str(mirrored))
            else:
                _download(source, file, config, target, mirror, downloader or Downloader())


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Takes what the block put into ``folder`` away again when the block fails."""
    before = set(folder.rglob("*"))
    try:
        yield
    except BaseException:
        for path in sorted(set(folder.rglob("*")) - before, reverse=True):  # what is in it first
            path.rmdir() if path.is_dir() else path.unlink()
        raise


def mirror_path(source: Source, file: SourceFile, mirror: str | Path | None) -> Path | None:
    """Where the mirror holds ``file``; None without a mirror or where it is not there."""
    path = Path(mirror or "") / source.folder / file.name
    return path if mirror and path.is_file() else None


def _points(config: DataConfig, target: Path) -> None:
    from ldebm.data import points  # loads torch

    for index, (split, rows) in enumerate(DEFAULT_ROWS.items()):
        count = getattr(config, split) or rows
        columns = points.generate(config.source, count, config.seed * 3 + index)
        write_parquet(target / f"{split}.parquet", columns)


def _chatter(config: DataConfig, target: Path) -> None:
    from ldebm.data import chatter

    turns = chatter.generate(seed=config.seed)
    columns: dict[str, Any] = {
        "text": [turn.text for turn in turns],
        "context": [list(turn.context) for turn in turns],
        "dialogue": np.array([turn.dialogue for turn in turns], dtype=np.int64),
        "turn": np.array([turn.turn for turn in turns], dtype=np.int32),
        "intent": [turn.intent for turn in turns],
        "sentiment": [turn.sentiment for turn in turns],
    }
    write_parquet(target / "utterances.parquet", columns)


def _digits(_: DataConfig, target: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.asarray(digits.data, dtype=np.float32)
    labels = np.asarray(digits.target, dtype=np.int64)
    write_parquet(target / "digits.parquet", {"image": images, "label": labels})


GENERATORS: dict[str, Callable[[DataConfig, Path], None]] = {
    "gaussians16": _points,
    "gaussians8": _points,
    "pinwheel10": _points,
    "pinwheel5": _points,
    "chatter": _chatter,
    "digits": _digits,
}


def _copy_user_file(config: DataConfig, target: Path) -> None:
    if config.path is None:
        raise UsageError("source 'file' needs path: the file, relative to the project's folder")
    from ldebm.data.kinds import kind_named  # it needs polars, which a fetched table does not

    path = Path(config.path)
    if not kind_named(config.kind).is_source(path):
        raise UsageError(
            f"{path}: no such file; correct path in the data set's section of params.yaml"
        )
    with as_file(path) as file:
        if file.stat().st_size == 0:
            raise UsageError(f"{path}: the file is empty; a data set needs at least one row")
        known = config.sha256 is not None
        _copy(file, target / file.name, config.sha256, str(path), checked=known)


def _copy(
    path: Path, target: Path, expected: str | None, where: str, *, checked: bool = True
) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
        if checked:
            _check(temporary, expected, where)


def _check(path: Path, expected: str | None, where: str) -> None:
    actual = hash_path(path)
    if expected is None:
        raise UsageError(
            f"{where}: no sha256 is known for this file; give it as checksums in the data set's "
            f"section of params.yaml (this copy has {actual})"
        )
    if actual != expected.lower():
        raise UsageError(
            f"{where}: wrong sha256: expected {expected}, found {actual}; the file is damaged or "
            "another edition: replace it"
        )


def _download(
    source: Source,
    file: SourceFile,
    config: DataConfig,
    target: Path,
    mirror: str | Path | None,
    downloader: Downloader,
) -> None:
    wanted = f"{source.folder}/{file.name}".removeprefix("/")
    hint = f"set {MIRROR_VARIABLE} to a folder that holds {wanted}"
    where = f"source {source.name!r}: " + (
        f"{wanted} is not in the mirror {mirror}; " if mirror else ""
    )
    place = file.download
    if place is None:
        raise UsageError(
            f"{where}{file.name} cannot be downloaded: {hint}; or supply it: {source.supply}"
        )
    name = place.name or file.name
    expected = config.checksums.get(name, place.sha256)
    if expected is None:
        raise UsageError(
            f"{where}no sha256 is known for {place.url}, so {name} is not downloaded: give it as "
            f"checksums: {{{name}: SHA256}} in the data set's section of params.yaml, or {hint}"
        )
    try:
        part = downloader.get(place, None if place.member else expected)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{where}{place.url} cannot be downloaded ({reason}); {hint}, or connect to the "
            "network and run again (it continues where it stopped)"
        ) from None
    if place.member:
        with atomic_path(target / name) as temporary:
            extract_member(part, place.member, temporary)
            _check(temporary, expected, f"{place.url}: {place.member}")
    else:
        _copy(part, target / name, expected, place.url, checked=False)
        part.unlink()


@dataclass(frozen=True)
class Downloader:
    """Downloads over HTTPS into a folder of unfinished files, continuing what is there.

    Attributes:
        folder: where unfinished downloads wait, and archives of which several files are taken.
        timeout: seconds without an answer.
        attempts: connections that are tried before giving up.
        schemes: what an address may start with; tests also allow http on the loopback.
    """

    folder: Path = Path(".ckpt/downloads")
    timeout: float = 30.0
    attempts: int = 3
    schemes: tuple[str, ...] = ("https",)

    def get(self, place: Download, expected: str | None) -> Path:
        """Downloads the file or archive of ``place`` and checks it where ``expected`` is given.

        Raises:
            UsageError: the address is not HTTPS, or the file is too large or not the expected one.
            OSError: there is no connection.
        """
        key = hashlib.sha256(place.url.encode()).hexdigest()[:32]
        complete, part = self.folder / f"{key}.complete", self.folder / f"{key}.part"
        if not complete.is_file():
            part.parent.mkdir(parents=True, exist_ok=True)
            for left in reversed(range(self.attempts)):
                try:
                    self._continue(place, part)
                    break
                except OSError as error:  # as are all of requests
                    status = getattr(getattr(error, "response", None), "status_code", 500)
                    if status < 500 or not left:
                        raise
            part.replace(complete)
        if expected is not None:
            try:
                _check(complete, expected, place.url)
            except UsageError:
                complete.unlink()
                raise
        return complete

    def _continue(self, place: Download, part: Path) -> None:
        """One connection: appends to ``part`` from where it ends."""
        import requests

        limit = place.bytes or LIMIT
        have = part.stat().st_size if part.is_file() else 0
        if place.bytes is not None and have == place.bytes:
            return
        headers = {"User-Agent": "ldebm", "Accept-Encoding": "identity"}
        with requests.Session() as session:
            for scheme in {"http", "https"}.difference(self.schemes):
                del session.adapters[f"{scheme}://"]
            get = functools.partial(session.get, place.url, stream=True, timeout=self.timeout)
            try:
                resume = {"Range": f"bytes={have}-"} if have else {}
                answer = get(headers=headers | resume)
                if answer.status_code == NO_SUCH_RANGE:  # longer than the file: start again
                    answer = get(headers=headers)
            except requests.exceptions.InvalidSchema as error:  # of it, or where it leads to
                schemes = " or ".join(self.schemes)
                raise UsageError(f"{error}: only {schemes} addresses are downloaded") from None
            answer.raise_for_status()
            resumed = answer.status_code == RESUMED
            have = have if resumed else 0
            size = have + int(answer.headers.get("Content-Length", 0))
            with part.open("ab" if resumed else "wb") as stream:
                for block in answer.iter_content(CHUNK if size <= limit else 1):
                    have += len(block)
                    if max(have, size) > limit:
                        raise UsageError(
                            f"{place.url}: {max(have, size)} bytes, more than the {limit} expected"
                        )
                    stream.write(block)


def extract_member(archive: Path, member: str, target: Path, limit: int = LIMIT) -> None:
    """Writes one regular file of a zip or tar archive to ``target``.

    No name in the archive is used as a path, so that nothing can be written elsewhere.

    Raises:
        UsageError: the archive is damaged, has no such file, or the file is larger than ``limit``.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed, packed.open(member) as stream:
                _copy_limited(stream, target, limit, member)
            return
        with tarfile.open(archive) as packed_tar:
            opened = packed_tar.extractfile(member)
            if opened is None:
                raise KeyError(member)
            with opened:
                _copy_limited(opened, target, limit, member)
    except KeyError:
        raise UsageError(f"{archive}: holds no file {member!r}; it is another edition") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f"{archive}: damaged archive ({error}); download it again") from None


def _copy_limited(stream: IO[bytes], target: Path, limit: int, member: str) -> None:
    written = 0
    with target.open("wb") as output:
        while block := stream.read(CHUNK):
            written += len(block)
            if written > limit:
                raise UsageError(f"{member}: more than the {limit} bytes allowed")
            output.write(block)
