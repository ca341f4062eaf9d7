"""Batches as pure functions of (seed, step), and the packed form in which text is trained.

A resumed run needs no state of a data loader: the rows of global step ``step`` follow from the
seed. A :class:`TextBatch` holds real tokens only, so padding cannot leak into a result.

Shapes: B rows of the batch, L tokens of its longest row, N tokens of all its rows, n rows of the
data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.data.packed import Split
from ldebm.seeding import numpy_generator

__all__ = [
    "BagBatch",
    "DialogueBatch",
    "TextBatch",
    "batch_rows",
    "collate",
    "collate_bags",
    "collate_dialogue",
    "collate_documents",
    "collate_ids",
    "epoch_order",
    "make_batch",
    "row_batches",
    "steps_per_epoch",
    "with_turns",
]


@lru_cache(maxsize=4)
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of rows in one epoch: a permutation of n, read-only int64 (n).

    Example:
        >>> bool((epoch_order(5, 0, 3) == epoch_order(5, 0, 3)).all())
        True
    """
    order = numpy_generator(seed, "epoch-order", n, epoch).permutation(n)
    order.setflags(write=False)
    return order


def steps_per_epoch(n: int, batch: int) -> int:
    """Steps in which every row is seen once; the last batch of an epoch may be smaller.

    Example:
        >>> steps_per_epoch(42068, 128)
        329
    """
    return -(-n // batch)


def batch_rows(n: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Row indices of global step ``step``, int64 (B), with B below ``batch`` at an epoch's end.

    Args:
        n: rows of the data set.
        batch: rows of a batch.
        seed: of the experiment.
        step: global step from 0; epochs follow one another.

    Raises:
        ValueError: there is no row.
    """
    if n < 1 or batch < 1 or step < 0:
        raise ValueError(f"no batch of {batch} from {n} rows at step {step}")
    epoch, position = divmod(step, steps_per_epoch(n, batch))
    start = position * batch
    return epoch_order(n, seed, epoch)[start : start + min(batch, n - start)]


@dataclass(frozen=True)
class TextBatch:
    """Rows of tokens packed time-major: step t holds the tokens of the first n_t sorted rows.

    Rows are sorted by length, longest first. The encoder reads all tokens (BOS to EOS); a decoder
    reads all but the last of a row and predicts all but the first.

    Attributes:
        tokens_N: int64 tokens, all first tokens, then all second ones, and so on.
        batch_sizes: n_t for t = 0..L-1, as in ``torch.nn.utils.rnn.PackedSequence``.
        lengths_B: int64 tokens of the sorted rows, falling.
        order_B: int64; sorted row j is row ``order_B[j]`` of the batch as it was asked for.
    """

    tokens_N: Tensor
    batch_sizes: list[int]
    lengths_B: Tensor
    order_B: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths_B)

    def restore(self, values: Tensor, dim: int = 0) -> Tensor:
        """Puts values of sorted rows, along ``dim``, into the order the batch was asked for."""
        return values.index_select(dim, torch.argsort(self.order_B))

    def to(self, device: torch.device | str) -> TextBatch:
        """The batch on ``device``."""
        return TextBatch(
            self.tokens_N.to(device, non_blocking=True),
            self.batch_sizes,
            self.lengths_B.to(device, non_blocking=True),
            self.order_B.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class BagBatch:
    """Documents as bags of words, one after the other.

    Attributes:
        words_N: int64 ids of the different words of every document.
        counts_N: float32, how often each is there.
        starts_B: int64, where every document starts.
    """

    words_N: Tensor
    counts_N: Tensor
    starts_B: Tensor

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.starts_B)

    def rows_N(self) -> Tensor:
        """The document of every entry, int64 (N)."""
        ends = torch.cat([self.starts_B[1:], self.starts_B.new_tensor([len(self.words_N)])])
        rows = torch.arange(len(self), device=ends.device)
        return torch.repeat_interleave(rows, ends - self.starts_B)


def collate_bags(
    bags: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device | str = "cpu"
) -> BagBatch:
    """Documents given as ids and counts of their words; one without words stays empty."""
    lengths = np.array([len(ids) for ids, _ in bags], dtype=np.int64)
    words = np.concatenate([np.asarray(ids, dtype=np.int64) for ids, _ in bags])
    counts = np.concatenate([np.asarray(counts, dtype=np.float32) for _, counts in bags])
    starts = torch.from_numpy(np.cumsum(lengths) - lengths)
    return BagBatch(
        torch.from_numpy(words).to(device), torch.from_numpy(counts).to(device), starts.to(device)
    )


def collate_documents(
    split: Split, rows: np.ndarray, device: torch.device | str = "cpu"
) -> BagBatch:
    """The given rows of a split of documents."""
    spans = [(int(split.offsets[row]), int(split.offsets[row + 1])) for row in rows]
    return collate_bags([(split.ids[a:b], split.counts[a:b]) for a, b in spans], device)


@dataclass(frozen=True)
class DialogueBatch(TextBatch):
    """Rows with the turns that precede each.

    Attributes:
        turns: all previous turns, those of the first row first, oldest first; None: there are none.
        counts_B: how many belong to every row, in the order the batch was asked for.
    """

    turns: TextBatch | None
    counts_B: list[int]

    def to(self, device: torch.device | str) -> DialogueBatch:
        turns = None if self.turns is None else self.turns.to(device)
        return with_turns(super().to(device), turns, self.counts_B)


def with_turns(batch: TextBatch, turns: TextBatch | None, counts_B: list[int]) -> DialogueBatch:
    """``batch`` with the turns before its rows."""
    return DialogueBatch(
        batch.tokens_N, batch.batch_sizes, batch.lengths_B, batch.order_B, turns, counts_B
    )


def collate_dialogue(
    split: Split, rows: np.ndarray, device: torch.device | str = "cpu"
) -> DialogueBatch:
    """Packs the given rows of a split of dialogues, and the turns before them."""
    eos = int(split.meta["eos_id"])
    turns: list[np.ndarray] = []
    counts: list[int] = []
    for row in np.asarray(rows).tolist():
        flat = split.context(row)
        ends = np.flatnonzero(flat == eos) + 1
        turns += np.split(flat, ends[:-1]) if len(ends) else []
        counts.append(len(ends))
    packed = collate_ids(turns, device) if turns else None
    return with_turns(collate(split, rows, device), packed, counts)


def collate(split: Split, rows: np.ndarray, device: torch.device | str = "cpu") -> TextBatch:
    """Packs the given rows of a text split."""
    rows = np.asarray(rows)
    return _pack(split.ids, split.offsets[rows], split.lengths[rows], device)


def collate_ids(
    rows: Sequence[Sequence[int] | np.ndarray], device: torch.device | str = "cpu"
) -> TextBatch:
    """Packs rows of token ids (BOS to EOS) that come from no data set, such as generated ones."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    flat = np.array([token for row in rows for token in row], dtype=np.int64)
    return _pack(flat, starts, lengths, device)


def _pack(
    ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, device: torch.device | str
) -> TextBatch:
    if not len(lengths) or lengths.min() < 1:
        raise ValueError("a text batch needs at least one row, and no empty rows")
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    times_L1 = np.arange(lengths[0])[:, None]
    real_LB = times_L1 < lengths
    tokens = ids[(starts + times_L1)[real_LB]]
    return TextBatch(
        torch.from_numpy(tokens.astype(np.int64)),
        real_LB.sum(axis=1).tolist(),
        torch.from_numpy(lengths.astype(np.int64)),
        torch.from_numpy(order.astype(np.int64)),
    ).to(device)


def make_batch(split: Split, rows: np.ndarray, device: torch.device) -> Any:
    """The rows of a split as the backbone reads them.

    A TextBatch, with the turns before each row where the data have them; a BagBatch of documents;
    points x of shape (B, 2); or images x of shape (B, C, H, W), whose values 0 to 255 become -1
    to 1.
    """
    if split.flat and split.x.dtype == np.uint8:
        pixels = torch.from_numpy(split.x[rows]).to(device)
        return pixels.float().div_(127.5).sub_(1)
    if split.flat:
        return torch.from_numpy(np.asarray(split.x[rows], dtype=np.float32)).to(device)
    if split.counted:
        return collate_documents(split, rows, device)
    if split.meta.get("context_turns"):
        return collate_dialogue(split, rows, device)
    return collate(split, rows, device)


def row_batches(
    split: Split, rows: np.ndarray, size: int, device: torch.device
) -> tuple[np.ndarray, Iterator[Any]]:
    """Batches of ``rows``, text in order of length.

    Returns:
        The rows in the order of the batches, and the batches.
    """
    if not split.flat:
        rows = rows[np.argsort(split.lengths[rows], kind="stable")]
    parts = (rows[i : i + size] for i in range(0, len(rows), size))
    return rows, (make_batch(split, part, device) for part in parts)
