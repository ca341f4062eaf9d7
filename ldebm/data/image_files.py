"""Images in files of many: parquet shards, zip and npz archives, with the labels beside them.

Every reader gives the images in turn, not yet decoded, in the order of names and rows, so that the
numbers of the rows are always the same.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ldebm.data.folders import EXTENSIONS, LABELS_FILE, is_image
from ldebm.errors import UsageError

__all__ = ["ImageSource", "RawImage", "is_binary", "open_npz", "open_shards", "open_zip"]

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
FILE_COLUMNS = ("image", "file", "filename", "name", "path")  # of a labels file
NOT_LABELS = {*FILE_COLUMNS, "split", "id"}
Labelled = tuple[tuple[str, ...], dict[str, tuple[str | None, tuple[Any, ...]]]]


@dataclass(frozen=True)
class RawImage:
    """One image as its source has it.

    Attributes:
        split: train, valid or test; None where the source has none.
        place: file and row, for messages.
        content: an encoded file, or uint8 pixels (H, W) or (H, W, C).
        labels: one for every name of the source; None where it is missing.
    """

    split: str | None
    place: str
    content: bytes | np.ndarray
    labels: tuple[Any, ...] = ()


@dataclass(frozen=True)
class ImageSource:
    """The label columns of a source and its images."""

    names: tuple[str, ...]
    images: Iterator[RawImage]


def open_shards(paths: list[Path]) -> ImageSource:
    """Parquet files with a column of encoded images and one of each label.

    Labels are the columns of integers and text; ``split``, or the first word of a file's name, says
    which split a row belongs to.

    Raises:
        UsageError: a file is damaged or lacks a column.
    """
    schema = _schema(paths[0])
    column = _image_column(schema, paths[0])
    names = tuple(f.name for f in schema if f.name != column and _is_label(f))

    def rows() -> Iterator[RawImage]:
        for path in paths:
            split = _split_of(re.split(r"[-_.]", path.name)[0])
            yield from _parquet_rows(path, column, names, split)

    return ImageSource(names, rows())


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: cannot be read as parquet ({reason})") from None


def _image_column(schema: pa.Schema, path: Path) -> str:
    """The column of encoded files: ``image``, or the only one of bytes (or of a bytes field)."""
    found = [f.name for f in schema if is_binary(f.type)]
    if "image" in found:
        return "image"
    if len(found) != 1:
        there = ", ".join(schema.names)
        raise UsageError(f"{path}: no column 'image' of image files; columns there: {there}")
    return str(found[0])


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded files."""
    if pa.types.is_struct(kind):  # as public hubs store images: {bytes, path}
        return any(f.name == "bytes" and is_binary(f.type) for f in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_label(field: pa.Field) -> bool:
    plain = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    return field.name not in NOT_LABELS and any(test(field.type) for test in plain)


def _parquet_rows(
    path: Path, column: str, names: tuple[str, ...], split: str | None
) -> Iterator[RawImage]:
    try:
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            for name in (column, *names):
                if name not in there:
                    raise UsageError(f"{path}: no column {name!r}, which other shards have")
            wanted = [column, *names, *({"split"} & there)]
            number = 0
            for part in file.iter_batches(256, columns=wanted):
                for row in part.to_pylist():
                    content = row[column]
                    content = content["bytes"] if isinstance(content, dict) else content
                    labels = tuple(row[name] for name in names)
                    own = _split_of(row["split"], path) if "split" in row else split
                    yield RawImage(own, f"{path.name} row {number}", content or b"", labels)
                    number += 1
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: cannot be read as parquet ({reason})") from None


def _split_of(name: Any, where: Path | str | None = None) -> str | None:
    """The split that a word stands for; an unknown one is an error where ``where`` is given."""
    split = SPLIT_NAMES.get(str(name).lower())
    if split is None and where is not None and name not in (None, ""):
        raise UsageError(f"{where}: split {str(name)!r}; expected {', '.join(SPLIT_NAMES)}")
    return split


def open_npz(path: Path) -> ImageSource:
    """``images`` (or ``x``, or the first array) of an npz, and arrays of its length as labels.

    Raises:
        UsageError: it is damaged, or holds no images.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in sorted(content.files)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as npz ({error})") from None
    chosen = [name for name in ("images", "x", "arr_0") if name in arrays] or [*arrays][:1]
    if not chosen or arrays[chosen[0]].ndim not in (3, 4) or not len(arrays[chosen[0]]):
        raise UsageError(f"{path}: no array 'images' of (n, height, width[, channels]) uint8")
    pixels = arrays.pop(chosen[0])
    splits = arrays.pop("split", None)
    flat = {
        name: a
        for name, a in arrays.items()
        if a.shape == (len(pixels),) and a.dtype.kind in "iuUb"
    }

    def rows() -> Iterator[RawImage]:
        for i, image in enumerate(pixels):
            split = None if splits is None else _split_of(splits[i], path)
            yield RawImage(split, f"image {i}", image, tuple(a[i].item() for a in flat.values()))

    return ImageSource(tuple(flat), rows())


def open_zip(path: Path) -> ImageSource:
    """The images of a zip: folders are splits and classes, unless it holds ``labels.csv``.

    That table has a column ``image`` (of names as in the archive, or of files alone), one of each
    label, and where wanted ``split``.

    Raises:
        UsageError: the archive is damaged or holds no image, or the labels do not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(m for m in archive.namelist() if is_image(m))
            tables = [m for m in archive.namelist() if PurePosixPath(m).name == LABELS_FILE]
            table = archive.read(min(tables, key=len)) if tables else None
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path}: damaged archive ({error})") from None
    if not members:
        raise UsageError(f"{path}: no image in it; expected files of {', '.join(EXTENSIONS)}")
    if table is not None:
        names, labels_of = _labels_of(table, members, path)
    else:
        names, labels_of = _folders(members)

    def rows() -> Iterator[RawImage]:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                split, labels = labels_of[member]
                try:
                    content = archive.read(member)
                except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
                    content = b""  # damaged within a sound archive: rejected as an image
                yield RawImage(split, member, content, labels)

    return ImageSource(names, rows())


def _folders(members: list[str]) -> Labelled:
    """Splits and classes by folders: ``[.../][train/][class/]name``."""
    parts = {member: list(PurePosixPath(member).parent.parts) for member in members}
    while len({tuple(p[:1]) for p in parts.values()}) == 1 and next(iter(parts.values())):
        if _split_of(next(iter(parts.values()))[0]):
            break
        parts = {member: p[1:] for member, p in parts.items()}  # one folder around all
    found: dict[str, tuple[str | None, str | None]] = {}
    for member, folders in parts.items():
        split = _split_of(folders[0]) if folders else None
        rest = folders[1:] if split else folders
        found[member] = (split, rest[0] if rest else None)
    if not any(name for _, name in found.values()):
        return (), {member: (split, ()) for member, (split, _) in found.items()}
    return ("class",), {member: (split, (name,)) for member, (split, name) in found.items()}


def _labels_of(table: bytes, members: list[str], path: Path) -> Labelled:
    """The rows of a labels file by image: its full name in the archive, or its file name."""
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""))
        rows, columns = list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: {LABELS_FILE} is not a UTF-8 csv table ({error})") from None
    key = next((name for name in FILE_COLUMNS if name in columns), None)
    if key is None:
        raise UsageError(
            f"{path}: {LABELS_FILE} has no column 'image' of file names; columns there: "
            f"{', '.join(columns) or 'none'}"
        )
    names = tuple(name for name in columns if name not in NOT_LABELS)
    given = {PurePosixPath(row[key] or "").as_posix(): row for row in rows}
    found: dict[str, tuple[str | None, tuple[Any, ...]]] = {}
    for member in members:
        pure = PurePosixPath(member)
        tails = ("/".join(pure.parts[i:]) for i in range(len(pure.parts)))
        row = next((given[tail] for tail in tails if tail in given), None)
        if row is None:
            raise UsageError(f"{path}: {LABELS_FILE} has no row for {member}")
        split = _split_of(row.get("split"), f"{path}: {LABELS_FILE}")
        found[member] = (split, tuple(row[name] or None for name in names))
    return names, found
