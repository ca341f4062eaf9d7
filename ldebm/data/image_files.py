"""Images of a source in turn, not yet decoded; parquet files that hold them.

Images come in the order of names and rows, so that the numbers of the rows are always the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from ldebm.data.columns import split_of, stated_split
from ldebm.errors import UsageError
from ldebm.files import opened_parquet

__all__ = ["FILE_COLUMNS", "NOT_LABELS", "ImageSource", "RawImage", "is_binary", "open_shards"]

FILE_COLUMNS = ("image", "file", "filename", "file_name", "name", "path")  # of a labels file
NOT_LABELS = {*FILE_COLUMNS, "split", "id"}
LABELS = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string,
          types.is_string_view, types.is_floating)  # fmt: skip


@dataclass(frozen=True)
class RawImage:
    """One image as its source has it.

    Attributes:
        split: train, valid or test; None where the source has none.
        place: file and row, for messages.
        content: an encoded file, or uint8 pixels (H, W) or (H, W, C).
        labels: one for every name of the source; None where it is missing.
        fault: why the image cannot be used, whatever its content; None where it can.
    """

    split: str | None
    place: str
    content: bytes | np.ndarray
    labels: tuple[Any, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class ImageSource:
    """The label columns of a source and its images.

    Attributes:
        names: of the label columns.
        images: all there are, once.
        unfit: other columns, and what they hold.
        notes: what a user may want to know of how the source was read, a line each.
    """

    names: tuple[str, ...]
    images: Iterator[RawImage]
    unfit: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def require(self, label: str, where: Path | str) -> None:
        """Makes sure that there is a label column of this name.

        Raises:
            UsageError: there is none.
        """
        if label in self.unfit:
            raise UsageError(
                f"{where}: column {label!r} is no label: it holds {self.unfit[label]}; labels are "
                "text, whole numbers, booleans or categories, one a row"
            )
        if label not in self.names:
            there = ", ".join(self.names) or "none"
            raise UsageError(f"{where}: no label column {label!r}; label columns there: {there}")


def open_shards(paths: list[Path], *, named: bool = True) -> ImageSource:
    """Parquet files with a column of encoded images and one of each label.

    Images are the column ``image``, or the only one of bytes; labels the columns of text, whole
    numbers, booleans and categories.

    Args:
        paths: the files, which have the same columns.
        named: whether the first word of a file's name is the split of its rows, where there is no
            column ``split``.

    Raises:
        UsageError: a file is damaged or lacks a column.
    """
    with opened_parquet(paths[0]) as file:
        schema = file.schema_arrow
    binary = [f.name for f in schema if is_binary(f.type)]
    if "image" not in binary and len(binary) != 1:
        there = ", ".join(schema.names)
        raise UsageError(f"{paths[0]}: no column 'image' of image files; columns there: {there}")
    column = "image" if "image" in binary else str(binary[0])
    others = [f for f in schema if f.name != column and f.name not in NOT_LABELS]
    names = tuple(f.name for f in others if _is_label(f.type))

    def rows() -> Iterator[RawImage]:
        for path in paths:
            split = split_of(re.split(r"[-_.]", path.name)[0]) if named else None
            with opened_parquet(path, (column, *names)) as file:
                yield from _rows(file, path.name, column, names, split)

    unfit = {f.name: _words_for(f.type) for f in others if f.name not in names}
    return ImageSource(names, rows(), unfit)


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded files."""
    if types.is_struct(kind):  # as public hubs store images: {bytes, path}
        return any(f.name == "bytes" and is_binary(f.type) for f in kind)
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_label(kind: pa.DataType) -> bool:
    return any(test(kind.value_type if types.is_dictionary(kind) else kind) for test in LABELS)


def _words_for(kind: pa.DataType) -> str:
    if types.is_nested(kind):
        return "lists" if not types.is_struct(kind) else "groups of fields"
    return f"values of type {kind}"


def _rows(
    file: pq.ParquetFile, name: str, column: str, names: tuple[str, ...], split: str | None
) -> Iterator[RawImage]:
    number = 0
    wanted = [column, *names, *({"split"} & set(file.schema_arrow.names))]
    for part in file.iter_batches(256, columns=wanted):
        for row in part.to_pylist():
            content = row[column]
            content = content["bytes"] if isinstance(content, dict) else content
            place = f"{name} row {number}"
            own = stated_split(row["split"], place) if "split" in row else split
            yield RawImage(own, place, content or b"", tuple(row[label] for label in names))
            number += 1
