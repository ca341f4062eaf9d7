"""The tokenizer: a sentencepiece model with fixed control tokens, and its training.

Shapes: V vocabulary.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import sentencepiece as spm

from ldebm.errors import UsageError

__all__ = ["SAMPLE", "UNK", "Tokenizer", "sample", "train_tokenizer"]

UNK = "<unk>"  # how an unknown word is written in corpora and in decoded text
SAMPLE = 500_000  # texts that train a tokenizer: memory and time then do not grow with the data
PART = 8192  # texts that are encoded at a time
FEW = 16  # texts that are encoded one by one
PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3


class Tokenizer:
    """A sentencepiece model whose control tokens are pad 0, unk 1, bos 2 and eos 3.

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
        ids = tuple(int(getattr(self._processor, name)()) for name in names)
        if ids != (PAD_ID, UNK_ID, BOS_ID, EOS_ID):
            raise UsageError(
                f"tokenizer: expected ids (0, 1, 2, 3) for pad, unk, bos, eos; got {ids}"
            )
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = ids
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
        return self.encode_rows([text])[0]

    def encode_rows(self, texts: Iterable[str]) -> list[list[int]]:
        """:meth:`encode` of many texts.

        What is between unknown words is encoded as a whole. Sentencepiece makes one token of
        neighbouring unknown words: then each word is encoded by itself.
        """
        rows = list(texts)
        ids: dict[str, list[int]] = {}  # of texts, of what is between unknown words, and of words
        self._add(ids, (text for text in rows if UNK not in text))
        hard = {text: _runs(text) for text in rows if self.unk_id in ids.get(text, [self.unk_id])}
        runs = {" ".join(run): run for parts in hard.values() for run in parts}
        self._add(ids, runs)
        unclear = {text: run for text, run in runs.items() if self.unk_id in ids[text]}
        self._add(ids, itertools.chain.from_iterable(unclear.values()))
        ids |= {text: [t for word in run for t in ids[word]] for text, run in unclear.items()}
        for text, parts in hard.items():
            pieces = [ids[" ".join(run)] for run in parts]
            ids[text] = [*pieces[0], *(t for part in pieces[1:] for t in (self.unk_id, *part))]
        return [[self.bos_id, *ids[text], self.eos_id] for text in rows]

    def encode_parts(self, texts: Iterable[str]) -> Iterator[list[list[int]]]:
        """:meth:`encode_rows` of any number of texts, a few thousand at a time."""
        rest = iter(texts)
        while part := list(itertools.islice(rest, PART)):
            yield self.encode_rows(part)

    def _add(self, ids: dict[str, list[int]], texts: Iterable[str]) -> None:
        """Adds what sentencepiece makes of texts; a list of them costs it the start of a thread."""
        new = [text for text in dict.fromkeys(texts) if text not in ids]
        encode = self._processor.encode
        if len(new) < FEW:
            ids |= {text: encode(text, out_type=int) for text in new}
        else:
            ids |= zip(new, encode(new, out_type=int, num_threads=1), strict=True)

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


def _runs(text: str) -> list[list[str]]:
    """The words between those that are ``<unk>``; one list more than there are of these."""
    if UNK not in text:
        return [text.split()]
    runs: list[list[str]] = [[]]
    for word in text.split():
        if word == UNK:
            runs.append([])
        else:
            runs[-1].append(word)
    return runs


def sample(texts: Iterable[str], rows: int) -> Iterator[str]:
    """All texts that train a tokenizer: of more than :data:`SAMPLE`, that many evenly spaced ones.

    Args:
        texts: the training texts.
        rows: how many there are.
    """
    return (text for i, text in enumerate(texts) if rows <= SAMPLE or i * SAMPLE % rows < SAMPLE)


def train_tokenizer(
    texts: Iterable[str], kind: Literal["word", "unigram", "bpe"], vocab_size: int
) -> Tokenizer:
    """Trains a tokenizer whose bytes depend on the set of texts and the arguments only.

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
    capped = kind == "bpe"
    if capped:  # it has no soft limit: bounded by characters and merges of the words there are
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
            if capped and "too high" in message.lower() and options["vocab_size"] > 16:
                options["vocab_size"] = options["vocab_size"] * 9 // 10
                continue
            raise UsageError(
                f"tokenizer: {kind} with vocab_size {vocab_size} failed ({message}); "
                "change vocab_size or tokenizer"
            ) from None
