"""Names the first place where two files or folders differ, in the terms of their format.

safetensors: the tensor and its index; parquet: the column and row; JSON: the key; CSV: the cell;
arrays: the index; text: the line; anything else: the byte. Only called for files whose bytes
differ: a format that finds nothing to say falls back to the byte.
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Difference", "first_difference"]

_CHUNK = 1 << 20
_LONGEST = 80  # characters of a value that are shown
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The first difference of two files.

    Attributes:
        file: name below the compared folder; empty for a file itself.
        where: the tensor, cell, key, line or byte.
        expected: the value in the first file, as text.
        actual: the value in the second.
        more: how much else differs, where that is known.
    """

    file: str
    where: str
    expected: str
    actual: str
    more: str = ""

    def __str__(self) -> str:
        place = ": ".join(filter(None, [self.file, self.where]))
        extra = f" ({self.more})" if self.more else ""
        return f"{place}: {self.expected} -> {self.actual}{extra}"

    def to_json(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)


def first_difference(expected: Path, actual: Path) -> Difference | None:
    """Compares two files or folders byte for byte, and names the first difference.

    Returns:
        None if all bytes are the same.
    """
    if not expected.is_dir() and not actual.is_dir():
        return _of_files("", expected, actual)
    if not (expected.is_dir() and actual.is_dir()):
        kinds = ["a folder" if path.is_dir() else "a file" for path in (expected, actual)]
        return Difference("", "kind", *kinds)
    names = sorted({*_names(expected), *_names(actual)})
    for name in names:
        there = [(folder / name).is_file() for folder in (expected, actual)]
        if not all(there):
            return Difference(
                name, "file", *("present" if is_there else "missing" for is_there in there)
            )
        different = _of_files(name, expected / name, actual / name)
        if different is not None:
            return different
    return None


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _of_files(name: str, expected: Path, actual: Path) -> Difference | None:
    byte = _first_byte(expected, actual)
    if byte is None:
        return None
    kind = Path(name or expected.name).suffix
    readers: dict[str, Callable[[Path, Path], tuple[str, ...] | None]] = {
        ".safetensors": _tensors,
        ".parquet": _parquet,
        ".json": _json,
        ".jsonl": _lines,
        ".csv": _csv,
        ".npy": _arrays,
    }
    try:
        place = readers.get(kind, _lines)(expected, actual)
    except (ValueError, KeyError, OSError, struct.error, pa.ArrowException):
        place = None  # damaged, or not of the kind that its name says
    if place is None:
        sizes = [f"{path.stat().st_size} bytes" for path in (expected, actual)]
        values = [_byte(path, byte) for path in (expected, actual)]
        note = f"sizes {sizes[0]} and {sizes[1]}" if sizes[0] != sizes[1] else ""
        place = (f"byte {byte}", *values, note)
    return Difference(name, *place)


def _first_byte(expected: Path, actual: Path) -> int | None:
    at = 0
    with expected.open("rb") as one, actual.open("rb") as other:
        while True:
            left, right = one.read(_CHUNK), other.read(_CHUNK)
            if left != right:
                common = min(len(left), len(right))
                same = np.frombuffer(left[:common], np.uint8) == np.frombuffer(
                    right[:common], np.uint8
                )
                return at + (common if bool(same.all()) else int(np.argmin(same)))
            if not left:
                return None
            at += len(left)


def _byte(path: Path, at: int) -> str:
    with path.open("rb") as stream:
        stream.seek(at)
        value = stream.read(1)
    return f"0x{value.hex()}" if value else "end of file"


def _texts(left: Any, right: Any) -> tuple[str, str]:
    """Two values as text: of long ones what surrounds the first difference."""
    texts = [
        "missing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
        for value in (left, right)
    ]
    if max(map(len, texts)) <= _LONGEST:
        return texts[0], texts[1]
    same = zip(*texts, strict=False)
    at = next((i for i, (one, other) in enumerate(same) if one != other), min(map(len, texts)))
    start = max(0, at - _LONGEST // 3)
    before = "..." if start else ""
    one, other = (
        before + text[start : start + _LONGEST] + ("..." if len(text) > start + _LONGEST else "")
        for text in texts
    )
    return one, other


def _tensors(expected: Path, actual: Path) -> tuple[str, ...] | None:
    (one, data), (other, other_data) = _safetensors(expected), _safetensors(actual)
    header = _first_key("header", one.pop("__metadata__", {}), other.pop("__metadata__", {}))
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            there = ["present" if name in side else "missing" for side in (one, other)]
            return (f"tensor {name}", *there)
        for key in ("dtype", "shape"):
            if one[name][key] != other[name][key]:
                return (f"tensor {name}, {key}", str(one[name][key]), str(other[name][key]))
        left, right = _tensor(one[name], data), _tensor(other[name], other_data)
        place = _first_element(f"tensor {name}", left, right)
        if place is not None:
            return place
    return header


def _safetensors(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > path.stat().st_size:
            raise ValueError("not safetensors")
        header = json.loads(stream.read(size))
    return header, np.memmap(path, np.uint8, "r", offset=8 + size)


def _tensor(entry: Mapping[str, Any], data: np.ndarray) -> np.ndarray:
    begin, end = entry["data_offsets"]
    raw = np.asarray(data[begin:end])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        wide = raw.view("<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(entry["shape"])
    return raw.view(_DTYPES.get(entry["dtype"], "u1")).reshape(
        entry["shape"] if entry["dtype"] in _DTYPES else -1
    )


def _first_element(name: str, left: np.ndarray, right: np.ndarray) -> tuple[str, ...] | None:
    """The first differing element by its bits: NaN equals NaN, and -0 differs from 0."""
    width = left.dtype.itemsize
    bits = [
        np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(-1, width) for a in (left, right)
    ]
    differs = (bits[0] != bits[1]).any(axis=1)
    if not differs.any():
        return None
    first = int(np.argmax(differs))
    index = "".join(f"[{int(i)}]" for i in np.unravel_index(first, left.shape)) if left.ndim else ""
    values = [repr(a.reshape(-1)[first].item()) for a in (left, right)]
    more = f"{int(differs.sum())} of {differs.size} values differ"
    if left.dtype.kind in "fiu":
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.abs(left.astype(np.float64) - right.astype(np.float64))
        more += f", by {np.nanmax(gaps) if np.isfinite(gaps).any() else np.nan:.6g} at most"
    return (f"{name}{index}", *values, more)


def _arrays(expected: Path, actual: Path) -> tuple[str, ...] | None:
    left, right = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (expected, actual))
    for key in ("dtype", "shape"):
        if getattr(left, key) != getattr(right, key):
            return (f"array, {key}", str(getattr(left, key)), str(getattr(right, key)))
    return _first_element("array", np.asarray(left), np.asarray(right))


def _parquet(expected: Path, actual: Path) -> tuple[str, ...] | None:
    left, right = pq.read_table(expected), pq.read_table(actual)
    for index, (one, other) in enumerate(zip_longest(left.schema, right.schema)):
        if one is None or other is None or not one.equals(other):
            return (f"column {index}", *_texts(one and str(one), other and str(other)))
    if left.num_rows != right.num_rows:
        return ("rows", str(left.num_rows), str(right.num_rows))
    for name in left.column_names:
        if left.column(name).equals(right.column(name)):
            continue
        one, other = left.column(name).to_pylist(), right.column(name).to_pylist()
        # NaN is not equal to itself: compare as text, which also has every digit of a float.
        rows = [
            i
            for i, pair in enumerate(zip(one, other, strict=True))
            if repr(pair[0]) != repr(pair[1])
        ]
        if rows:
            more = f"{len(rows)} of {left.num_rows} rows differ in this column"
            return (
                f"column {name}, row {rows[0]}",
                *_texts(one[rows[0]], other[rows[0]]),
                more,
            )
    return None


def _json(expected: Path, actual: Path) -> tuple[str, ...] | None:
    left, right = (json.loads(path.read_text(encoding="utf-8")) for path in (expected, actual))
    return _first_key("key", left, right)


def _first_key(name: str, left: Any, right: Any, path: str = "") -> tuple[str, ...] | None:
    if isinstance(left, dict) and isinstance(right, dict):
        pairs = [
            (f"{path}.{key}", left.get(key), right.get(key)) for key in sorted({*left, *right})
        ]
    elif isinstance(left, list) and isinstance(right, list):
        both = enumerate(zip_longest(left, right))
        pairs = [(f"{path}[{index}]", one, other) for index, (one, other) in both]
    elif isinstance(left, str) and isinstance(right, str) and left[:1] == right[:1] == "{":
        try:  # JSON in JSON: the header of our safetensors
            return _first_key(name, json.loads(left), json.loads(right), path)
        except ValueError:
            pairs = [(path, left, right)]
    else:
        pairs = []
        if left != right or type(left) is not type(right):
            return (f"{name} {path.lstrip('.')}", *_texts(left, right))
    for place, one, other in pairs:
        if (one is None or other is None) and one is not other:
            return (f"{name} {place.lstrip('.')}", *_texts(one, other))
        difference = _first_key(name, one, other, place)
        if difference is not None:
            return difference
    return None


def _csv(expected: Path, actual: Path) -> tuple[str, ...] | None:
    with (
        expected.open(encoding="utf-8", newline="") as a,
        actual.open(encoding="utf-8", newline="") as b,
    ):
        left, right = list(csv.reader(a)), list(csv.reader(b))
    header = left[0] if left else []
    for row, (one, other) in enumerate(zip_longest(left, right)):
        if one is None or other is None:
            return (f"row {row}", *_texts(one, other))
        for column, (cell, other_cell) in enumerate(zip_longest(one, other)):
            if cell != other_cell:
                name = header[column] if column < len(header) else str(column)
                place = f"header, column {column}" if row == 0 else f"row {row}, column {name}"
                return (place, *_texts(cell, other_cell))
    return None


def _lines(expected: Path, actual: Path) -> tuple[str, ...] | None:
    left, right = (path.read_text(encoding="utf-8").splitlines() for path in (expected, actual))
    for number, (one, other) in enumerate(zip_longest(left, right), start=1):
        if one != other:
            return (f"line {number}", *_texts(one, other))
    return None
