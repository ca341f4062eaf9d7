"""What a user hands over from Python: texts, images, points, and labels.

Lists, arrays, tensors, and columns of polars, pandas and pyarrow are taken; none of these libraries
is imported.

Shapes: N rows, X numbers of a point, C channels, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldebm.data.columns import MAX_CLASSES, label_names
from ldebm.data.columns import labels as label_values
from ldebm.errors import UsageError
from ldebm.modalities.vectors import as_vectors
from ldebm.seeding import numpy_generator

__all__ = [
    "FEWEST",
    "LABEL",
    "Labels",
    "Rows",
    "divide",
    "read_labels",
    "read_rows",
    "require_rows",
]

LABEL = "label"  # the name of the column that labels become
FEWEST = 20  # rows
HELD_OUT, MOST_HELD_OUT = 0.1, 2000  # share and number of rows that validate
CONTROL = re.compile("[\u2581\x00-\x1f\x7f]")
SIDES = (4, 1024)  # pixels


@dataclass(frozen=True)
class Rows:
    """Rows of one kind.

    Attributes:
        kind: sentences, images or points.
        values: texts; uint8 (N, C, H, W); or float32 (N, X).
    """

    kind: str
    values: Any

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Labels:
    """Classes of rows.

    Attributes:
        codes: of every row, -1 for none, int16 (N,).
        names: of the classes.
    """

    codes: np.ndarray
    names: list[str]

    @property
    def known(self) -> int:
        """How many rows have one."""
        return int((self.codes >= 0).sum())


def read_rows(data: Any) -> Rows:
    """Finds out what rows are.

    Args:
        data: texts; images (N, H, W) or (N, H, W, C) of uint8; or points (N, X).

    Raises:
        UsageError: they are none of these, too few, or one of them cannot be used.

    Example:
        >>> read_rows(["a b"] * 30).kind, read_rows(np.zeros((30, 2))).kind
        ('sentences', 'points')
    """
    if isinstance(data, str | bytes):
        raise UsageError(
            f"data: expected many rows, got one text ({data[:40]!r}); give a list of texts"
        )
    listed = _listed(data)
    require_rows(len(listed), "data")
    if isinstance(listed, list):
        return Rows("sentences", _texts(listed))
    if listed.ndim in (3, 4):
        return Rows("images", _images(listed))
    if listed.ndim != 2 or listed.dtype.kind not in "fiu":
        raise UsageError(
            "data: expected texts, images (n, height, width[, channels]) or points (n, d), got "
            f"{listed.dtype} of shape {listed.shape}"
        )
    return Rows("points", as_vectors(listed.astype(np.float32), what="data"))


def _listed(data: Any) -> list[Any] | np.ndarray:
    """A list of texts (or what else is not numbers), or an array of numbers."""
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if hasattr(data, "columns"):  # a frame; a column has none
        if hasattr(data, "select_dtypes") or hasattr(data, "with_columns"):
            width = data.shape[1]
            data = data.to_numpy()
            if data.dtype.kind not in "fiu":
                raise UsageError(
                    f"data: a table of {width} columns; give the column of the texts, as in "
                    "frame['text']"
                )
    elif hasattr(data, "to_pylist"):
        data = data.to_pylist()
    elif hasattr(data, "to_list"):
        data = data.to_list()
    if isinstance(data, np.ndarray):
        return data.tolist() if data.dtype.kind in "OUS" and data.ndim == 1 else data
    try:
        listed = list(data)
    except TypeError:
        raise UsageError(
            f"data: expected texts, images or points, got {type(data).__name__}"
        ) from None
    first = next((item for item in listed if item is not None), None)
    if isinstance(first, str | bytes) or first is None or isinstance(first, dict):
        return listed
    try:
        return np.asarray([np.asarray(item) for item in listed])
    except ValueError:
        raise UsageError(
            "data: rows of different shapes; expected images of one size, or points with equally "
            "many numbers"
        ) from None


def require_rows(rows: int, what: str) -> None:
    """Refuses too few rows.

    Raises:
        UsageError: there are fewer than :data:`FEWEST`.
    """
    if rows < FEWEST:
        raise UsageError(f"{what}: {rows} rows; at least {FEWEST} are needed")


def _texts(listed: Sequence[Any]) -> list[str]:
    texts = []
    for row, text in enumerate(listed):
        if not isinstance(text, str):
            raise UsageError(f"data: row {row} is {text!r:.40}; expected a text")
        texts.append(" ".join(CONTROL.sub(" ", text).split()))
        if not texts[-1]:
            raise UsageError(f"data: row {row} is empty; expected a text: leave such rows out")
    return texts


def _images(array: np.ndarray) -> np.ndarray:
    """As (N, C, H, W)."""
    if array.dtype != np.uint8:
        raise UsageError(
            f"data: images of {array.dtype}; expected uint8 from 0 to 255 (of numbers from 0 to 1: "
            "(255 * images).astype('uint8'))"
        )
    if array.ndim == 3:
        array = array[..., None]
    elif array.shape[-1] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    _, height, width, channels = array.shape
    if channels not in (1, 3) or height != width or not SIDES[0] <= height <= SIDES[1]:
        raise UsageError(
            f"data: images of shape {array.shape[1:]}; expected square ones of {SIDES[0]} to "
            f"{SIDES[1]} pixels a side, with 1 or 3 channels: (n, side, side[, channels])"
        )
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def read_labels(labels: Any, rows: int) -> Labels | None:
    """Labels of rows: names or numbers; None, NaN and -1 are none.

    Raises:
        UsageError: there are not as many as rows, or fewer than two classes.

    Example:
        >>> read_labels(["b", None, "a"], 3)
        Labels(codes=array([ 1, -1,  0], dtype=int16), names=['a', 'b'])
    """
    if labels is None:
        return None
    if isinstance(labels, str | bytes):
        raise UsageError(f"labels: expected one a row, got one text ({labels[:40]!r})")
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    for reading in ("to_pylist", "to_list", "tolist"):
        if hasattr(labels, reading):
            labels = getattr(labels, reading)()
            break
    plain = [value.item() if isinstance(value, np.generic) else value for value in labels]
    if len(plain) != rows:
        raise UsageError(
            f"labels: {len(plain)} for {rows} rows; expected one a row (None where there is none)"
        )
    plain = [None if _no_label(value) else value for value in plain]
    values = label_values(plain, "labels")
    names = label_names(values)
    if len(names) < 2:
        only = f"only {names[0]!r}" if names else "no label at all"
        raise UsageError(f"labels: {only}; at least two classes are needed, or labels=None")
    if len(names) > MAX_CLASSES:
        raise UsageError(
            f"labels: {len(names)} classes, more than {MAX_CLASSES}; are they identifiers?"
        )
    numbers = {name: number for number, name in enumerate(names)}
    codes = [-1 if value is None else numbers[str(value)] for value in values]
    return Labels(np.array(codes, dtype=np.int16), names)


def _no_label(value: Any) -> bool:
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and value == -1


def divide(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, in order: one in ten validates, 2,000 at most."""
    held_out = min(MOST_HELD_OUT, max(2, round(HELD_OUT * rows)))
    order = numpy_generator(seed, "splits", rows).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
