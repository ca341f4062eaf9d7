"""A user's folder of images as one file: a zip with the same bytes for the same content.

Outputs of the pipeline have few files, and one file has one sha256.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ldebm.errors import UsageError

__all__ = ["EXTENSIONS", "LABELS_FILE", "as_file", "content_of", "file_names", "is_image",
           "other_files", "parts_of"]  # fmt: skip

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
LABELS_FILE = "labels.csv"
FOLDER_FILE = "images.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state
HIDDEN = (".", "__MACOSX")
OF_SYSTEMS = ("thumbs.db", "desktop.ini")


def parts_of(name: str) -> tuple[str, ...]:
    """Folders and name of a path in a folder or an archive, which Windows may have made.

    Example:
        >>> parts_of("train/cats/1.png") == parts_of(r"train\\cats\\1.png")
        True
    """
    return PurePosixPath(name.replace("\\", "/")).parts


def is_image(name: str) -> bool:
    """Whether a path in a folder or an archive names an image; hidden ones do not count.

    Example:
        >>> is_image("cats/1.JPG"), is_image("__MACOSX/cats/1.jpg"), is_image("notes.txt")
        (True, False, False)
    """
    return not _is_hidden(name) and PurePosixPath(name).suffix.lower() in EXTENSIONS


def _is_hidden(name: str) -> bool:
    return any(part.startswith(HIDDEN) for part in parts_of(name))


def other_files(path: Path) -> dict[str, int]:
    """How many files of a folder or zip are not read, by the ending of their names."""
    names = file_names(path) if path.is_dir() else []
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    suffixes = Counter[str]()
    for name in names:
        last = PurePosixPath(parts_of(name)[-1])
        known = last.name == LABELS_FILE or last.name.lower() in OF_SYSTEMS
        if not (known or is_image(name) or _is_hidden(name)):
            suffixes[last.suffix.lower() or last.name] += 1
    return dict(sorted(suffixes.items()))


@contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """The file itself, or for a folder a zip of its images and ``labels.csv``, as long as it lasts.

    Links are followed. One to nowhere becomes an empty file, which preparing leaves out.

    Raises:
        UsageError: the folder holds no image, or one that cannot be read.
    """
    if not path.is_dir():
        yield path
        return
    names = file_names(path)
    images = [name for name in names if is_image(name)]
    if not images:
        there = ", ".join(f"{count} {ending}" for ending, count in other_files(path).items())
        raise UsageError(
            f"{path}: no image in the folder; expected {', '.join(EXTENSIONS)}; there: "
            f"{there or 'no file'}"
        )
    labels = [LABELS_FILE] if LABELS_FILE in names else []
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / FOLDER_FILE
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name in [*labels, *images]:
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                archive.writestr(entry, content_of(path / name))
        yield target


def file_names(path: Path) -> list[str]:
    """The files below a folder, relative to it; links are followed, and dead ones are listed."""
    return sorted(file.relative_to(path).as_posix() for file in _below(path, ()))


def _below(folder: Path, around: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in around:  # a link to a folder that it is in
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry in entries:
        if entry.is_dir():
            yield from _below(entry, (*around, real))
        elif entry.is_file() or not entry.exists():
            yield entry


def content_of(path: Path) -> bytes:
    """The bytes of a file; none of a link to nowhere.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
