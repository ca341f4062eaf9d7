"""Which rows train, validate and test, where the source does not say; and how many are kept.

Labels that no training row has become none in the other splits (:func:`known_labels`).

Rows that belong together (turns of a dialogue, texts of a game) stay in one split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from ldebm.config import DataConfig
from ldebm.data.label_columns import label_column
from ldebm.data.packed import SPLITS
from ldebm.errors import UsageError
from ldebm.seeding import numpy_generator

__all__ = ["MIN_ROWS", "known_labels", "limit", "with_splits"]

SHARES = {"valid": 0.05, "test": 0.05}  # of a source without splits
FEWEST = 2  # rows of such a split: of one there is no spread
MIN_ROWS = 10


def with_splits(config: DataConfig, frame: pl.DataFrame) -> pl.DataFrame:
    """Splits 90/5/5 by the seed where the source has no split.

    Splits that a source with training rows lacks are taken from these. Rows of one ``group`` (or
    ``dialogue``) stay together.

    Raises:
        UsageError: there are too few rows, the wanted numbers take all of them, or the source has
            splits but no training rows.
    """
    group = _group(config, frame)
    if frame["split"].null_count() == 0:
        there = set(frame["split"].unique())
        if "train" not in there:
            raise UsageError(
                f"all rows are of the split {' or '.join(sorted(there))}; rows of the split train "
                "are missing"
            )
        for split in SHARES:
            if split not in there:
                frame = _from_training(config, frame, group, split)
        return frame
    labelled = _labelled(config, frame) if group == "line" else None
    if labelled is not None:
        plain = config.model_copy(update={"labels": []})
        parts = [with_splits(plain, frame.filter(rows)) for rows in (labelled, ~labelled)]
        return pl.concat(parts).sort("line")
    sizes = frame.group_by(group).len().sort(group)
    if sizes.height < MIN_ROWS:
        raise UsageError(f"{sizes.height} {group}s cannot be split; at least {MIN_ROWS} are needed")
    stream = numpy_generator(config.seed, "splits", sizes.height)
    sizes = sizes[stream.permutation(sizes.height)]
    before = np.cumsum(sizes["len"].to_numpy()) - sizes["len"].to_numpy()
    valid, test = (
        getattr(config, split) or max(FEWEST, round(share * frame.height))
        for split, share in SHARES.items()
    )
    names = np.full(sizes.height, "train", dtype=object)
    first = int(np.searchsorted(before, valid))  # groups until there are enough rows
    second = int(np.searchsorted(before, before[min(first, len(before) - 1)] + test))
    if second >= sizes.height:
        raise UsageError(
            f"valid {valid} and test {test} take all {frame.height} rows; lower them in the data "
            "set's section of params.yaml"
        )
    names[:first], names[first:second] = "valid", "test"
    table = sizes.select(group).with_columns(split=pl.Series(names.tolist()))
    return frame.drop("split").join(table, on=group, how="left", maintain_order="left")


def _labelled(config: DataConfig, frame: pl.DataFrame) -> pl.Series | None:
    """Which of a user's partly labelled rows have the first label, so that every split gets some.

    None where all or too few have it, or the numbers of rows are given.
    """
    if config.source != "file" or not config.labels or config.valid or config.test:
        return None
    rows = frame[label_column(config.labels[0])].is_not_null()
    few = min(rows.sum(), frame.height - rows.sum())
    return rows if few >= MIN_ROWS else None


def _group(config: DataConfig, frame: pl.DataFrame) -> str:
    if config.kind == "dialogues":
        return "dialogue"
    return "group" if "group" in frame.columns else "line"


def _from_training(config: DataConfig, frame: pl.DataFrame, group: str, split: str) -> pl.DataFrame:
    """Makes random training rows, by default one in twenty, the split that is missing."""
    train = np.flatnonzero((frame["split"] == "train").to_numpy())
    rows = getattr(config, split) or max(FEWEST, round(SHARES[split] * len(train)))
    if rows >= len(train):
        raise UsageError(
            f"{split} {rows} takes all {len(train)} training rows; lower it in the data set's "
            "section of params.yaml"
        )
    names = frame["split"].to_numpy().astype(object)
    if group == "line":
        stream = numpy_generator(config.seed, split, len(train))
        chosen = train[stream.permutation(len(train))[:rows]]
    else:
        chosen = train[_whole_groups(config, frame[group].to_numpy()[train], rows, split)]
    names[chosen] = split
    return frame.with_columns(split=pl.Series(names.tolist(), dtype=pl.String))


def _whole_groups(config: DataConfig, groups: np.ndarray, rows: int, split: str) -> np.ndarray:
    """Indices of random groups that together have at least ``rows`` rows, but not all."""
    there = np.unique(groups)
    if len(there) < 2:
        raise UsageError(
            f"the training rows are one group, so none can be taken for the split {split}"
        )
    order = there[numpy_generator(config.seed, split, len(there)).permutation(len(there))]
    sizes = np.array([int((groups == group).sum()) for group in order[:-1]])
    enough = int(np.searchsorted(np.cumsum(sizes), rows)) + 1
    return np.flatnonzero(np.isin(groups, order[: min(enough, len(sizes))]))


def limit(config: DataConfig, frame: pl.DataFrame) -> pl.DataFrame:
    """Keeps at most the rows that the parameters ask for, chosen by the seed."""
    parts = []
    for split in SPLITS:
        part = frame.filter(pl.col("split") == split)
        rows = getattr(config, split)
        if rows is not None and rows < part.height:
            stream = numpy_generator(config.seed, "limit", split, part.height)
            part = part[np.sort(stream.permutation(part.height)[:rows])]
        parts.append(part)
    return pl.concat(parts)


def known_labels(
    tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
) -> tuple[dict[str, pl.DataFrame], dict[str, dict[str, dict[str, int]]]]:
    """Takes labels that no training row has from validation and test rows: no model knows them.

    Args:
        tables: of every split.
        labels: the label columns.

    Returns:
        The tables; and, by split and label, how many rows had each value that was taken.
    """
    tables = dict(tables)
    taken: dict[str, dict[str, dict[str, int]]] = {}
    for label in labels:
        column = label_column(label)
        known = tables["train"][column].drop_nulls().unique()
        for split in SHARES:
            values = tables[split][column]
            seen = values.is_in(known.implode())
            unseen = values.filter(values.is_not_null() & ~seen)
            if unseen.is_empty():
                continue
            counts = unseen.cast(pl.String).value_counts().sort(column).rows()
            taken.setdefault(split, {})[label] = {str(value): count for value, count in counts}
            kept = pl.when(pl.col(column).is_in(known.implode())).then(pl.col(column))
            tables[split] = tables[split].with_columns(kept.alias(column))
    return tables, taken
