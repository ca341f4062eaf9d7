"""Small packed sets of documents and dialogues, written as the pack stage writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.data import chatter
from ldebm.data.documents import bags, log_frequencies, train_vocabulary
from ldebm.data.packed import Packed, open_packed
from ldebm.data.tokenizer import Tokenizer, train_tokenizer
from ldebm.seeding import numpy_generator

__all__ = ["TOPICS", "documents", "packed_dialogues", "packed_documents"]

TOPICS = {
    "sports": "match goal team coach league striker keeper season",
    "weather": "rain cloud storm frost sunshine breeze snow thunder",
    "money": "bank stock price trade market profit dollar share",
}
COMMON = "today people report city week office"


def documents(rows: int, seed: int) -> tuple[list[str], list[int]]:
    """Texts of ten words, two thirds of them of one topic."""
    stream = numpy_generator(seed, "documents", rows)
    names, texts, labels = sorted(TOPICS), [], []
    for _ in range(rows):
        label = int(stream.integers(len(names)))
        own, common = TOPICS[names[label]].split(), COMMON.split()
        words = [str(stream.choice(own if stream.random() < 0.66 else common)) for _ in range(10)]
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def packed_documents(folder: Path, train: int = 240) -> Packed:
    """Documents of three topics with known labels."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": documents(train, 0), "valid": documents(40, 1), "test": documents(90, 2)}
    tokenizer = train_vocabulary(parts["train"][0], 60)
    meta = _meta("documents", tokenizer, {"topic": sorted(TOPICS)})
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, (texts, labels) in parts.items():
        pairs = bags(tokenizer, texts)
        ids = np.concatenate([ids for ids, _ in pairs])
        counts = np.concatenate([counts for _, counts in pairs]).astype(np.int32)
        np.save(folder / f"{name}.ids.npy", ids.astype(np.uint16))
        np.save(folder / f"{name}.counts.npy", counts)
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *(len(ids) for ids, _ in pairs)]))
        np.save(folder / f"{name}.labels.npy", np.array([labels], dtype=np.int16))
        np.save(folder / f"{name}.id.npy", np.arange(len(texts)))
        if name == "train":
            logs = log_frequencies(ids, counts, tokenizer.vocab_size)
            np.save(folder / "background.npy", logs)
    return open_packed(folder)


def packed_dialogues(folder: Path, turns: int = 2) -> Packed:
    """Utterances of the generated dialogues with the turns before them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = chatter.generate(400, 0)
    tokenizer = train_tokenizer([row.text for row in rows], "word", 600)
    meta = _meta("dialogues", tokenizer, {"intent": sorted(chatter.INTENTS)}, turns)
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, part in (("train", rows[:300]), ("valid", rows[300:340]), ("test", rows[340:])):
        _rows(folder, name, [tokenizer.encode(row.text) for row in part])
        before = [[tokenizer.encode(turn) for turn in row.context[-turns:]] for row in part]
        _rows(
            folder,
            f"{name}.context",
            [[token for turn in item for token in turn] for item in before],
        )
        label = [sorted(chatter.INTENTS).index(row.intent) for row in part]
        np.save(folder / f"{name}.labels.npy", np.array([label], dtype=np.int16))
        np.save(folder / f"{name}.id.npy", np.arange(len(part)))
    return open_packed(folder)


def _rows(folder: Path, name: str, ids: list[list[int]]) -> None:
    np.save(folder / f"{name}.ids.npy", np.concatenate([np.array(r, dtype=np.uint16) for r in ids]))
    np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *map(len, ids)]))


def _meta(
    kind: str, tokenizer: Tokenizer, labels: dict[str, list[str]], turns: int = 0
) -> dict[str, Any]:
    return {
        "kind": kind, "source": "mine", "labels": labels, "max_len": 24, "context_turns": turns,
        "vocab_size": tokenizer.vocab_size, "tokenizer": "word",
        "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3,
    }  # fmt: skip
