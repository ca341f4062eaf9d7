"""Batches are pure functions of (seed, step), and packing keeps every token."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldebm.data.batches import batch_rows, collate, collate_ids, epoch_order, steps_per_epoch


@given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_epoch_shows_every_row_once(n: int, batch: int, epoch: int) -> None:
    steps = steps_per_epoch(n, batch)
    rows = [batch_rows(n, batch, 7, epoch * steps + step) for step in range(steps)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(n))
    assert all(len(part) == batch for part in rows[:-1])


def test_a_step_needs_nothing_from_the_steps_before() -> None:
    late = batch_rows(1000, 32, 3, 517).copy()
    for step in range(40):
        batch_rows(1000, 32, 3, step)
    epoch_order.cache_clear()
    assert np.array_equal(batch_rows(1000, 32, 3, 517), late)
    assert not np.array_equal(batch_rows(1000, 32, 4, 517), late)
    assert not np.array_equal(epoch_order(50, 0, 0), epoch_order(50, 0, 1))


ROWS = st.lists(st.lists(st.integers(4, 50), min_size=1, max_size=9), min_size=1, max_size=12)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_a_text_batch_is_the_packed_sequence_of_its_sorted_rows(rows: list[list[int]]) -> None:
    batch = collate_ids(rows)
    tensors = [torch.tensor(row) for row in rows]
    expected = torch.nn.utils.rnn.pack_sequence(
        [tensors[index] for index in batch.order_B.tolist()]
    )
    assert torch.equal(batch.tokens_N, expected.data)
    assert batch.batch_sizes == expected.batch_sizes.tolist()
    assert batch.lengths_B.tolist() == sorted(map(len, rows), reverse=True)
    assert len(batch) == len(rows)


@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_restore_gives_values_in_the_order_asked_for(rows: list[list[int]]) -> None:
    batch = collate_ids(rows)
    assert batch.restore(batch.lengths_B).tolist() == [len(row) for row in rows]
    assert batch.restore(batch.lengths_B[None], dim=1)[0].tolist() == [len(row) for row in rows]


@dataclass
class FlatSplit:
    ids: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def test_collate_takes_rows_from_the_flat_arrays() -> None:
    rows = [[2, 5, 3], [2, 3], [2, 6, 7, 8, 3]]
    flat = np.array([token for row in rows for token in row], dtype=np.uint16)
    split = FlatSplit(flat, np.cumsum([0, 3, 2, 5]))
    batch = collate(split, np.array([2, 0]))  # type: ignore[arg-type]
    direct = collate_ids([rows[2], rows[0]])
    assert torch.equal(batch.tokens_N, direct.tokens_N)
    assert batch.batch_sizes == direct.batch_sizes == [2, 2, 2, 1, 1]
    assert batch.order_B.tolist() == [0, 1]
    assert batch.tokens_N.dtype == torch.int64


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        collate_ids([])
