"""A user's folder of images as one file: a zip with the same bytes for the same content.

Outputs of the pipeline have few files (C8), and one file has one sha256.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ldebm.errors import UsageError

__all__ = ["EXTENSIONS", "LABELS_FILE", "as_file", "is_image"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
LABELS_FILE = "labels.csv"
FOLDER_FILE = "images.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state


def is_image(name: str) -> bool:
    """Whether a path in a folder or an archive names an image; hidden ones do not count.

    Example:
        >>> is_image("cats/1.JPG"), is_image("__MACOSX/cats/1.jpg"), is_image("notes.txt")
        (True, False, False)
    """
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not hidden and path.suffix.lower() in EXTENSIONS


@contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """The file itself, or for a folder a zip of its images and ``labels.csv``, as long as it lasts.

    Raises:
        UsageError: the folder holds no image.
    """
    if not path.is_dir():
        yield path
        return
    names = sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file())
    images = [name for name in names if is_image(name)]
    if not images:
        raise UsageError(f"{path}: no image in the folder; expected {', '.join(EXTENSIONS)}")
    labels = [LABELS_FILE] if LABELS_FILE in names else []
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / FOLDER_FILE
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name in [*labels, *images]:
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                archive.writestr(entry, (path / name).read_bytes())
        yield target
