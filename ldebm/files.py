"""Reading and writing files: atomic, and with the same bytes for the same content.

DVC hashes bytes, so every writer here is byte-stable: JSON with sorted keys,
safetensors with a single metadata key, parquet with fixed compression and row groups. A writer
either leaves the complete new file or the old one: it writes beside the target and renames.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ldebm.errors import REBUILD, UsageError

if TYPE_CHECKING:
    import torch

__all__ = [
    "atomic_path",
    "growing_array",
    "hash_json",
    "hash_path",
    "json_text",
    "opened_parquet",
    "parquet_facts",
    "parquet_parts",
    "read_json",
    "read_model",
    "read_parquet",
    "write_array",
    "write_csv",
    "write_json",
    "write_model",
    "write_parquet",
    "write_text",
]

PARQUET_PART = 8192  # rows


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``target`` that replaces it when the block succeeds.

    As when a file is opened to be written, a symbolic link stays one and what it leads to is
    replaced, an old file keeps its mode, and a new one gets that of the umask. Links to files that
    may not be written, those of DVC's cache, are replaced themselves.
    """
    target = Path(target)
    mode = _mode(target)
    if target.is_symlink() and (mode is None or mode & stat.S_IWUSR):
        target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    kept = mode if mode is not None and mode & stat.S_IWUSR else temporary.stat().st_mode
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(stat.S_IMODE(kept))  # safetensors makes its files private
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _mode(path: Path) -> int | None:
    """The mode of a file; None where there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def write_text(target: str | Path, text: str) -> None:
    """Writes UTF-8 text."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: str | Path, content: Any) -> None:
    """Writes JSON with sorted keys; non-finite numbers become null, since JSON has none."""
    write_text(target, json_text(content))


def json_text(content: Any) -> str:
    """What :func:`write_json` writes.

    Example:
        >>> json_text({"b": 1, "a": float("nan")})
        '{\\n "a": null,\\n "b": 1\\n}\\n'
    """
    return json.dumps(_jsonable(content), indent=1, sort_keys=True) + "\n"


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        UsageError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; build it first (`dvc repro`)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid JSON ({error}); {REBUILD}") from None


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    if hasattr(value, "tolist"):  # arrays and tensors
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def hash_json(content: Any) -> str:
    """The sha256 of the canonical JSON of ``content``.

    Example:
        >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
        True
    """
    text = json.dumps(_jsonable(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: str | Path) -> str:
    """The sha256 of a file, or of the sorted (name, sha256) list of a folder's files."""
    path = Path(path)
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return hash_json([[item.relative_to(path).as_posix(), hash_path(item)] for item in files])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_array(target: str | Path, array: np.ndarray) -> None:
    """Writes a ``.npy`` file, which readers map into memory."""
    with atomic_path(target) as path, path.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


@contextmanager
def growing_array(target: str | Path, dtype: Any) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields what appends values to an array (N), which is written as by :func:`write_array`."""
    facts = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    count = 0
    with atomic_path(target) as path, path.open("wb") as stream:

        def header() -> None:  # numpy leaves room in it for a larger number
            stream.seek(0)
            np.lib.format.write_array_header_1_0(stream, {**facts, "shape": (count,)})

        def append(values: np.ndarray) -> None:
            nonlocal count
            count += len(values)
            stream.write(np.ascontiguousarray(values, dtype).data)

        header()
        yield append
        header()


def write_csv(target: str | Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a CSV table (curves that DVC plots)."""
    with atomic_path(target) as path, path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_parquet(target: str | Path, columns: Mapping[str, Any]) -> None:
    """Writes columns (arrays or lists; 2-D arrays become fixed-size lists) as parquet."""
    fields = {}
    for name, values in columns.items():
        array = np.asarray(values) if not isinstance(values, list) else values
        if isinstance(array, np.ndarray) and array.ndim == 2:
            flat = _arrow(np.ascontiguousarray(array).reshape(-1))
            fields[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
        else:
            fields[name] = _arrow(array)
    with atomic_path(target) as path:
        pq.write_table(pa.table(fields), path, compression="zstd", row_group_size=65536)


def _arrow(values: np.ndarray | list[Any]) -> pa.Array:
    """What :func:`pyarrow.array` makes of values: that imports pandas, which is slow."""
    types = {type(value) for value in values} if isinstance(values, list) else set()
    if types == {str}:
        texts = [value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)])
        if ends[-1] < 1 << 31:
            data = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(texts))]
            return pa.Array.from_buffers(pa.string(), len(texts), data)
    array = np.asarray(values) if types in ({int}, {float}) else values
    if isinstance(array, np.ndarray) and array.dtype.kind in "if":
        data = [None, pa.py_buffer(np.ascontiguousarray(array))]
        return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), data)
    return pa.array(values)


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Reads parquet columns: numbers as numpy arrays (lists of fixed size as 2-D), text as lists.

    Raises:
        UsageError: the file is missing or damaged, or a column is not in it.
    """
    with opened_parquet(path, columns or ()) as file:
        return _columns(file.read(columns=list(columns) if columns else None))


def parquet_facts(path: str | Path) -> tuple[int, list[str]]:
    """Rows and names of the columns of a parquet file, of which no row is read.

    Raises:
        UsageError: the file is missing or damaged.
    """
    with opened_parquet(path) as file:
        return file.metadata.num_rows, file.schema_arrow.names


def parquet_parts(path: str | Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """:func:`read_parquet` of some thousand rows at a time, so that memory does not grow with them.

    Raises:
        UsageError: the file is missing or damaged, or a column is not in it.
    """
    with opened_parquet(path, columns) as file:
        for part in file.iter_batches(PARQUET_PART, columns=list(columns)):
            yield _columns(pa.Table.from_batches([part]))


@contextmanager
def opened_parquet(path: str | Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A parquet file, not as a data set of pyarrow, which would import pandas.

    Raises:
        UsageError: the file is missing or damaged, or a column is not in it.
    """
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            missing = [name for name in columns if name not in there]
            if missing:
                raise pa.ArrowKeyError(f"no column {missing[0]!r}; there are {', '.join(there)}")
            yield file
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; build it first (`dvc repro`)") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: cannot be read as parquet ({reason})") from None


def _columns(table: pa.Table) -> dict[str, Any]:
    """The columns of a table as :func:`read_parquet` gives them."""
    result: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        kind = column.type
        if pa.types.is_fixed_size_list(kind):
            result[name] = _numpy(column.flatten()).reshape(-1, kind.list_size)
        elif (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
        ):
            result[name] = column.to_pylist()
        else:
            result[name] = _numpy(column)
    return result


def _numpy(array: pa.Array) -> np.ndarray:
    """Numbers without a copy where none is missing; pyarrow's own way would import pandas."""
    if array.null_count or not pa.types.is_primitive(array.type) or pa.types.is_boolean(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    return np.from_dlpack(array)


def write_model(
    target: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Writes tensors as safetensors with ``header`` as one sorted JSON metadata key."""
    from safetensors.torch import save_file  # imports torch, which the data stages do without

    stored = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    metadata = {"ldebm": json.dumps(_jsonable(header), sort_keys=True)}
    with atomic_path(target) as path:
        save_file(stored, str(path), metadata=metadata)


def read_model(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads what :func:`write_model` wrote.

    Raises:
        UsageError: the file is missing or damaged, or is not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such model; build it first (`dvc repro`)")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return tensors, json.loads(metadata["ldebm"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{path}: not a readable ldebm model ({type(error).__name__}: {error}); {REBUILD}"
        ) from None
