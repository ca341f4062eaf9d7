"""The tokenizer: a sentencepiece model with fixed control tokens, and its training.

Shapes: V vocabulary.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import sentencepiece as spm

from ldebm.errors import UsageError

__all__ = ["UNK", "Tokenizer", "train_tokenizer"]

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
