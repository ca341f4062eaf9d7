"""Packed data sets: memory-mapped arrays of points, images or token ids.

A packed folder holds ``meta.json``, and per split ``<split>.x.npy`` (points, images) or the flat
``<split>.ids.npy`` with ``<split>.offsets.npy`` (text), with ids and labels beside them. Documents
have the different words of a row in ``ids`` and how often each is there in ``<split>.counts.npy``;
``background.npy`` holds the log frequencies of training words. The labels are the rows of one array
``<split>.labels.npy``, in the order of the names of their columns. This module is all that training
needs: it reads with numpy and sentencepiece alone.

Shapes: B rows, N tokens of all rows, V vocabulary; images have C channels, height H and width W.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.data.tokenizer import Tokenizer
from ldebm.errors import REBUILD, UsageError
from ldebm.files import read_json
from ldebm.plugins import require_same

__all__ = [
    "JUDGE",
    "SPLITS",
    "Measure",
    "Packed",
    "Split",
    "check_classes",
    "open_bound",
    "open_measure",
    "open_packed",
    "require_valid",
]

SPLITS = ("train", "valid", "test")
JUDGE = "judge.safetensors"


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; build it first (`dvc repro`)") from None
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{file}: damaged ({error}); {REBUILD}") from None


@dataclass(frozen=True)
class Split:
    """The rows of one split. Arrays are mapped from disk and must not be written to."""

    path: Path
    name: str
    meta: dict[str, Any] = field(repr=False)

    def _array(self, part: str) -> np.ndarray:
        return _mapped(self.path / f"{self.name}.{part}.npy")

    @cached_property
    def id(self) -> np.ndarray:
        """Row ids of the prepared data, int64 (B)."""
        return self._array("id")

    @cached_property
    def x(self) -> np.ndarray:
        """Points and the like, float32 (B, X), or images, uint8 (B, C, H, W)."""
        return self._array("x")

    @cached_property
    def ids(self) -> np.ndarray:
        """Token ids of all rows, BOS to EOS, one after the other (N).

        Of documents the ids of the different words of every row, rising.
        """
        return self._array("ids")

    @cached_property
    def counts(self) -> np.ndarray:
        """Documents: how often the word of every entry of ``ids`` is in its row, int32 (N)."""
        return self._array("counts")

    @cached_property
    def offsets(self) -> np.ndarray:
        """Row i is ``ids[offsets[i]:offsets[i + 1]]``; int64 (B + 1)."""
        return self._array("offsets")

    @cached_property
    def flat(self) -> bool:
        """Whether rows are those of one array ``x``; else of lists of token ids."""
        return (self.path / f"{self.name}.x.npy").is_file()

    @cached_property
    def counted(self) -> bool:
        """Whether rows have a count for every token id."""
        return (self.path / f"{self.name}.counts.npy").is_file()

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.id)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every row with BOS and EOS (documents: different words), int64 (B)."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """Token ids of one row, BOS to EOS."""
        return self._slice(self.ids, self.offsets, index)

    def context(self, index: int) -> np.ndarray:
        """Token ids of the previous turns of one row, oldest first, each BOS to EOS; may be empty.

        Raises:
            UsageError: the data set was packed without context.
        """
        if not self.meta.get("context_turns"):
            raise UsageError(
                f"{self.path}: packed without context; set context_turns of the data set to 1 up"
            )
        return self._slice(*self._context, index)

    @cached_property
    def _context(self) -> tuple[np.ndarray, np.ndarray]:
        return self._array("context.ids"), self._array("context.offsets")

    def _slice(self, ids: np.ndarray, offsets: np.ndarray, index: int) -> np.ndarray:
        if not 0 <= index < self.n:
            raise IndexError(f"row {index} of {self.n}")
        return np.asarray(ids[offsets[index] : offsets[index + 1]])

    def labels(self, column: str) -> np.ndarray:
        """Label of every row as an index into ``meta["labels"][column]``, -1 for none; int16 (B).

        Raises:
            UsageError: the data set has no such label column.
        """
        known = self.meta.get("labels", {})
        if column not in known:
            there = ", ".join(known) or "none"
            raise UsageError(f"{self.path}: no label column {column!r}; label columns: {there}")
        return np.asarray(self._array("labels")[sorted(known).index(column)])


@dataclass(frozen=True)
class Packed:
    """A packed data set: ``meta`` and its splits."""

    path: Path
    meta: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """``points``, ``sentences``, ``dialogues``, ``documents``, ``images`` or a plugin."""
        return str(self.meta["kind"])

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
            UsageError: it is none of train, valid, test.
        """
        if name not in SPLITS:
            raise UsageError(f"split {name!r}: expected one of {', '.join(SPLITS)}")
        return Split(self.path, name, self.meta)

    @cached_property
    def background(self) -> np.ndarray:
        """Documents: log frequency of every word in training, float32 (V)
        (docs/method.md, section 6.6).

        Raises:
            UsageError: the data are no documents, or the file is missing or damaged.
        """
        file = self.path / "background.npy"
        if not file.is_file():
            raise UsageError(f"{file}: no such file; only packed documents have word frequencies")
        return _mapped(file)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a text data set.

        Raises:
            UsageError: the data are no text, or the file is missing or damaged.
        """
        if "vocab_size" not in self.meta:
            raise UsageError(f"{self.path}: {self.kind} have no tokenizer")
        file = self.path / "tokenizer.model"
        if not file.is_file():
            raise UsageError(f"{file}: no such file; build it first (`dvc repro`)")
        return Tokenizer(file.read_bytes())


def open_packed(path: str | Path) -> Packed:
    """Opens ``data/packed/D``.

    Raises:
        UsageError: the folder is not a packed data set.
    """
    meta = read_json(Path(path) / "meta.json")
    if not isinstance(meta, dict) or "kind" not in meta:
        raise UsageError(f"{path}/meta.json: does not describe a packed data set; build it again")
    return Packed(Path(path), meta)


def open_bound(path: str | Path) -> Packed:
    """Opens the data set that ``data/bound/E.json`` names, relative to the current folder.

    Raises:
        UsageError: the file or the data set is missing or damaged.
    """
    bound = read_json(path)
    if not isinstance(bound, dict) or "path" not in bound:
        raise UsageError(f"{path}: does not name a packed data set; build it again (`dvc repro`)")
    _same_plugins(bound, path)
    return open_packed(bound["path"])


def _same_plugins(bound: dict[str, Any], path: str | Path) -> None:
    if "plugins" in bound:
        named = [(group, name) for group, name in bound["plugins"]["named"]]
        require_same(bound["plugins"]["files"], named, path)


@dataclass(frozen=True)
class Measure:
    """What only the evaluation of an experiment reads.

    Attributes:
        classifier: folder of the evaluation classifier of its data set; None where that has none.
        ood: packed data sets that ``evaluate.ood`` names, by name.
    """

    classifier: Path | None = None
    ood: dict[str, Packed] = field(default_factory=dict)


def open_measure(path: str | Path) -> Measure:
    """Opens what ``data/bound/E.measure.json`` names, relative to the current folder.

    Raises:
        UsageError: the file or a data set is missing or damaged.
    """
    content = read_json(path)
    try:
        classifier, ood = content["judge"], content["ood"]
        others = {name: open_packed(item["path"]) for name, item in ood.items()}
        _same_plugins(content, path)
        return Measure(Path(classifier["path"]) if classifier else None, others)
    except (KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{path}: does not name a classifier and data sets; build it again (`dvc repro`)"
        ) from None


def require_valid(report_path: str | Path) -> None:
    """Stops a consumer of data that failed validation.

    Raises:
        UsageError: the report is missing, or an expectation failed; the message lists which.
    """
    report = read_json(report_path)
    if report.get("success") is True:
        return
    failed = [
        f"{item['expectation']} ({item['detail']})"
        for item in report.get("results", [])
        if not item.get("success")
    ]
    raise UsageError(
        f"{report_path}: {len(failed)} failed expectation(s): {'; '.join(failed) or 'unknown'}; "
        "correct the data, or the data set's section of params.yaml"
    )


def check_classes(classes: int, rows: int, where: Path | str = "data") -> None:
    """Checks that clustering can find so many classes in the training rows of ``where``.

    Raises:
        UsageError: there are fewer rows.
    """
    if rows < classes:
        raise UsageError(
            f"{where}: prior.classes {classes}: more classes than the {rows} training rows; give "
            "more rows, or fewer classes"
        )
