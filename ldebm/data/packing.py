"""From prepared tables to packed arrays: tokenizes text, numbers labels, writes memory maps.

What it writes is described in :mod:`ldebm.data.packed`. Bytes depend on the tables and the
parameters only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.documents import bags, document_words, log_frequencies, train_vocabulary
from ldebm.data.images import batches
from ldebm.data.label_columns import label_column, labels_among
from ldebm.data.packed import SPLITS
from ldebm.data.tokenizer import SAMPLE, Tokenizer, sample, train_tokenizer
from ldebm.files import (
    atomic_path,
    parquet_facts,
    parquet_parts,
    read_parquet,
    write_array,
    write_json,
)

__all__ = ["label_names", "pack"]

WHOLE = re.compile(r"-?[0-9]{1,18}")


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
        label: label_names(_column(files["train"], label_column(label)))
        for label in labels_among(facts["train"][1])
    }
    meta: dict[str, Any] = {"kind": config.kind, "source": config.source, "labels": labels}
    meta |= {"rows": rows} | KINDS[config.kind](config, files, rows, target)
    for split, file in files.items():
        _write_labels(target, split, file, labels)
    write_json(target / "meta.json", meta)
    return meta


def _column(file: Path, name: str) -> Iterator[Any]:
    """The values of a column, of which few are in memory at a time."""
    return (value for part in parquet_parts(file, [name]) for value in part[name])


def _pack_points(
    config: DataConfig, files: dict[str, Path], rows: dict[str, int], target: Path
) -> dict[str, Any]:
    """Coordinates; and the shift and scale of a user's, since the papers' data have a known one."""
    tables = {split: read_parquet(file, ["x"])["x"] for split, file in files.items()}
    meta: dict[str, Any] = {"dimensions": int(tables["train"].shape[1])}
    if config.source == "file":
        x = tables["train"].astype(np.float64)
        meta |= {"shift": x.mean(0).tolist(), "scale": np.maximum(x.std(0), 1e-6).tolist()}
    for split, table in tables.items():
        write_array(target / f"{split}.x.npy", table.astype(np.float32))
    return meta


def _pack_text(
    config: DataConfig, files: dict[str, Path], rows: dict[str, int], target: Path
) -> dict[str, Any]:
    """Token ids of sentences or dialogues, by the tokenizer that is trained first."""
    chosen = sample(_column(files["train"], "text"), rows["train"])
    tokenizer = train_tokenizer(chosen, config.tokenizer, config.vocab_size)
    _write_tokenizer(target, tokenizer)
    for split, file in files.items():
        _write_text(config, tokenizer, file, target, split)
    sampled = {"tokenizer_rows": SAMPLE} if rows["train"] > SAMPLE else {}
    return _text_meta(config, tokenizer) | sampled


def _pack_documents(
    config: DataConfig, files: dict[str, Path], rows: dict[str, int], target: Path
) -> dict[str, Any]:
    """Bags of words as compressed rows: ids, counts and offsets; log frequencies of training."""
    words = [document_words(text) for text in _column(files["train"], "text")]
    tokenizer = train_vocabulary(words, config.vocab_size)
    _write_tokenizer(target, tokenizer)
    for split, file in files.items():
        found = bags(tokenizer, list(_column(file, "text")))
        _write_rows(target, f"{split}.", [[ids.tolist() for ids, _ in found]], tokenizer.vocab_size)
        counts = np.concatenate([counts for _, counts in found]).astype(np.int32)
        write_array(target / f"{split}.counts.npy", counts)
        if split == "train":
            ids = np.concatenate([ids for ids, _ in found])
            logs = log_frequencies(ids, counts, tokenizer.vocab_size)
            write_array(target / "background.npy", logs)
    return _text_meta(config, tokenizer)


def _pack_images(
    config: DataConfig, files: dict[str, Path], rows: dict[str, int], target: Path
) -> dict[str, Any]:
    """Images go from one file to the other in parts, since all may be more than memory holds."""
    sides = next(parquet_parts(files["train"], ["height", "width", "channels"]))
    height, width, channels = (int(sides[name][0]) for name in ("height", "width", "channels"))
    meta: dict[str, Any] = {"channels": channels, "size": height}
    if config.background != "white":
        meta["background"] = config.background
    for split, file in files.items():
        shape = (rows[split], channels, height, width)
        with atomic_path(target / f"{split}.x.npy") as path:
            packed = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)
            start = 0
            for part in batches(file):
                packed[start : start + len(part.pixels)] = part.pixels.transpose(0, 3, 1, 2)
                start += len(part.pixels)
            packed.flush()
    return meta


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "points": _pack_points,
    "sentences": _pack_text,
    "dialogues": _pack_text,
    "documents": _pack_documents,
    "images": _pack_images,
}


def _write_tokenizer(target: Path, tokenizer: Tokenizer) -> None:
    with atomic_path(target / "tokenizer.model") as path:
        path.write_bytes(tokenizer.to_bytes())


def _write_labels(target: Path, split: str, file: Path, labels: dict[str, list[str]]) -> None:
    """Ids; and labels of all columns in one array, in the order of the names (any text)."""
    columns = {label_column(name): labels[name] for name in sorted(labels)}
    ids, numbers = [], []
    for part in parquet_parts(file, ["id", *columns]):
        ids.append(part["id"].astype(np.int64))
        numbers += [_label_numbers(part[column], names) for column, names in columns.items()]
    write_array(target / f"{split}.id.npy", np.concatenate(ids))
    if labels:
        stacked = [np.concatenate(numbers[i :: len(columns)]) for i in range(len(columns))]
        write_array(target / f"{split}.labels.npy", np.stack(stacked))


def _label_numbers(values: Any, names: list[str]) -> np.ndarray:
    """Labels as indices into ``names``, -1 for none, int16."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers.get(_label_text(v), -1) for v in list(values)], dtype=np.int16)


def label_names(values: Iterable[Any]) -> list[str]:
    """The classes of a label column in the order of their numbers: whole numbers by size.

    Example:
        >>> label_names(["10", "9", None])
        ['9', '10']
        >>> label_names(["pos", "neg", "pos"])
        ['neg', 'pos']
    """
    names = {_label_text(value) for value in values if value is not None}
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
    config: DataConfig, tokenizer: Tokenizer, file: Path, target: Path, split: str
) -> None:
    encoded = tokenizer.encode_parts(_column(file, "text"))
    rows = ([_cut(row, config.max_len) for row in part] for part in encoded)
    _write_rows(target, f"{split}.", rows, tokenizer.vocab_size)
    if config.kind == "dialogues" and config.context_turns:
        parts = (part["context"] for part in parquet_parts(file, ["context"]))
        joined = (_contexts(config, tokenizer, part) for part in parts)
        _write_rows(target, f"{split}.context.", joined, tokenizer.vocab_size)


def _contexts(config: DataConfig, tokenizer: Tokenizer, rows: list[list[str]]) -> list[list[int]]:
    """The last turns before every row, one after the other."""
    contexts = [[turn for turn in turns if turn][-config.context_turns :] for turns in rows]
    encoded = iter(tokenizer.encode_rows(turn for turns in contexts for turn in turns))
    return [
        [token for _ in turns for token in _cut(next(encoded), config.max_len)]
        for turns in contexts
    ]


def _cut(row: list[int], length: int) -> list[int]:
    """The first ``length`` - 1 tokens and EOS of a row that is longer."""
    return row if len(row) <= length else [*row[: length - 1], row[-1]]


def _write_rows(
    target: Path, prefix: str, parts: Iterable[list[list[int]]], vocab_size: int
) -> None:
    """Rows as they come, kept as arrays: a list of Python has eight times their size."""
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
    flat, lengths = [np.empty(0, dtype)], [np.empty(0, np.int64)]
    for rows in parts:
        lengths.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
        tokens = itertools.chain.from_iterable(rows)
        flat.append(np.fromiter(tokens, dtype=dtype, count=int(lengths[-1].sum())))
    write_array(target / f"{prefix}ids.npy", np.concatenate(flat))
    offsets = np.cumsum(np.concatenate(lengths))
    write_array(target / f"{prefix}offsets.npy", np.concatenate([[0], offsets]))
