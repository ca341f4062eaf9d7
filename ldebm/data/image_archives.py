"""Images in a zip, which is also what a user's folder becomes: splits and classes by folders.

[...][train|valid|test/][class/]name.png        and, where wanted, labels.csv
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ldebm.data.columns import split_of, stated_split
from ldebm.data.csv_tables import parse_csv
from ldebm.data.folders import EXTENSIONS, LABELS_FILE, is_image, parts_of
from ldebm.data.image_files import FILE_COLUMNS, NOT_LABELS, ImageSource, RawImage
from ldebm.data.text_files import decode
from ldebm.errors import UsageError

__all__ = ["open_zip"]

STRAY = "outside the folders of classes"


Entries = dict[str, RawImage]  # by name, without the content


def open_zip(path: Path) -> ImageSource:
    """The images of a zip: folders are splits and classes, unless it holds ``labels.csv``.

    That table has a column ``image`` (of names as in the archive, or of files alone), one of each
    label, and where wanted ``split``; without it folders are the splits.

    Raises:
        UsageError: the archive is damaged or holds no image, or the labels do not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(m for m in archive.namelist() if is_image(m))
            tables = [m for m in archive.namelist() if parts_of(m)[-1:] == (LABELS_FILE,)]
            table = archive.read(min(tables, key=len)) if tables else None
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"{path}: damaged archive ({error})") from None
    if not members:
        raise UsageError(f"{path}: no image in it; expected files of {', '.join(EXTENSIONS)}")
    names, entries = _folders(members)
    note = ""
    if table is not None:
        names, entries, note = _labelled(table, entries, f"{path}: {LABELS_FILE}")

    def rows() -> Iterator[RawImage]:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                try:
                    content = archive.read(member)
                except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
                    content = b""  # damaged within a sound archive: rejected as an image
                yield dataclasses.replace(entries[member], content=content)

    return ImageSource(names, rows(), notes=(note,) if note else ())


def _folders(members: list[str]) -> tuple[tuple[str, ...], Entries]:
    """Splits and classes by folders.

    Splits are the folders that are nearest to the top and named so. Classes are the folders in
    them, else those around them. An image beside such folders is of no split, or of no class, which
    is its fault.
    """
    parts = {member: parts_of(member)[:-1] for member in members}
    splits: dict[str, str | None] = dict.fromkeys(members)
    depth = _split_depth(list(parts.values()))
    if depth is not None:
        for member, folders in parts.items():
            splits[member] = split_of(folders[depth]) if len(folders) > depth else None
            parts[member] = folders[depth + 1 :] or folders[:depth]
    ours = [member for member in members if splits[member] or depth is None]
    while len({parts[member][0] for member in ours if parts[member]}) == 1:
        parts |= {member: parts[member][1:] for member in ours}  # one folder around all
    classes = {member: parts[member][0] if parts[member] else None for member in ours}
    sorted_out = {splits[member] for member, name in classes.items() if name}
    if not sorted_out:
        return (), {member: RawImage(splits[member], member, b"") for member in members}
    entries = {}
    for member in members:
        name, split = classes.get(member), splits[member]
        stray = name is None and member in classes and split in sorted_out
        entries[member] = RawImage(split, member, b"", (name,), STRAY if stray else None)
    return ("class",), entries


def _split_depth(paths: list[tuple[str, ...]]) -> int | None:
    """How deep the folders of splits are; None where there are none.

    One folder ``train`` among others is a class: of vehicles, say.
    """
    for depth in range(max(map(len, paths))):
        names = {folders[depth] for folders in paths if len(folders) > depth}
        splits = {split_of(name) for name in names}
        if len(splits - {None}) > 1 or (splits and None not in splits):
            return depth
    return None


def _labelled(table: bytes, entries: Entries, where: str) -> tuple[tuple[str, ...], Entries, str]:
    """The rows of a labels file by image: its full name in the archive, or its file name."""
    columns = parse_csv(decode(table, where), where)
    key = next((name for name in FILE_COLUMNS if name in columns), None)
    if key is None:
        there = ", ".join(columns) or "none"
        raise UsageError(f"{where} has no column 'image' of file names; columns there: {there}")
    names = tuple(name for name in columns if name not in NOT_LABELS)
    numbers: dict[str, int] = {}
    for number, cell in enumerate(columns[key]):
        name = "/".join(parts_of(cell.strip()))
        if name in numbers:
            raise UsageError(f"{where} has two rows for {name}; leave one")
        numbers[name] = number
    rows = {member: _row_of(member, numbers) for member in entries}
    missing = [member for member, row in rows.items() if row is None]
    if missing:
        raise UsageError(
            f"{where} has no row for {missing[0]} ({len(missing)} of {len(entries)} images lack "
            "one); add a row, without labels where there are none, or take the image away"
        )
    labelled: Entries = {}
    members: dict[int | None, str] = {}
    for member, row in rows.items():
        assert row is not None
        if row in members:
            raise UsageError(
                f"{where} has one row, {columns[key][row]}, for {members[row]} and {member}; write "
                "the folders of both"
            )
        members[row] = member
        own = entries[member].split
        if "split" in columns:
            own = stated_split(columns["split"][row], f"{where}: row {row + 1}")
        labels = tuple(columns[name][row].strip() or None for name in names)
        labelled[member] = RawImage(own, member, b"", labels)
    left = [name for name, number in numbers.items() if number not in members]
    note = f"{len(left)} rows of {LABELS_FILE} have no image, such as {left[0]}" if left else ""
    return names, labelled, note


def _row_of(member: str, numbers: Mapping[str, int]) -> int | None:
    """The row of the longest end of an image's name that the labels file has."""
    parts = parts_of(member)
    ends = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((numbers[end] for end in ends if end in numbers), None)
