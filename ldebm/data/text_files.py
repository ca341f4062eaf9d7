"""A user's and the sources' files of text: decoded, in lines, as JSON, or as tables.

This is the one reader of every command and stage. It needs nothing beyond the core of the project,
so that a machine that only uses models reads files as the pipeline does. A file that it cannot read
is refused with its name, the line, and what to do.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

from ldebm.data.columns import Table
from ldebm.errors import UsageError
from ldebm.files import opened_parquet

__all__ = ["FORMATS", "decode", "existing", "file_format", "parse_csv", "read_json_file",
           "read_lines", "read_table", "split_lines"]  # fmt: skip

LINES = ("", ".txt", ".text")  # one text a line
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
KNOWN = (*LINES, *FORMATS, ".ndjson")
MARKS = {  # byte order marks, the longer first
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip
LINE_END = re.compile(r"\r\n|\r|\n")
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
SAMPLE = 200  # rows from which the separator is found
QUOTED = re.compile(r'"([^"]|"")*"', re.DOTALL)
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?|[-+]?\d+")


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
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
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
    return split_lines(decode(_bytes(path), str(path)))


def _bytes(path: Path) -> bytes:
    data = existing(path).read_bytes()
    if path.suffix.lower() != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read as gz ({error})") from None


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
    form = file_format(path)
    if form is None:
        raise UsageError(
            f"{path}: format {path.suffix.lower()!r}; expected {', '.join(FORMATS)}, or lines of "
            "text without an ending"
        )
    if form == ".txt":
        return {"text": list(read_lines(path))}
    if form == ".parquet":
        table = _parquet(existing(path))
    else:
        text = decode(_bytes(path), str(path))
        if form in (".csv", ".tsv"):
            return parse_csv(text, str(path), tabs=form == ".tsv")
        table = _json(text, str(path))
    if not any(table.values()):
        raise UsageError(f"{path}: the file has no rows; a data set needs at least one")
    return table


def _parquet(path: Path) -> Table:
    if path.stat().st_size == 0:
        raise UsageError(f"{path}: the file is empty; a data set needs at least one row")
    with opened_parquet(path) as file:
        names = file.schema_arrow.names
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise UsageError(f"{path}: column {double!r} is there twice; rename one")
        table = file.read()
    return {name: table.column(name).to_pylist() for name in names}


def _json(text: str, where: str) -> Table:
    """Objects, a line each or as one list; columns in the order in which they are first there."""
    listed = text.lstrip().startswith("[")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate([text] if listed else split_lines(text), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            at = error.lineno if listed and isinstance(error, json.JSONDecodeError) else number
            reason = " ".join(str(error).split(" at ")[0].split(":")[0].split())[:100]
            raise UsageError(
                f"{where}: line {at}: cannot be read as {'json' if listed else 'jsonl'} "
                f"({reason}); expected an object a line, or one list of objects"
            ) from None
        for entry, row in enumerate(value if listed else [value], 1):
            if not isinstance(row, dict):
                place = f"entry {entry}" if listed else f"line {number}"
                raise UsageError(
                    f"{where}: {place} is {json.dumps(row)[:40]}; expected an object such as "
                    '{"text": "..."}'
                )
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def parse_csv(text: str, where: str, *, tabs: bool = False) -> dict[str, list[str]]:
    """The columns of a table with one line of names.

    Numbers with a decimal comma, where commas do not separate, get a point.

    Args:
        text: the table.
        where: the file, for messages.
        tabs: whether the name of the file says that tabs separate.

    Raises:
        UsageError: names are missing or there twice, a row has more or fewer cells, quotes do not
            match, or there is no row.

    Example:
        >>> parse_csv("text;x\\n'a, b';1,5\\n", "a.csv")
        {'text': ["'a, b'"], 'x': ['1.5']}
    """
    csv.field_size_limit(sys.maxsize)
    separator, text = _separator(text, tabs)
    plain = _plain_quotes(text, separator)
    rows = csv.reader(
        _stream(text),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        first = next(row for row in rows if row)
        names = [name.strip() or f"column {i}" for i, name in enumerate(first, 1)]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise UsageError(f"{where}: column {double!r} is there twice; rename one")
        if not any(map(str.strip, first)):
            raise UsageError(f"{where}: the first line has no names of columns")
        columns: list[list[str]] = [[] for _ in names]
        line = rows.line_num + 1
        for row in rows:
            if len(row) != len(names) and any(map(str.strip, row)):
                cells = f"{len(row)} cell{'s' if len(row) > 1 else ''}"
                mark = SEPARATORS.get(separator, separator)
                raise UsageError(
                    f"{where}: line {line} has {cells} and the first line {len(names)} "
                    f"({', '.join(names)[:80]}); put cells that hold a {mark} in quotes, or name a "
                    "file with one text a line .txt"
                )
            if len(row) == len(names) and (len(row) > 1 or row[0].strip()):
                for column, cell in zip(columns, row, strict=True):
                    column.append(cell)
            line = rows.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"{where}: line {rows.line_num}: cannot be read as {'tsv' if tabs else 'csv'} "
            f'({error}); quotes in a quoted cell have to be doubled ("")'
        ) from None
    if not columns[0]:
        raise UsageError(f"{where}: the file has no rows; a data set needs at least one")
    if separator != ",":
        columns = [_with_points(column) for column in columns]
    return dict(zip(names, columns, strict=True))


def _separator(text: str, tabs: bool) -> tuple[str, str]:
    """The separator, and the text without a first line that states it (``sep=;``)."""
    stated = re.match(r"sep=(.)(\r\n|\r|\n)", text)
    if stated:
        return stated[1], text[stated.end() :]
    best, chosen = (0.0, 0), "\t" if tabs else ","
    for separator in SEPARATORS:
        rows = csv.reader(_stream(text), delimiter=separator)
        try:
            sample = [row for row in itertools.islice(rows, SAMPLE) if any(row)]
        except csv.Error:
            continue
        cells = len(sample[0]) if sample else 1
        share = sum(len(row) == cells for row in sample) / max(1, len(sample))
        if cells > 1 and (share, cells) > best:
            best, chosen = (share, cells), separator
    return chosen, text


def _stream(text: str) -> io.TextIOWrapper:
    """The text to be read by lines; as ``StringIO`` it would take four bytes a character."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")


def _plain_quotes(text: str, separator: str) -> bool:
    """Whether quotes are marks like others: in tables with tabs that have every row on a line."""
    if separator != "\t" or '"' not in text:
        return False
    rows = [line.split("\t") for line in LINE_END.split(text) if line]
    opened = [cell for row in rows for cell in row if cell.startswith('"')]
    plain = any(not QUOTED.fullmatch(cell) for cell in opened)
    return plain and len({len(row) for row in rows}) == 1


def _with_points(column: list[str]) -> list[str]:
    """A column of numbers with a decimal comma as numbers; any other as it is."""
    there = [cell.strip() for cell in column if cell.strip()]
    numbers = any("," in cell for cell in there) and all(map(DECIMAL_COMMA.fullmatch, there))
    return [cell.replace(",", ".") for cell in column] if numbers else column
