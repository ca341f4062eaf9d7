"""Bringing the source files of a data set to ``data/raw/<name>``: made, copied or downloaded.

In this order: the generator where the source has one; the local mirror where it holds the file;
HTTPS. The sha256 is checked on every way. A download that was cut off continues where it stopped,
and a file appears under its name only when it is complete and checked.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np

from ldebm.config import DataConfig
from ldebm.data import chatter
from ldebm.data.folders import as_file
from ldebm.data.registry import Download, Source, SourceFile, find_source
from ldebm.errors import UsageError
from ldebm.files import atomic_path, hash_path, write_parquet

__all__ = ["MIRROR_VARIABLE", "Downloader", "extract_member", "fetch", "mirror_path"]

MIRROR_VARIABLE = "LDEBM_DATA_MIRROR"
CHUNK = 1 << 20
LIMIT = 4 << 30  # bytes, for a file of unknown size
DEFAULT_ROWS = {"train": 50000, "valid": 5000, "test": 5000}


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
        _generate(source, config, target)
        return
    files = source.wanted(config)
    if not files:
        raise UsageError(f"source {source.name!r}: no file to fetch: {source.supply}")
    with _all_or_nothing(target):
        for file in files:
            found = mirror_path(source, file, mirror)
            if found is not None:
                _copy(found, target / file.name, config.checksums.get(file.name, file.sha256))
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
    if not mirror:
        return None
    path = Path(mirror) / source.folder / file.name
    return path if path.is_file() else None


def _generate(source: Source, config: DataConfig, target: Path) -> None:
    if source.kind == "points":
        from ldebm.data import points  # loads torch

        for index, (split, rows) in enumerate(DEFAULT_ROWS.items()):
            count = getattr(config, split) or rows
            columns = points.generate(source.name, count, config.seed * 3 + index)
            write_parquet(target / f"{split}.parquet", columns)
    elif source.name == "chatter":
        turns = chatter.generate(seed=config.seed)
        columns_of_lists: dict[str, Any] = {
            "text": [turn.text for turn in turns],
            "context": [list(turn.context) for turn in turns],
            "dialogue": np.array([turn.dialogue for turn in turns], dtype=np.int64),
            "turn": np.array([turn.turn for turn in turns], dtype=np.int32),
            "intent": [turn.intent for turn in turns],
            "sentiment": [turn.sentiment for turn in turns],
        }
        write_parquet(target / "utterances.parquet", columns_of_lists)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.asarray(digits.data, dtype=np.float32)
        labels = np.asarray(digits.target, dtype=np.int64)
        write_parquet(target / "digits.parquet", {"image": images, "label": labels})


def _copy_user_file(config: DataConfig, target: Path) -> None:
    if config.path is None:
        raise UsageError("source 'file' needs path: the file, relative to the project's folder")
    path = Path(config.path)
    if not path.is_file() and not (path.is_dir() and config.kind == "images"):
        raise UsageError(
            f"{path}: no such file; correct path in the data set's section of params.yaml"
        )
    with as_file(path) as file:
        if file.stat().st_size == 0:
            raise UsageError(f"{path}: the file is empty; a data set needs at least one row")
        _copy(file, target / file.name, config.sha256, path, checked=config.sha256 is not None)


def _copy(
    path: Path, target: Path, expected: str | None, shown: Path | None = None, checked: bool = True
) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
        if checked:
            _check(hash_path(temporary), expected, str(shown or path))


def _check(found: str, expected: str | None, where: str) -> None:
    if expected is None:
        raise UsageError(
            f"{where}: no sha256 is known for this file; give it as checksums in the data set's "
            f"section of params.yaml (this copy has {found})"
        )
    if found != expected.lower():
        raise UsageError(
            f"{where}: wrong sha256: expected {expected}, found {found}; the file is damaged or "
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
    absent = f"{wanted} is not in the mirror {mirror}; " if mirror else ""
    place = file.download
    if place is None:
        raise UsageError(
            f"source {source.name!r}: {absent}{file.name} cannot be downloaded: {hint}; "
            f"or supply it: {source.supply}"
        )
    name = place.name or file.name
    expected = config.checksums.get(name, place.sha256)
    if expected is None:
        raise UsageError(
            f"source {source.name!r}: {absent}no sha256 is known for {place.url}, so {name} is not "
            f"downloaded: give it as checksums: {{{name}: SHA256}} in the data set's section of "
            f"params.yaml, or {hint}"
        )
    try:
        part = downloader.get(place, None if place.member else expected)
    except OSError as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UsageError(
            f"source {source.name!r}: {absent}{place.url} cannot be downloaded ({reason}); {hint}, "
            "or connect to the network and run again (it continues where it stopped)"
        ) from None
    with atomic_path(target / name) as temporary:
        if place.member:
            extract_member(part, place.member, temporary)
            _check(hash_path(temporary), expected, f"{place.url}: {place.member}")
        else:
            shutil.copyfile(part, temporary)
    if not place.member:
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
        complete = self.folder / f"{key}.complete"
        if not complete.is_file():
            part = self.folder / f"{key}.part"
            part.parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(self.attempts):
                try:
                    self._continue(place, part)
                    break
                except (OSError, http.client.HTTPException) as error:
                    code = getattr(error, "code", None)
                    hopeless = code is not None and code < 500
                    if hopeless or attempt + 1 == self.attempts:
                        if isinstance(error, OSError):
                            raise
                        raise OSError(f"connection broke off: {error!r}") from None
            part.replace(complete)
        if expected is not None:
            try:
                _check(hash_path(complete), expected, place.url)
            except UsageError:
                complete.unlink()
                raise
        return complete

    def _continue(self, place: Download, part: Path) -> None:
        """One connection: appends to ``part`` from where it ends."""
        limit = place.bytes or LIMIT
        have = part.stat().st_size if part.is_file() else 0
        if place.bytes is not None and have == place.bytes:
            return
        with self._open(place.url, have) as answer:
            resumed = answer.status == 206
            have = have if resumed else 0
            announced = answer.headers.get("Content-Length")
            total = have + int(announced) if announced and announced.isdigit() else None
            if total is not None and total > limit:
                raise UsageError(f"{place.url}: {total} bytes, more than the {limit} expected")
            with part.open("ab" if resumed else "wb") as stream:
                while block := answer.read(CHUNK):
                    have += len(block)
                    if have > limit:
                        raise UsageError(f"{place.url}: more than the {limit} bytes expected")
                    stream.write(block)
        if total is not None and have < total:
            raise OSError(f"connection broke off after {have} of {total} bytes")

    @contextmanager
    def _open(self, url: str, start: int) -> Iterator[Any]:
        self._allow(url)
        schemes = self

        class CheckedRedirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, req: Any, *args: Any, **kwargs: Any) -> Any:
                schemes._allow(str(args[-1]))
                return super().redirect_request(req, *args, **kwargs)

        opener = urllib.request.build_opener(CheckedRedirects)
        request = urllib.request.Request(url, headers={"User-Agent": "ldebm"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            answer = opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            answer = opener.open(  # the part is longer than the file: start again
                urllib.request.Request(url, headers={"User-Agent": "ldebm"}), timeout=self.timeout
            )
        with answer:
            yield answer

    def _allow(self, url: str) -> None:
        if urlsplit(url).scheme not in self.schemes:
            raise UsageError(f"{url}: only {' or '.join(self.schemes)} addresses are downloaded")


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
