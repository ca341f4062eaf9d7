"""From prepared tables to packed arrays: tokenizes text, numbers labels, writes memory maps.

What it writes is described in :mod:`ldebm.data.packed`. Bytes depend on the tables and the
parameters only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.columns import label_column, label_names, labels_among
from ldebm.data.kinds import open_kind
from ldebm.data.kinds.sentences import column_values
from ldebm.data.packed import SPLITS
from ldebm.files import parquet_facts, parquet_parts, write_array, write_json

__all__ = ["pack"]


def pack(config: DataConfig, prepared: str | Path, target: str | Path) -> dict[str, Any]:
    """Packs ``data/prepared/<name>`` as ``data/packed/<name>`` and returns ``meta.json``.

    Raises:
        UsageError: the prepared data are missing or damaged, or no tokenizer can be trained.
    """
    files = {split: Path(prepared) / f"{split}.parquet" for split in SPLITS}
    target = Path(target)
    facts = {split: parquet_facts(file) for split, file in files.items()}
    rows = {split: count for split, (count, _) in facts.items()}
    labels = {
        label: label_names(column_values(files["train"], label_column(label)))
        for label in labels_among(facts["train"][1])
    }
    meta = {"kind": config.kind, "source": config.source, "labels": labels, "rows": rows}
    meta |= open_kind(config).pack(files, rows, target)
    for split, file in files.items():
        _write_labels(target, split, file, labels)
    write_json(target / "meta.json", meta)
    return meta


def _write_labels(target: Path, split: str, file: Path, labels: dict[str, list[str]]) -> None:
    """Ids; and labels of all columns in one array, in the order of the names (any text).

    A label is an index into its names, -1 for none, int16.
    """
    columns = {
        label_column(name): {text: number for number, text in enumerate(labels[name])}
        for name in sorted(labels)
    }
    ids = []
    chunks: list[list[np.ndarray]] = [[] for _ in columns]
    for part in parquet_parts(file, ["id", *columns]):
        ids.append(part["id"].astype(np.int64))
        for parts, (column, numbers) in zip(chunks, columns.items(), strict=True):
            row = [-1 if v is None else numbers.get(str(v), -1) for v in part[column]]
            parts.append(np.array(row, dtype=np.int16))
    write_array(target / f"{split}.id.npy", np.concatenate(ids))
    if labels:
        stacked = np.stack([np.concatenate(parts) for parts in chunks])
        write_array(target / f"{split}.labels.npy", stacked)
