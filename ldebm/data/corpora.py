"""The published text corpora, read from their own files: dialogues, descriptions, news.

docs/method.md, section 6.

Sentences with a sentiment are in :mod:`ldebm.data.reviews`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.frames import lines_frame, numbered
from ldebm.data.packed import SPLITS
from ldebm.data.reviews import read_polarity, read_sst2, read_yelp, read_yelp_li
from ldebm.data.text_files import existing, read_json_file, read_lines, read_table
from ldebm.data.turns import Dialogue, dialogue_frame
from ldebm.data.values import texts
from ldebm.errors import UsageError

__all__ = ["CORPORA", "read_corpus"]

TURN_END = "__eou__"
ACTIONS = {"1": "inform", "2": "question", "3": "directive", "4": "commissive"}
EMOTIONS = {
    "0": "no emotion", "1": "anger", "2": "disgust", "3": "fear", "4": "happiness",
    "5": "sadness", "6": "surprise",
}  # fmt: skip
SPEAKERS = {"driver": "usr", "assistant": "sys"}
TOPICS = {"1": "world", "2": "sports", "3": "business", "4": "technology"}


def read_corpus(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Reads a source of :data:`CORPORA`.

    Raises:
        UsageError: a file is missing or is not what was published; the kind is another.
    """
    kind, reader = CORPORA[config.source]
    if config.kind != kind:
        raise UsageError(f"source {config.source!r}: kind {config.kind!r}; its kind is {kind!r}")
    return reader(config, raw)


def _ptb(_: DataConfig, raw: Path) -> pl.DataFrame:
    return pl.concat([lines_frame(raw / f"ptb.{split}.txt", split) for split in SPLITS])


def _chatter(_: DataConfig, raw: Path) -> pl.DataFrame:
    frame = pl.read_parquet(existing(raw / "utterances.parquet"))
    return numbered(frame).with_columns(split=pl.lit(None, pl.String))


def _daily_dialog(config: DataConfig, raw: Path) -> pl.DataFrame:
    """A dialogue a line; its acts and emotions as numbers on the same line of two other files."""

    def dialogues() -> Iterator[Dialogue]:
        for split, folder in (("train", "train"), ("valid", "validation"), ("test", "test")):
            path = raw / folder / "dialogues.txt"
            spoken = read_lines(path)
            labels = {
                "action": _labels(raw / folder / "dialogues_act.txt", len(spoken), ACTIONS),
                "emotion": _labels(raw / folder / "dialogues_emotion.txt", len(spoken), EMOTIONS),
            }
            for index, line in enumerate(spoken):
                turns = line.split(TURN_END)
                yield Dialogue(
                    turns[:-1] if not turns[-1].strip() else turns,
                    f"{path}: line {index + 1}",
                    index + 1,
                    split,
                    {name: values[index] for name, values in labels.items()},
                )

    return dialogue_frame(
        dialogues(), ("action", "emotion"), config.context_turns, strict=config.strict
    )


def _labels(path: Path, wanted: int, names: dict[str, str]) -> list[list[str | None]]:
    lines = read_lines(path)
    if len(lines) != wanted:
        raise UsageError(
            f"{path}: {len(lines)} lines of labels for {wanted} dialogues in dialogues.txt"
        )
    for number, line in enumerate(lines, 1):
        for value in line.split():
            if value not in names:
                known = ", ".join(f"{key} {name}" for key, name in names.items())
                raise UsageError(f"{path}: line {number}: label {value!r}; expected {known}")
    return [[names[value] for value in line.split()] for line in lines]


def _kvret(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Turns of the driver and of the assistant, <usr> or <sys> first; the task is the label."""

    def dialogues() -> Iterator[Dialogue]:
        for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
            path = raw / f"kvret_{name}_public.json"
            packed = path.with_suffix(".json.gz")
            path = packed if packed.is_file() else path
            for number, item in enumerate(_entries(path), 1):
                place = f"{path}: dialogue {number}"
                try:
                    task = str(item["scenario"]["task"]["intent"])
                    turns = [str(turn["data"]["utterance"]) for turn in item["dialogue"]]
                    who = [SPEAKERS[turn["turn"]] for turn in item["dialogue"]]
                except (KeyError, TypeError) as error:
                    raise UsageError(f"{place}: no {error} as published") from None
                yield Dialogue(turns, place, number, split, {"task": [task] * len(turns)}, who)

    return dialogue_frame(dialogues(), ("task",), config.context_turns, strict=config.strict)


def _entries(path: Path) -> list[Any]:
    content = read_json_file(path)
    if not isinstance(content, list) or not content:
        raise UsageError(f"{path}: expected a list of entries, as published")
    return content


def _jericho(_: DataConfig, raw: Path) -> pl.DataFrame:
    """``loc_desc`` of state and next_state, each text once a split; games are not divided.

    The published test games are the test split; by ``group``, the number of the game,
    validation rows are taken from the training games.
    """
    rows: list[dict[str, Any]] = []
    games: dict[str, int] = {}
    for split in ("train", "test"):
        path = raw / f"{split}.json"
        seen: set[str] = set()
        for number, item in enumerate(_flat(_entries(path)), 1):
            try:
                game = str(item["rom"])
                texts = [item[name]["loc_desc"] for name in ("state", "next_state")]
            except (KeyError, TypeError) as error:
                raise UsageError(f"{path}: entry {number}: no {error} as published") from None
            for text in texts:
                plain = " ".join(str(text).split()).lower()
                if not plain or plain in seen:
                    continue
                seen.add(plain)
                index = games.setdefault(game, len(games))
                rows.append({"split": split, "line": number, "text": str(text), "group": index})
    schema = {"split": pl.String, "line": pl.Int64, "text": pl.String, "group": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


def _flat(entries: list[Any]) -> Iterator[Any]:
    for item in entries:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _agnews(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Texts with one of four topics; without the full training file, dev.jsonl takes its place."""
    files = {"train": "train.jsonl", "valid": "dev.jsonl", "test": "test.jsonl"}
    if not config.full:
        files = {"train": "dev.jsonl", "test": "test.jsonl"}
    parts = []
    for split, name in files.items():
        table = read_table(raw / name)
        for column in ("text", "label"):
            if column not in table:
                there = ", ".join(table)
                raise UsageError(f"{raw / name}: no {column!r} as published; there: {there}")
        place = str(raw / name)
        columns = {"text": texts(table["text"], place), "topic": texts(table["label"], place)}
        frame = numbered(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)))
        unknown = frame.filter(~pl.col("topic").is_in(list(TOPICS)))
        if unknown.height:
            line, found = unknown["line"][0], unknown["topic"][0]
            raise UsageError(f"{raw / name}: line {line}: label {found!r}; expected 1 to 4")
        topic = pl.col("topic").replace_strict(TOPICS)
        parts.append(frame.with_columns(topic=topic, split=pl.lit(split)))
    return pl.concat(parts)


Reader = Callable[[DataConfig, Path], pl.DataFrame]
CORPORA: dict[str, tuple[str, Reader]] = {
    "ptb": ("sentences", _ptb),
    "chatter": ("dialogues", _chatter),
    "daily_dialog": ("dialogues", _daily_dialog),
    "kvret": ("dialogues", _kvret),
    "jericho": ("sentences", _jericho),
    "yelp": ("sentences", read_yelp),
    "yelp_judge": ("sentences", read_yelp),
    "yelp_li": ("sentences", read_yelp_li),
    "rt_polarity": ("sentences", read_polarity),
    "sst2": ("sentences", read_sst2),
    "agnews": ("documents", _agnews),
}
