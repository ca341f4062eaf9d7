"""A user's and the sources' files of text: decoded, in lines, as JSON, or as tables.

This is the one reader of every command and stage. It needs nothing beyond the core of the project,
so that a machine that only uses models reads files as the pipeline does. A file that it cannot read
is refused with its name, the line, and what to do.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldebm.data.columns import Table
from ldebm.data.csv_tables import PART, csv_parts, joined
from ldebm.errors import UsageError
from ldebm.files import opened_parquet

__all__ = ["FORMATS", "decode", "existing", "file_format", "read_json_file",
           "read_lines", "read_parts", "read_table", "split_lines"]  # fmt: skip

LINES = ("", ".txt", ".text")  # one text a line
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
KNOWN = (*LINES, *FORMATS, ".ndjson")
MARKS = {  # byte order marks, the longer first
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip
LINE_END = re.compile(r"\r\n|\r|\n")


def existing(path: Path) -> Path:
    """The path of a fetched file.

    Raises:
        UsageError: it is not there.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; fetch it first (`dvc repro`)")
    return path


def file_format(path: Path) -> str | None:
    """The format that a file's name tells, without ``.gz``; None where it is read as none.

    Example:
        >>> file_format(Path("a.CSV.gz")), file_format(Path("notes")), file_format(Path("a.xlsx"))
        ('.csv', '.txt', None)
    """
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    suffix = name.suffix.lower()
    if suffix not in KNOWN:
        return None
    return ".txt" if suffix in LINES else ".jsonl" if suffix == ".ndjson" else suffix


def decode(data: bytes, where: str) -> str:
    """The text of a file: UTF-8, or what its byte order mark says.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        UsageError: it is empty, in another encoding or no text; the message has the line.
    """
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise UsageError(_undecoded(data, error, where)) from None
    if not text.strip():
        raise UsageError(f"{where}: the file is empty; a data set needs at least one row")
    if "\0" in text:
        line = len(LINE_END.findall(text[: text.index("\0")])) + 1
        raise UsageError(
            f"{where}: line {line} has a NUL byte; expected text: is it another format, or UTF-16 "
            "without a byte order mark? Save it as UTF-8"
        )
    return text


def _encoding(data: bytes) -> str:
    return next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")


def _undecoded(data: bytes, error: UnicodeDecodeError, where: str) -> str:
    name = error.encoding.upper()
    if not name.startswith("UTF-8"):
        return f"{where}: damaged {name} text at byte {error.start}; save it as UTF-8"
    start = max(data.rfind(b"\n", 0, error.start), data.rfind(b"\r", 0, error.start)) + 1
    line = len(LINE_END.findall(data[: error.start].decode("latin-1"))) + 1
    shown = data[max(start, error.start - 20) : error.start + 12].splitlines()[0]
    said = shown.decode("cp1252", errors="replace").strip()
    return (
        f"{where}: line {line} is not UTF-8 text (byte 0x{data[error.start]:02x}); convert the "
        f"file to UTF-8: where {said!r} is right, with `iconv -f WINDOWS-1252 -t UTF-8`"
    )


def split_lines(text: str) -> list[str]:
    """The lines of a text, which end with LF, CR LF or CR, and with nothing else.

    Example:
        >>> split_lines("a\\r\\nb\\rc\\u2028d\\n")
        ['a', 'b', 'c\\u2028d']
    """
    lines = LINE_END.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without line ends.

    Raises:
        UsageError: it is missing, empty or not UTF-8; the message has the line.
    """
    return [line.removesuffix("\n") for line in _lines(path)]


def _bytes(path: Path) -> bytes:
    with _unzipped(path) as stream:
        return stream.read()


@contextmanager
def _unzipped(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    if path.suffix.lower() != ".gz":
        with existing(path).open("rb") as stream:
            yield stream
        return
    try:
        with gzip.open(existing(path)) as unzipped:
            yield unzipped
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read as gz ({error})") from None


def _lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a file with their ends, of which few are in memory; refuses as :func:`decode`.

    Args:
        path: the file.
        newline: None: every line ends with LF; "": as it is in the file.
    """
    with _unzipped(path) as stream:
        lines = io.TextIOWrapper(stream, _encoding(stream.peek(4)[:4]), newline=newline)
        blank: list[str] | None = []  # lines before the first text
        try:
            for line in lines:
                if blank is not None:
                    blank.append(line)
                    if not line.strip():
                        continue
                    yield from blank
                    blank = None
                elif "\0" in line:
                    break
                else:
                    yield line
            else:
                if blank is None:
                    return
        except UnicodeDecodeError:
            pass
    decode(_bytes(path), str(path))  # which says what is wrong, and where


def read_json_file(path: Path) -> Any:
    """What a JSON file, which may be gzipped, holds.

    Raises:
        UsageError: it is missing, damaged or not JSON.
    """
    try:
        return json.loads(_bytes(path))
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: cannot be read as JSON ({reason})") from None


def read_table(path: Path) -> Table:
    """Reads a file of lines, or a csv, tsv, jsonl, json or parquet table; all but that may be gz.

    Columns of csv are text; empty cells are empty. Lines are the column ``text``.

    Raises:
        UsageError: the format is not one of these, or the file cannot be read as that.
    """
    return joined(read_parts(path))


def read_parts(path: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """:func:`read_table`, of which :data:`PART` rows are in memory at a time.

    A json file that is one list is read as a whole.

    Args:
        path: the file.
        wanted: the columns to read; None: all. Parts of json have those that are in one of their
            rows, and what is missing there is None.
    """
    form = file_format(path)
    if form is None:
        raise UsageError(
            f"{path}: format {path.suffix.lower()!r}; expected {', '.join(FORMATS)}, or lines of "
            "text without an ending"
        )
    if form == ".txt":
        lines = (line.removesuffix("\n") for line in _lines(path))
        yield from ({"text": part} for part in _parts(lines))
    elif form in (".csv", ".tsv"):
        yield from csv_parts(lambda: _lines(path, ""), str(path), form == ".tsv", wanted)
    else:
        rows = 0
        for part in (_parquet if form == ".parquet" else _json)(path, wanted):
            rows += max(map(len, part.values()), default=0)
            yield part
        if not rows:
            raise UsageError(f"{path}: the file has no rows; a data set needs at least one")


def _parts(values: Iterator[Any]) -> Iterator[list[Any]]:
    while part := list(itertools.islice(values, PART)):
        yield part


def _parquet(path: Path, wanted: Collection[str] | None) -> Iterator[Table]:
    if existing(path).stat().st_size == 0:
        raise UsageError(f"{path}: the file is empty; a data set needs at least one row")
    with opened_parquet(path) as file:
        names = file.schema_arrow.names
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise UsageError(f"{path}: column {double!r} is there twice; rename one")
        names = [name for name in names if wanted is None or name in wanted]
        for part in file.iter_batches(PART, columns=names):
            yield {name: part.column(name).to_pylist() for name in names}


def _json(path: Path, wanted: Collection[str] | None) -> Iterator[Table]:
    """Objects, a line each or as one list; columns in the order in which they are first there."""
    where = str(path)
    if next(filter(str.strip, _lines(path))).lstrip().startswith("["):
        rows = _loaded(decode(_bytes(path), where), where, 1, listed=True)
        parts: Iterable[list[Any]] = [[_object(row, f"{where}: entry {i}")
                                       for i, row in enumerate(rows, 1)]]  # fmt: skip
    else:
        numbered = ((i, line) for i, line in enumerate(_lines(path), 1) if line.strip())
        parts = _parts(
            _object(_loaded(line, where, i, listed=False), f"{where}: line {i}")
            for i, line in numbered
        )
    for part in parts:
        names = dict.fromkeys(name for row in part for name in row)
        names = {name: None for name in names if wanted is None or name in wanted}
        yield {name: [row.get(name) for row in part] for name in names}


def _loaded(text: str, where: str, line: int, *, listed: bool) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        at = error.lineno if listed and isinstance(error, json.JSONDecodeError) else line
        reason = " ".join(str(error).split(" at ")[0].split(":")[0].split())[:100]
        raise UsageError(
            f"{where}: line {at}: cannot be read as {'json' if listed else 'jsonl'} "
            f"({reason}); expected an object a line, or one list of objects"
        ) from None


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UsageError(
            f'{place} is {json.dumps(row)[:40]}; expected an object such as {{"text": "..."}}'
        )
    return row
