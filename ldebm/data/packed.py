"""Packed data sets: memory-mapped arrays of points or token ids, and the tokenizer that made them.

A packed folder holds ``meta.json``, and per split ``<split>.x.npy`` (points) or the flat
``<split>.ids.npy`` with ``<split>.offsets.npy`` (text), with ids and labels beside them. This
module is all that training needs: it reads with numpy and sentencepiece alone.

Shapes: B rows, N tokens of all rows, V vocabulary.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece as spm

from ldebm.errors import UsageError
from ldebm.files import read_json

__all__ = [
    "SPLITS",
    "UNK",
    "Packed",
    "Split",
    "Tokenizer",
    "open_bound",
    "open_packed",
    "require_valid",
    "train_tokenizer",
]

SPLITS = ("train", "valid", "test")
UNK = "<unk>"  # how an unknown word is written in corpora and in decoded text
PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3


class Tokenizer:
    """A sentencepiece model whose control tokens are pad 0, unk 1, bos 2 and eos 3 (C41).

    A literal ``<unk>`` in text, as the Penn Treebank has it, is the unknown token; decoding writes
    it back. Bos and eos are added by id and never come from text.

    Args:
        model: the bytes of a sentencepiece model.

    Raises:
        UsageError: the bytes are not a model of this project.
    """

    def __init__(self, model: bytes) -> None:
        self._bytes = bytes(model)
        try:
            self._processor = spm.SentencePieceProcessor(model_proto=self._bytes)
        except RuntimeError as error:
            raise UsageError(
                f"tokenizer: not a sentencepiece model ({' '.join(str(error).split())}); "
                "build the packed data again"
            ) from None
        names = ("pad_id", "unk_id", "bos_id", "eos_id")
        found = tuple(int(getattr(self._processor, name)()) for name in names)
        if found != (PAD_ID, UNK_ID, BOS_ID, EOS_ID):
            raise UsageError(
                f"tokenizer: expected ids (0, 1, 2, 3) for pad, unk, bos, eos; got {found}"
            )
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = found
        self.vocab_size = int(self._processor.get_piece_size())

    @classmethod
    def from_bytes(cls, model: Any) -> Tokenizer:
        """A tokenizer from bytes, or from the uint8 array or tensor that a model file carries."""
        if isinstance(model, bytes | bytearray | memoryview):
            return cls(bytes(model))
        return cls(np.asarray(model, dtype=np.uint8).tobytes())

    def to_bytes(self) -> bytes:
        """The bytes of the sentencepiece model."""
        return self._bytes

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` between BOS and EOS."""
        return [self.bos_id, *self._encode_body(text), self.eos_id]

    def encode_rows(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`encode` of many texts, in one call where no text holds ``<unk>``."""
        plain = [index for index, text in enumerate(texts) if UNK not in text]
        bodies: dict[int, list[int]] = {}
        if plain:
            encoded = self._processor.encode([texts[index] for index in plain], out_type=int)
            bodies = dict(zip(plain, encoded, strict=True))
            bodies = {index: ids for index, ids in bodies.items() if self.unk_id not in ids}
        return [
            [self.bos_id, *bodies[index], self.eos_id] if index in bodies else self.encode(text)
            for index, text in enumerate(texts)
        ]

    def _encode_body(self, text: str) -> list[int]:
        ids: list[int] = []
        known: list[str] = []
        for word in text.split():
            if word != UNK:
                known.append(word)
                continue
            ids += self._encode_known(known)
            ids.append(self.unk_id)
            known = []
        return ids + self._encode_known(known)

    def _encode_known(self, words: list[str]) -> list[int]:
        """Ids of words none of which is ``<unk>``.

        Sentencepiece makes one token of neighbouring unknown words: then each is encoded by itself.
        """
        if not words:
            return []
        ids: list[int] = self._processor.encode(" ".join(words), out_type=int)
        if len(words) == 1 or self.unk_id not in ids:
            return ids
        return [token for part in self._processor.encode(words, out_type=int) for token in part]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``: control tokens are left out and unknown ones read ``<unk>``.

        Raises:
            UsageError: an id is outside the vocabulary.
        """
        parts: list[str] = []
        run: list[int] = []
        for token in map(int, ids):
            if not 0 <= token < self.vocab_size:
                raise UsageError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
            if token in (self.pad_id, self.bos_id, self.eos_id):
                continue
            if token == self.unk_id:
                parts += [self._processor.decode(run), UNK] if run else [UNK]
                run = []
            else:
                run.append(token)
        if run:
            parts.append(self._processor.decode(run))
        return " ".join(part.strip() for part in parts if part.strip())

    def piece(self, token: int) -> str:
        """The piece of ``token`` as sentencepiece stores it (words start with U+2581)."""
        return str(self._processor.id_to_piece(int(token)))


def train_tokenizer(
    texts: Iterable[str], kind: Literal["word", "unigram", "bpe"], vocab_size: int
) -> Tokenizer:
    """Trains a tokenizer whose bytes depend on the set of texts and the arguments only (C40).

    Literal ``<unk>`` words are taken out first, so that they never become a word of their own.

    Args:
        texts: the training sentences, in any order.
        kind: ``word`` keeps the most frequent words; ``unigram`` and ``bpe`` learn pieces.
        vocab_size: entries with the four control tokens. A corpus that holds fewer gives a smaller
            vocabulary.

    Raises:
        UsageError: there is no text, or the vocabulary is too small for its characters.
    """
    stripped = (" ".join(word for word in text.split() if word != UNK) for text in texts)
    lines = sorted(line for line in stripped if line)
    if not lines:
        raise UsageError("tokenizer: the training split has no text; check the text column")
    options: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": vocab_size,
        "hard_vocab_limit": False,
        "pad_id": PAD_ID,
        "unk_id": UNK_ID,
        "bos_id": BOS_ID,
        "eos_id": EOS_ID,
        "unk_surface": UNK,
        "normalization_rule_name": "identity",  # prepare has normalised: the round trip is exact
        "character_coverage": 1.0,
        "max_sentence_length": 1 << 20,
        "num_threads": 1,  # the number of threads is stored, and changes unigram vocabularies
        "minloglevel": 4,
    }
    if kind == "bpe":  # has no soft limit: bounded by characters and merges of the words there are
        words = {word for line in lines for word in line.split()}
        room = 5 + len({mark for word in words for mark in word}) + sum(map(len, words))
        options["vocab_size"] = min(vocab_size, room)
    while True:
        stream = io.BytesIO()
        try:
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=stream, **options
            )
            return Tokenizer(stream.getvalue())
        except RuntimeError as error:
            message = " ".join(str(error).split())
            if kind == "bpe" and "too high" in message.lower() and options["vocab_size"] > 16:
                options["vocab_size"] = options["vocab_size"] * 9 // 10
                continue
            raise UsageError(
                f"tokenizer: {kind} with vocab_size {vocab_size} failed ({message}); "
                "change vocab_size or tokenizer"
            ) from None


@dataclass(frozen=True)
class Split:
    """The rows of one split. Arrays are mapped from disk and must not be written to."""

    path: Path
    name: str
    meta: dict[str, Any] = field(repr=False)

    def _array(self, part: str) -> np.ndarray:
        file = self.path / f"{self.name}.{part}.npy"
        try:
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise UsageError(f"{file}: no such file; build it first (`dvc repro`)") from None
        except (ValueError, OSError, EOFError) as error:
            raise UsageError(f"{file}: damaged ({error}); delete it and build again") from None

    @cached_property
    def id(self) -> np.ndarray:
        """Row ids of the prepared data, int64 (B)."""
        return self._array("id")

    @cached_property
    def x(self) -> np.ndarray:
        """Points, float32 (B, 2)."""
        return self._array("x")

    @cached_property
    def ids(self) -> np.ndarray:
        """Token ids of all rows, BOS to EOS, one after the other (N)."""
        return self._array("ids")

    @cached_property
    def offsets(self) -> np.ndarray:
        """Row i is ``ids[offsets[i]:offsets[i + 1]]``; int64 (B + 1)."""
        return self._array("offsets")

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.id)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every row with BOS and EOS, int64 (B)."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """Token ids of one row, BOS to EOS."""
        if not 0 <= index < self.n:
            raise IndexError(f"row {index} of {self.n}")
        return np.asarray(self.ids[self.offsets[index] : self.offsets[index + 1]])

    def context(self, index: int) -> np.ndarray:
        """Token ids of the previous turns of one row, oldest first, each BOS to EOS; may be empty.

        Raises:
            UsageError: the data set was packed without context.
        """
        if not self.meta.get("context_turns"):
            raise UsageError(
                f"{self.path}: packed without context; set context_turns of the data set to 1 up"
            )
        if not 0 <= index < self.n:
            raise IndexError(f"row {index} of {self.n}")
        offsets = self._context_offsets
        return np.asarray(self._context_ids[offsets[index] : offsets[index + 1]])

    @cached_property
    def _context_ids(self) -> np.ndarray:
        return self._array("context.ids")

    @cached_property
    def _context_offsets(self) -> np.ndarray:
        return self._array("context.offsets")

    def labels(self, column: str) -> np.ndarray:
        """Label of every row as an index into ``meta["labels"][column]``, -1 for none; int16 (B).

        Raises:
            UsageError: the data set has no such label column.
        """
        known = self.meta.get("labels", {})
        if column not in known:
            there = ", ".join(known) or "none"
            raise UsageError(f"{self.path}: no label column {column!r}; label columns: {there}")
        return self._array(f"label.{column}")


@dataclass(frozen=True)
class Packed:
    """A packed data set: ``meta`` and its splits."""

    path: Path
    meta: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """``points``, ``sentences`` or ``dialogues``."""
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
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a text data set.

        Raises:
            UsageError: the data are points, or the file is missing or damaged.
        """
        if self.kind == "points":
            raise UsageError(f"{self.path}: points have no tokenizer")
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
    return open_packed(bound["path"])


def require_valid(report_path: str | Path) -> None:
    """Stops a consumer of data that failed validation (C20).

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
