"""Tables of csv and tsv, whose separator, quotes and decimal commas are found."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from ldebm.data.columns import Table
from ldebm.errors import UsageError

__all__ = ["PART", "csv_parts", "joined", "parse_csv"]

PART = 1 << 13  # rows of a table that are in memory at a time
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
    return joined(csv_parts(lambda: iter(_stream(text)), where, tabs, None))


def csv_parts(
    lines: Callable[[], Iterator[str]], where: str, tabs: bool, wanted: Collection[str] | None
) -> Iterator[Table]:
    """The columns of a table, some rows at a time; ``lines`` begins it anew."""
    csv.field_size_limit(sys.maxsize)
    separator, first_line = _separator(lines, tabs)
    plain = separator == "\t" and _plain_quotes(lines())

    def tables() -> Iterator[Table]:
        rows = csv.reader(
            itertools.islice(lines(), first_line, None),
            delimiter=separator,
            quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
            strict=True,
        )
        try:
            yield from _cells(rows, where, SEPARATORS.get(separator, separator), wanted)
        except csv.Error as error:
            raise UsageError(
                f"{where}: line {rows.line_num}: cannot be read as {'tsv' if tabs else 'csv'} "
                f'({error}); quotes in a quoted cell have to be doubled ("")'
            ) from None

    if separator == ",":
        yield from tables()
        return
    decimal = _decimal_commas(tables())
    for part in tables():
        yield {
            name: [cell.replace(",", ".") for cell in column] if name in decimal else column
            for name, column in part.items()
        }


def _cells(rows: Any, where: str, mark: str, wanted: Collection[str] | None) -> Iterator[Table]:
    """The columns of what a reader of csv gives; rows without a cell are left out."""
    first: list[str] = next(filter(None, rows), [])
    names = [name.strip() or f"column {i}" for i, name in enumerate(first, 1)]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UsageError(f"{where}: column {double!r} is there twice; rename one")
    if not any(map(str.strip, first)):
        raise UsageError(f"{where}: the first line has no names of columns")
    chosen = [(i, name) for i, name in enumerate(names) if wanted is None or name in wanted]
    columns: list[list[str]] = [[] for _ in chosen]
    line, count = rows.line_num + 1, 0
    for row in rows:
        if len(row) != len(names) and any(map(str.strip, row)):
            cells = f"{len(row)} cell{'s' if len(row) > 1 else ''}"
            raise UsageError(
                f"{where}: line {line} has {cells} and the first line {len(names)} "
                f"({', '.join(names)[:80]}); put cells that hold a {mark} in quotes, or name a "
                "file with one text a line .txt"
            )
        if len(row) == len(names) and (len(row) > 1 or row[0].strip()):
            count += 1
            for column, (index, _) in zip(columns, chosen, strict=True):
                column.append(row[index])
            if count % PART == 0:
                yield {name: column for column, (_, name) in zip(columns, chosen, strict=True)}
                columns = [[] for _ in chosen]
        line = rows.line_num + 1
    if not count:
        raise UsageError(f"{where}: the file has no rows; a data set needs at least one")
    if count % PART:
        yield {name: column for column, (_, name) in zip(columns, chosen, strict=True)}


def _separator(lines: Callable[[], Iterator[str]], tabs: bool) -> tuple[str, int]:
    """The separator, and 1 where the first line states it (``sep=;``), else 0."""
    stated = re.fullmatch(r"sep=(.)(\r\n|\r|\n)", next(lines(), ""))
    if stated:
        return stated[1], 1
    best, chosen = (0.0, 0), "\t" if tabs else ","
    for separator in SEPARATORS:
        rows = csv.reader(lines(), delimiter=separator)
        try:
            sample = [row for row in itertools.islice(rows, SAMPLE) if any(row)]
        except csv.Error:
            continue
        cells = len(sample[0]) if sample else 1
        share = sum(len(row) == cells for row in sample) / max(1, len(sample))
        if cells > 1 and (share, cells) > best:
            best, chosen = (share, cells), separator
    return chosen, 0


def _stream(text: str) -> io.TextIOWrapper:
    """The text to be read by lines; as ``StringIO`` it would take four bytes a character."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")


def _plain_quotes(lines: Iterator[str]) -> bool:
    """Whether quotes are marks like others: in tables with tabs that have every row on a line."""
    widths, plain = set(), False
    for line in lines:
        if text := line.rstrip("\r\n"):
            cells = text.split("\t")
            widths.add(len(cells))
            plain |= any(cell.startswith('"') and not QUOTED.fullmatch(cell) for cell in cells)
    return plain and len(widths) == 1


def _decimal_commas(parts: Iterator[Table]) -> set[str]:
    """The columns that hold nothing but numbers, some of them with a decimal comma."""
    commas: set[str] = set()
    others: set[str] = set()
    for part in parts:
        for name, column in part.items():
            if name not in others:
                there = [cell.strip() for cell in column if cell.strip()]
                if not all(map(DECIMAL_COMMA.fullmatch, there)):
                    others.add(name)
                elif any("," in cell for cell in there):
                    commas.add(name)
    return commas - others


def joined(parts: Iterable[Table]) -> Table:
    """Parts of a table as one; what a part lacks is None."""
    table: Table = {}
    rows = 0
    for part in parts:
        more = max(map(len, part.values()), default=0)
        for name in (*table, *part):
            column = table.setdefault(name, [None] * rows)
            if len(column) == rows:
                column += part.get(name, [None] * more)
        rows += more
    return table
