"""Tables of separated values: the separator is found from the header and the rows below it.

Python's own reader does the work, in its strict mode: what is not a well-formed table is refused
with its line. Cells may be quoted and then hold separators and line ends.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys

from ldebm.errors import UsageError

__all__ = ["parse_csv"]

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
SAMPLE = 200  # rows from which the separator is found
QUOTED = re.compile(r'"([^"]|"")*"', re.DOTALL)
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?|[-+]?\d+")


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
    source = _stream(text)
    if _plain_quotes(text, separator):
        rows = csv.reader(source, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    else:
        rows = csv.reader(source, delimiter=separator, strict=True)
    try:
        names = _names(next(row for row in rows if row), where)
        columns: list[list[str]] = [[] for _ in names]
        line = rows.line_num + 1
        for row in rows:
            if len(row) != len(names) and any(cell.strip() for cell in row):
                raise UsageError(_ragged(names, row, separator, f"{where}: line {line}"))
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
    rows = [line.split("\t") for line in re.split(r"\r\n|\r|\n", text) if line]
    opened = [cell for row in rows for cell in row if cell.startswith('"')]
    plain = any(not QUOTED.fullmatch(cell) for cell in opened)
    return plain and len({len(row) for row in rows}) == 1


def _names(row: list[str], where: str) -> list[str]:
    names = [name.strip() or f"column {i}" for i, name in enumerate(row, 1)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}: column {name!r} is there twice; rename one")
    if not any(name.strip() for name in row):
        raise UsageError(f"{where}: the first line has no names of columns")
    return names


def _ragged(names: list[str], row: list[str], separator: str, place: str) -> str:
    number = f"{len(row)} cell{'s' if len(row) > 1 else ''}"
    return (
        f"{place} has {number} and the first line {len(names)} ({', '.join(names)[:80]}); put "
        f"cells that hold a {SEPARATORS.get(separator, separator)} in quotes, or name a file with "
        "one text a line .txt"
    )


def _with_points(column: list[str]) -> list[str]:
    """A column of numbers with a decimal comma as numbers; any other as it is."""
    if not any("," in cell for cell in column):
        return column
    if not all(DECIMAL_COMMA.fullmatch(cell.strip()) for cell in column if cell.strip()):
        return column
    return [cell.replace(",", ".") for cell in column]
