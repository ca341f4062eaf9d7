"""From prepared tables to packed arrays: tokenizes text, numbers labels, writes memory maps.

What it writes is described in :mod:`ldebm.data.packed`. Bytes depend on the tables and the
parameters only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.documents import bags, document_words, log_frequencies, train_vocabulary
from ldebm.data.images import batches, table_columns
from ldebm.data.label_columns import label_column, labels_among
from ldebm.data.packed import SPLITS
from ldebm.data.tokenizer import Tokenizer, train_tokenizer
from ldebm.files import atomic_path, read_parquet, write_array, write_json

__all__ = ["label_names", "pack"]

WHOLE = re.compile(r"-?[0-9]{1,18}")


def pack(config: DataConfig, prepared: str | Path, target: str | Path) -> dict[str, Any]:
    """Packs ``data/prepared/<name>`` as ``data/packed/<name>`` and returns ``meta.json``.

    Raises:
        UsageError: the prepared data are missing or damaged, or no tokenizer can be trained.
    """
    prepared, target = Path(prepared), Path(target)
    if config.kind == "images":
        return _pack_images(config, prepared, target)
    tables = {split: read_parquet(prepared / f"{split}.parquet") for split in SPLITS}
    labels = {
        label: label_names(tables["train"][label_column(label)])
        for label in labels_among(tables["train"])
    }
    meta: dict[str, Any] = {"kind": config.kind, "source": config.source, "labels": labels}
    meta["rows"] = {split: len(table["id"]) for split, table in tables.items()}
    if config.kind == "points":
        meta["dimensions"] = int(tables["train"]["x"].shape[1])
        if config.source == "file":  # the papers' data have a known scale
            x = tables["train"]["x"].astype(np.float64)
            meta |= {"shift": x.mean(0).tolist(), "scale": np.maximum(x.std(0), 1e-6).tolist()}
        for split, table in tables.items():
            write_array(target / f"{split}.x.npy", table["x"].astype(np.float32))
    elif config.kind == "documents":
        meta |= _pack_documents(config, tables, target)
    else:
        tokenizer = train_tokenizer(tables["train"]["text"], config.tokenizer, config.vocab_size)
        meta |= _text_meta(config, tokenizer)
        with atomic_path(target / "tokenizer.model") as path:
            path.write_bytes(tokenizer.to_bytes())
        for split, table in tables.items():
            _write_text(config, tokenizer, table, target, split)
    for split, table in tables.items():
        write_array(target / f"{split}.id.npy", table["id"].astype(np.int64))
        _write_labels(target, split, table, labels)
    write_json(target / "meta.json", meta)
    return meta


def _pack_documents(
    config: DataConfig, tables: dict[str, dict[str, Any]], target: Path
) -> dict[str, Any]:
    """Bags of words as compressed rows: ids, counts and offsets; log frequencies of training."""
    words = [document_words(text) for text in tables["train"]["text"]]
    tokenizer = train_vocabulary(words, config.vocab_size)
    with atomic_path(target / "tokenizer.model") as path:
        path.write_bytes(tokenizer.to_bytes())
    for split, table in tables.items():
        found = bags(tokenizer, table["text"])
        _write_rows(target, f"{split}.", [ids.tolist() for ids, _ in found], tokenizer.vocab_size)
        counts = np.concatenate([counts for _, counts in found]).astype(np.int32)
        write_array(target / f"{split}.counts.npy", counts)
        if split == "train":
            ids = np.concatenate([ids for ids, _ in found])
            logs = log_frequencies(ids, counts, tokenizer.vocab_size)
            write_array(target / "background.npy", logs)
    return _text_meta(config, tokenizer)


def _pack_images(config: DataConfig, prepared: Path, target: Path) -> dict[str, Any]:
    """Images go from one file to the other in parts, since all may be more than memory holds."""
    names = table_columns(prepared / "train.parquet")
    tables = {split: read_parquet(prepared / f"{split}.parquet", names) for split in SPLITS}
    height, width, channels = (int(tables["train"][n][0]) for n in ("height", "width", "channels"))
    labels = {
        label: label_names(tables["train"][label_column(label)]) for label in labels_among(names)
    }
    rows = {split: len(table["id"]) for split, table in tables.items()}
    meta: dict[str, Any] = {"kind": config.kind, "source": config.source, "labels": labels}
    meta |= {"rows": rows, "channels": channels, "size": height}
    if config.background != "white":
        meta["background"] = config.background
    for split, table in tables.items():
        write_array(target / f"{split}.id.npy", table["id"].astype(np.int64))
        _write_labels(target, split, table, labels)
        shape = (rows[split], channels, height, width)
        with atomic_path(target / f"{split}.x.npy") as path:
            packed = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)
            start = 0
            for part in batches(prepared / f"{split}.parquet"):
                packed[start : start + len(part.pixels)] = part.pixels.transpose(0, 3, 1, 2)
                start += len(part.pixels)
            packed.flush()
    write_json(target / "meta.json", meta)
    return meta


def _write_labels(
    target: Path, split: str, table: dict[str, Any], labels: dict[str, list[str]]
) -> None:
    """Labels of all columns in one array, in the order of the names, which may be any text."""
    if labels:
        numbers = [_label_numbers(table[label_column(n)], labels[n]) for n in sorted(labels)]
        write_array(target / f"{split}.labels.npy", np.stack(numbers))


def _label_numbers(values: Any, names: list[str]) -> np.ndarray:
    """Labels as indices into ``names``, -1 for none, int16."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers.get(_label_text(v), -1) for v in list(values)], dtype=np.int16)


def label_names(values: Any) -> list[str]:
    """The classes of a label column in the order of their numbers: whole numbers by size.

    Example:
        >>> label_names(["10", "9", None])
        ['9', '10']
        >>> label_names(["pos", "neg", "pos"])
        ['neg', 'pos']
    """
    names = {_label_text(value) for value in list(values) if value is not None}
    if all(WHOLE.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _label_text(value: Any) -> str:
    return "" if value is None else str(value)


def _text_meta(config: DataConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "unk_id": tokenizer.unk_id,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "max_len": config.max_len,
        "tokenizer": config.tokenizer,
        "context_turns": config.context_turns if config.kind == "dialogues" else 0,
    }


def _write_text(
    config: DataConfig, tokenizer: Tokenizer, table: dict[str, Any], target: Path, split: str
) -> None:
    rows = [_cut(row, config.max_len) for row in tokenizer.encode_rows(table["text"])]
    _write_rows(target, f"{split}.", rows, tokenizer.vocab_size)
    if config.kind != "dialogues" or not config.context_turns:
        return
    contexts = [
        [turn for turn in turns if turn][-config.context_turns :] for turns in table["context"]
    ]
    encoded = iter(tokenizer.encode_rows([turn for turns in contexts for turn in turns]))
    joined = [
        [token for _ in turns for token in _cut(next(encoded), config.max_len)]
        for turns in contexts
    ]
    _write_rows(target, f"{split}.context.", joined, tokenizer.vocab_size)


def _cut(row: list[int], length: int) -> list[int]:
    """The first ``length`` - 1 tokens and EOS of a row that is longer (MR 3.2)."""
    return row if len(row) <= length else [*row[: length - 1], row[-1]]


def _write_rows(target: Path, prefix: str, rows: list[list[int]], vocab_size: int) -> None:
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    flat = np.fromiter(
        (token for row in rows for token in row), dtype=dtype, count=int(lengths.sum())
    )
    write_array(target / f"{prefix}ids.npy", flat)
    write_array(target / f"{prefix}offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
