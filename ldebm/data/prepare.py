"""From source files to one canonical table per split, with a profile of what they hold.

Writes ``train.parquet``, ``valid.parquet`` and ``test.parquet``, ``rejects.parquet`` (every row
that was left out, with the reason) and ``profile.json`` (what validation looks at). Rows that
belong together (turns of a dialogue, texts of a game) stay in one split. Labels that no training
row has become none in the other splits: no model knows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.config import DataConfig
from ldebm.data.columns import MAX_CLASSES, label_column, labels_among
from ldebm.data.kinds import open_kind
from ldebm.data.kinds.base import Kind, counts
from ldebm.data.packed import SPLITS
from ldebm.errors import UsageError
from ldebm.files import atomic_path, write_json
from ldebm.seeding import numpy_generator

__all__ = ["Prepared", "examine", "prepare", "with_splits"]

MIN_ROWS = 10
SHARES = {"valid": 0.05, "test": 0.05}  # of a source without splits
FEWEST = 2  # rows of such a split: of one there is no spread


def prepare(config: DataConfig, raw: str | Path, target: str | Path) -> dict[str, Any]:
    """Prepares ``data/raw/<name>`` as ``data/prepared/<name>`` and returns the profile.

    Raises:
        UsageError: the source does not hold what the parameters say, or too little of it.
    """
    raw, target = Path(raw), Path(target)
    with closing(open_kind(config)) as kind:
        prepared = examine(kind, kind.read(raw, target), raw)
        for split, table in prepared.tables.items():
            kind.write(target / f"{split}.parquet", table)
    with atomic_path(target / "rejects.parquet") as path:
        prepared.rejects.write_parquet(path, compression="zstd", row_group_size=65536)
    write_json(target / "profile.json", prepared.profile)
    return prepared.profile


@dataclass(frozen=True)
class Prepared:
    """A table of every split, the rows left out, and the profile."""

    tables: dict[str, pl.DataFrame]
    rejects: pl.DataFrame
    profile: dict[str, Any]


def examine(kind: Kind, frame: pl.DataFrame, raw: Path) -> Prepared:
    """Cleans and divides the rows of a source, without writing anything.

    Args:
        kind: the data set.
        frame: its rows, as the kind has read them.
        raw: where they come from, for messages.

    Raises:
        UsageError: there are too few usable rows, a split has none, or a label does not fit.
    """
    labels = _labels(kind.config, frame)
    frame, rejects = kind.clean(frame)
    if frame.height >= MIN_ROWS:
        frame = _limited(kind.config, with_splits(kind.config, frame))
        frame, more = kind.after_split(frame)
        rejects = pl.concat([rejects, more]) if more.height else rejects
    if frame.height < MIN_ROWS:
        reasons = counts(rejects["reason"])
        why = "".join(f"; {count} {reason}" for reason, count in reasons.items())
        raise UsageError(
            f"{raw}: {frame.height} usable rows ({rejects.height} left out{why}); at least "
            f"{MIN_ROWS} are needed"
        )
    order = pl.col("split").replace_strict({name: i for i, name in enumerate(SPLITS)})
    frame = frame.sort(order, "line", maintain_order=True)  # turns of a dialogue share a line
    frame = frame.with_row_index("id").with_columns(pl.col("id").cast(pl.Int64))
    columns = ["id", *kind.columns, *map(label_column, labels)]
    tables = {split: frame.filter(pl.col("split") == split).select(columns) for split in SPLITS}
    for split, table in tables.items():
        if table.height == 0:
            raise UsageError(f"{raw}: the {split} split has no usable row")
    _check_labels(tables["train"], labels, raw)
    unseen = _take_unseen(tables, labels)
    train_rows = tables["train"].select(kind.content).unique()
    splits = {}
    for split, table in tables.items():
        splits[split] = facts = {
            "rows": table.height,
            "duplicates": table.height - table.select(kind.content).n_unique(),
            "labels": {label: counts(table[label_column(label)]) for label in labels},
            **kind.facts(split, tables, labels),
        }
        if split != "train":
            facts["in_train"] = table.join(train_rows, on=kind.content, how="semi").height
        if split in unseen:
            facts["unseen_labels"] = unseen[split]
    left_out = {"rows": rejects.height, "reasons": counts(rejects["reason"])}
    profile = {"kind": kind.config.kind, "source": kind.config.source, "labels": labels,
               "splits": splits, "rejects": left_out}  # fmt: skip
    return Prepared(tables, rejects, profile)


def _labels(config: DataConfig, frame: pl.DataFrame) -> list[str]:
    there = labels_among(frame.columns)
    for name in config.labels:
        if name not in there:
            known = ", ".join(there) or "none"
            raise UsageError(
                f"source {config.source!r}: no label column {name!r}; label columns there: {known}"
            )
    return list(config.labels) or there


def _check_labels(train: pl.DataFrame, labels: Sequence[str], raw: Path) -> None:
    for label in labels:
        values = train[label_column(label)].drop_nulls().unique().sort()
        if len(values) < 2:
            present = f"only {values[0]!r}" if len(values) else "no value"
            raise UsageError(
                f"{raw}: label {label!r} has {present} in the training split; at least two classes "
                "are needed: name another column, or none"
            )
        if len(values) > MAX_CLASSES:
            raise UsageError(
                f"{raw}: label {label!r} has {len(values)} classes, more than {MAX_CLASSES}; "
                "is it an identifier?"
            )


def _take_unseen(
    tables: dict[str, pl.DataFrame], labels: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Takes labels that no training row has from the other tables.

    Returns:
        By split and label, how many rows had each value that was taken.
    """
    taken: dict[str, dict[str, dict[str, int]]] = {}
    for label in labels:
        column = label_column(label)
        known = tables["train"][column].drop_nulls().unique().implode()
        for split in SHARES:
            values = tables[split][column]
            unseen = values.filter(values.is_not_null() & ~values.is_in(known))
            if not unseen.is_empty():
                taken.setdefault(split, {})[label] = counts(unseen)
                kept = pl.when(pl.col(column).is_in(known)).then(pl.col(column))
                tables[split] = tables[split].with_columns(kept.alias(column))
    return taken


def with_splits(config: DataConfig, frame: pl.DataFrame) -> pl.DataFrame:
    """Splits 90/5/5 by the seed where the source has no split.

    Splits that a source with training rows lacks are taken from these. Rows of one ``group`` (or
    ``dialogue``) stay together.

    Raises:
        UsageError: there are too few rows, the wanted numbers take all of them, or the source has
            splits but no training rows.
    """
    group = next(name for name in ("dialogue", "group", "line") if name in frame.columns)
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
    groups, sizes = np.unique(frame[group].to_numpy(), return_counts=True)
    if len(groups) < MIN_ROWS:
        raise UsageError(f"{len(groups)} {group}s cannot be split; at least {MIN_ROWS} are needed")
    order = numpy_generator(config.seed, "splits", len(groups)).permutation(len(groups))
    before = np.cumsum(sizes[order]) - sizes[order]
    valid, test = (
        getattr(config, split) or max(FEWEST, round(share * frame.height))
        for split, share in SHARES.items()
    )
    first = int(np.searchsorted(before, valid))  # groups until there are enough rows
    second = int(np.searchsorted(before, before[min(first, len(before) - 1)] + test))
    if second >= len(groups):
        raise UsageError(
            f"valid {valid} and test {test} take all {frame.height} rows; lower them in the data "
            "set's section of params.yaml"
        )
    codes = np.zeros(len(groups), dtype=np.uint8)  # of the groups, into SPLITS
    codes[order[:first]], codes[order[first:second]] = 1, 2
    splits = pl.Series(codes[np.searchsorted(groups, frame[group].to_numpy())])
    names = splits.replace_strict(dict(enumerate(SPLITS)), return_dtype=frame.schema["split"])
    return frame.with_columns(split=names)


def _labelled(config: DataConfig, frame: pl.DataFrame) -> pl.Series | None:
    """Which of a user's partly labelled rows have the first label, so that every split gets some.

    None where all or too few have it, or the numbers of rows are given.
    """
    if config.source != "file" or not config.labels or config.valid or config.test:
        return None
    rows = frame[label_column(config.labels[0])].is_not_null()
    few = min(rows.sum(), frame.height - rows.sum())
    return rows if few >= MIN_ROWS else None


def _from_training(config: DataConfig, frame: pl.DataFrame, group: str, split: str) -> pl.DataFrame:
    """Makes random training rows, by default one in twenty, the split that is missing.

    They are whole groups that together have at least so many rows, but not all.
    """
    train = frame.filter(pl.col("split") == "train")[group].to_numpy()
    rows = getattr(config, split) or max(FEWEST, round(SHARES[split] * len(train)))
    if rows >= len(train):
        raise UsageError(
            f"{split} {rows} takes all {len(train)} training rows; lower it in the data set's "
            "section of params.yaml"
        )
    groups, sizes = np.unique(train, return_counts=True)
    if len(groups) < 2:
        raise UsageError(
            f"the training rows are one group, so none can be taken for the split {split}"
        )
    order = numpy_generator(config.seed, split, len(groups)).permutation(len(groups))[:-1]
    enough = int(np.searchsorted(np.cumsum(sizes[order]), rows)) + 1
    chosen = pl.Series(groups[order[:enough]]).implode()
    taken = (pl.col("split") == "train") & pl.col(group).is_in(chosen)
    names = pl.when(taken).then(pl.lit(split)).otherwise(pl.col("split"))
    return frame.with_columns(split=names.cast(frame.schema["split"]))


def _limited(config: DataConfig, frame: pl.DataFrame) -> pl.DataFrame:
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
