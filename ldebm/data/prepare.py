"""From source files to one canonical table per split, with a profile of what they hold.

Writes ``train.parquet``, ``valid.parquet`` and ``test.parquet``, ``rejects.parquet`` (every row
that was left out, with the reason) and ``profile.json`` (what validation looks at).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.config import DataConfig
from ldebm.data.image_sources import open_images
from ldebm.data.images import pairs_hash
from ldebm.data.label_columns import label_column, labels_among
from ldebm.data.limits import MAX_CLASSES
from ldebm.data.packed import SPLITS
from ldebm.data.prepare_documents import known_documents
from ldebm.data.prepare_images import ImageStore, read_images
from ldebm.data.readers import read_source
from ldebm.data.splits import MIN_ROWS, known_labels, limit, with_splits
from ldebm.data.tokenizer import UNK
from ldebm.errors import UsageError
from ldebm.files import atomic_path, write_json

__all__ = ["MAX_CHARACTERS", "Prepared", "examine", "prepare"]

MAX_CHARACTERS = 20_000
BASE_COLUMNS = {
    "points": ["x"],
    "sentences": ["text"],
    "dialogues": ["text", "context", "dialogue", "turn"],
    "documents": ["text", "known"],
    "images": ["number", "digest"],
}
# A word, a tag such as <unk>, or a run of marks; control characters are none of these.
WORDS = r"<\w+>|\w+|[^\w\s\x00-\x1f\x7f]+"
CONTENT = {"points": "x", "images": "digest"}  # what makes rows equal; text where not named


def prepare(config: DataConfig, raw: str | Path, target: str | Path) -> dict[str, Any]:
    """Prepares ``data/raw/<name>`` as ``data/prepared/<name>`` and returns the profile.

    Raises:
        UsageError: the source does not hold what the parameters say, or too little of it.
    """
    raw = Path(raw)
    if config.kind != "images":
        found = examine(config, read_source(config, raw), raw)
        found.write(Path(target))
        return found.profile
    with ImageStore(Path(target)) as store:
        found = examine(config, read_images(config, open_images(config, raw), store), raw, store)
        found.write(Path(target), store)
    return found.profile


@dataclass(frozen=True)
class Prepared:
    """What is written for a data set: a table of every split, the rows left out, the profile."""

    tables: dict[str, pl.DataFrame]
    rejects: pl.DataFrame
    profile: dict[str, Any]

    def write(self, target: Path, store: ImageStore | None = None) -> None:
        """Writes ``data/prepared/<name>``; ``store`` has the pixels of images."""
        for split, table in self.tables.items():
            if store is None:
                _write(target / f"{split}.parquet", table)
            else:
                store.write(target / f"{split}.parquet", table)
        _write(target / "rejects.parquet", self.rejects)
        write_json(target / "profile.json", self.profile)


def examine(
    config: DataConfig, frame: pl.DataFrame, raw: Path, store: ImageStore | None = None
) -> Prepared:
    """Cleans and divides the rows of a source, without writing anything.

    Args:
        config: the data set.
        frame: its rows, as :func:`read_source` or :func:`read_images` gives them.
        raw: where they come from, for messages.
        store: the pixels of images.

    Raises:
        UsageError: there are too few usable rows, a split has none, or a label does not fit.
    """
    labels = _label_columns(config, frame)
    frame, rejects = CLEANERS.get(config.kind, _clean_text)(config, frame)
    if frame.height >= MIN_ROWS:
        frame = limit(config, with_splits(config, frame))
        if config.kind == "documents":
            frame, unknown = known_documents(config, frame)
            rejects = pl.concat([rejects, unknown])
    if frame.height < MIN_ROWS:
        reasons = _counts(rejects["reason"])
        why = "".join(f"; {count} {reason}" for reason, count in reasons.items())
        raise UsageError(
            f"{raw}: {frame.height} usable rows ({rejects.height} left out{why}); at least "
            f"{MIN_ROWS} are needed"
        )
    order = pl.col("split").replace_strict({name: i for i, name in enumerate(SPLITS)})
    frame = frame.sort(order, "line", maintain_order=True)  # turns of a dialogue share a line
    frame = frame.with_row_index("id").with_columns(pl.col("id").cast(pl.Int64))
    tables = {
        split: frame.filter(pl.col("split") == split).select(
            "id", *BASE_COLUMNS[config.kind], *map(label_column, labels)
        )
        for split in SPLITS
    }
    for split, table in tables.items():
        if table.height == 0:
            raise UsageError(f"{raw}: the {split} split has no usable row")
    _check_labels(tables["train"], labels, raw)
    tables, unseen = known_labels(tables, labels)
    profile = _profile(config, tables, labels, rejects, store)
    for split, found in unseen.items():
        profile["splits"][split]["unseen_labels"] = found
    return Prepared(tables, rejects, profile)


def _label_columns(config: DataConfig, frame: pl.DataFrame) -> list[str]:
    there = labels_among(frame.columns)
    for name in config.labels:
        if name not in there:
            known = ", ".join(there) or "none"
            raise UsageError(
                f"source {config.source!r}: no label column {name!r}; label columns there: {known}"
            )
    given = config.source == "file" and config.kind == "images"  # may have columns of other uses
    return list(config.labels) or ([] if given else there)


def _clean_text(config: DataConfig, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Normalises white space (and case), and takes out rows without usable text."""

    def tidy(text: pl.Expr) -> pl.Expr:
        if config.split_punctuation:
            text = text.str.extract_all(WORDS).list.join(" ")
        text = text.str.replace_all(r"\s+", " ").str.strip_chars()
        return text.str.to_lowercase() if config.lowercase else text

    frame = frame.with_columns(text=tidy(pl.col("text")))
    if config.kind == "dialogues":
        frame = frame.with_columns(context=pl.col("context").list.eval(tidy(pl.element())))
    fault = pl.col("fault") if "fault" in frame.columns else pl.lit(None, pl.String)
    reason = (
        pl.when(fault.is_not_null())
        .then(fault)
        .when(pl.col("text").is_null() | (pl.col("text") == ""))
        .then(pl.lit("empty"))
        .when(pl.col("text").str.len_chars() > MAX_CHARACTERS)
        .then(pl.lit(f"longer than {MAX_CHARACTERS} characters"))
        .when(pl.col("text").str.contains("[\u2581\\x00-\\x1f\\x7f]"))
        .then(pl.lit("control character"))
    )
    kept, left_out = _divide(frame.with_columns(reason=reason), pl.col("text").str.slice(0, 200))
    return kept.drop("fault", strict=False), left_out


def _clean_points(_: DataConfig, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Takes out points with coordinates that are missing or not finite."""
    finite = np.isfinite(frame["x"].to_numpy().astype(np.float64)).all(axis=1)
    usable = pl.Series("usable", finite, dtype=pl.Boolean)
    reason = pl.when(usable).then(None).otherwise(pl.lit("not finite"))
    shown = pl.col("x").cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
    return _divide(frame.with_columns(reason=reason), shown)


def _clean_images(_: DataConfig, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Takes out the images for which decoding gave a reason."""
    kept, left_out = _divide(frame, pl.col("place"))
    return kept.drop("place"), left_out


CLEANERS: dict[str, Callable[[DataConfig, pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]]] = {
    "points": _clean_points,
    "images": _clean_images,
}


def _divide(frame: pl.DataFrame, shown: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows to keep and those left out: with a reason, or without split where others have one."""
    split = pl.col("split")
    if 0 < frame["split"].null_count() < frame.height:
        lost = pl.when(split.is_null()).then(pl.lit("of no split, though others are"))
        frame = frame.with_columns(reason=pl.coalesce("reason", lost))
    kept = frame.filter(pl.col("reason").is_null()).drop("reason")
    left_out = frame.filter(pl.col("reason").is_not_null())
    columns = [pl.col("split").cast(pl.String), "line", "reason", shown.alias("row")]
    return kept, left_out.select(columns)


def _check_labels(train: pl.DataFrame, labels: list[str], raw: str | Path) -> None:
    for label in labels:
        values = train[label_column(label)].drop_nulls().unique().sort()
        if len(values) < 2:
            found = f"only {values[0]!r}" if len(values) else "no value"
            raise UsageError(
                f"{raw}: label {label!r} has {found} in the training split; at least two classes "
                "are needed: name another column, or none"
            )
        if len(values) > MAX_CLASSES:
            raise UsageError(
                f"{raw}: label {label!r} has {len(values)} classes, more than {MAX_CLASSES}; "
                "is it an identifier?"
            )


def _profile(
    config: DataConfig,
    tables: dict[str, pl.DataFrame],
    labels: list[str],
    rejects: pl.DataFrame,
    store: ImageStore | None,
) -> dict[str, Any]:
    content = CONTENT.get(config.kind, "text")
    train_rows = tables["train"].select(content).unique()
    splits = {}
    for split, table in tables.items():
        facts: dict[str, Any] = {
            "rows": table.height,
            "duplicates": table.height - table.select(content).n_unique(),
            "labels": {label: _counts(table[label_column(label)]) for label in labels},
        }
        if split != "train":
            facts["in_train"] = table.join(train_rows, on=content, how="semi").height
        if store is not None:
            facts |= store.facts(table)
            facts["pairs"] = pairs_hash(table["digest"], [table[label_column(n)] for n in labels])
        else:
            facts |= _point_facts(table) if config.kind == "points" else _text_facts(table)
        if config.kind == "documents":
            facts["known_mean"] = float(np.mean(table["known"].to_numpy()))
        if config.kind == "dialogues":
            facts["dialogues"] = table["dialogue"].n_unique()
            facts["mean_context"] = float(np.mean(table["context"].list.len().to_numpy()))
            others = [part["dialogue"] for name, part in tables.items() if name != split]
            shared = table["dialogue"].is_in(pl.concat(others).implode())
            facts["shared_dialogues"] = table["dialogue"].filter(shared).n_unique()
        splits[split] = facts
    reasons = _counts(rejects["reason"])
    return {
        "kind": config.kind,
        "source": config.source,
        "labels": labels,
        "splits": splits,
        "rejects": {"rows": rejects.height, "reasons": reasons},
    }


def _counts(values: pl.Series) -> dict[str, int]:
    counted = values.drop_nulls().cast(pl.String).value_counts().rows()
    return dict(sorted((str(value), int(count)) for value, count in counted))


def _text_facts(table: pl.DataFrame) -> dict[str, Any]:
    words = table["text"].str.split(" ")
    lengths = words.list.len().to_numpy()
    flat = words.explode()
    return {
        "words": int(lengths.sum()),
        "words_min": int(lengths.min()),
        "words_mean": float(lengths.mean()),
        "words_max": int(lengths.max()),
        "types": flat.n_unique(),
        "unknown": int((flat == UNK).sum()),
    }


def _point_facts(table: pl.DataFrame) -> dict[str, Any]:
    x = table["x"].to_numpy().astype(np.float64)
    return {
        "dimensions": int(x.shape[1]),
        "mean": x.mean(axis=0).tolist(),
        "std": x.std(axis=0).tolist(),
        "min": x.min(axis=0).tolist(),
        "max": x.max(axis=0).tolist(),
        "largest": float(np.abs(x).max()),
        "smallest_std": float(x.std(axis=0).min()),
    }


def _write(target: Path, table: pl.DataFrame) -> None:
    with atomic_path(target) as path:
        table.write_parquet(path, compression="zstd", row_group_size=65536)
