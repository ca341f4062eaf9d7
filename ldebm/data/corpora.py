"""The sources of points and text, read from their own files into one frame.

docs/method.md, section 6.

A frame has ``split`` (null where the source has none), ``line`` (of the source file, from 1), the
columns of its kind and, where rows are left out, ``fault``; every other column is a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.columns import label_column, labels_among, texts
from ldebm.data.packed import SPLITS
from ldebm.data.text_files import existing, read_json_file, read_lines, read_table
from ldebm.data.turns import Dialogue, dialogue_frame
from ldebm.errors import UsageError

__all__ = ["CORPORA", "numbered", "read_corpus"]

NO_LABELS = {"split", "line", "x", "text", "context", "dialogue", "turn", "fault", "group"}
TURN_END = "__eou__"
ACTIONS = {"1": "inform", "2": "question", "3": "directive", "4": "commissive"}
EMOTIONS = {
    "0": "no emotion", "1": "anger", "2": "disgust", "3": "fear", "4": "happiness",
    "5": "sadness", "6": "surprise",
}  # fmt: skip
SPEAKERS = {"driver": "usr", "assistant": "sys"}
TOPICS = {"1": "world", "2": "sports", "3": "business", "4": "technology"}
SENTIMENTS = ("negative", "positive")  # by the number that ends a file's name


def read_corpus(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Reads a source of :data:`CORPORA`.

    Raises:
        UsageError: a file is missing or is not what was published; the kind is another.
    """
    if config.source not in CORPORA:
        raise UsageError(
            f"source {config.source!r}: its files can be fetched but not prepared as {config.kind};"
            f" prepared are {', '.join(CORPORA)}, those of kind images, and file (`ldebm new NAME "
            "--from FILE`)"
        )
    kind, reader = CORPORA[config.source]
    if config.kind != kind:
        raise UsageError(f"source {config.source!r}: kind {config.kind!r}; its kind is {kind!r}")
    frame = reader(config, raw)
    labels = [n for n in frame.columns if n not in NO_LABELS and not labels_among([n])]
    return frame.rename({name: label_column(name) for name in labels})


def numbered(frame: pl.DataFrame, before: int = 0) -> pl.DataFrame:
    """The frame with the number of every row, from 1 (after ``before`` others), as ``line``."""
    frame = frame.with_row_index("line", offset=before + 1)
    return frame.with_columns(pl.col("line").cast(pl.Int64))


def _lines(
    path: Path, split: str | None, before: int = 0, sentiment: str | None = None
) -> pl.DataFrame:
    """One row a line."""
    frame = numbered(pl.DataFrame({"text": read_lines(path)}, schema={"text": pl.String}), before)
    frame = frame.with_columns(split=pl.lit(split, pl.String))
    return frame if sentiment is None else frame.with_columns(sentiment=pl.lit(sentiment))


def _points(_: DataConfig, raw: Path) -> pl.DataFrame:
    parts = [pl.read_parquet(existing(raw / f"{split}.parquet")) for split in SPLITS]
    return pl.concat(
        numbered(part).with_columns(split=pl.lit(split))
        for split, part in zip(SPLITS, parts, strict=True)
    )


def _ptb(_: DataConfig, raw: Path) -> pl.DataFrame:
    return pl.concat([_lines(raw / f"ptb.{split}.txt", split) for split in SPLITS])


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


def _labels(path: Path, wanted: int, names: Mapping[str, str]) -> list[list[str | None]]:
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
                descriptions = [item[name]["loc_desc"] for name in ("state", "next_state")]
            except (KeyError, TypeError) as error:
                raise UsageError(f"{path}: entry {number}: no {error} as published") from None
            for text in map(str, descriptions):
                plain = " ".join(text.split()).lower()
                if plain and plain not in seen:
                    seen.add(plain)
                    index = games.setdefault(game, len(games))
                    rows.append({"split": split, "line": number, "text": text, "group": index})
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
            line, value = unknown["line"][0], unknown["topic"][0]
            raise UsageError(f"{raw / name}: line {line}: label {value!r}; expected 1 to 4")
        topic = pl.col("topic").replace_strict(TOPICS)
        parts.append(frame.with_columns(topic=topic, split=pl.lit(split)))
    return pl.concat(parts)


def _pair(files: tuple[Path, Path], split: str | None) -> pl.DataFrame:
    """Negative, then positive sentences (section 6.5); lines are numbered through both files."""
    negative, positive = SENTIMENTS
    first = _lines(files[0], split, 0, negative)
    return pl.concat([first, _lines(files[1], split, first.height, positive)])


def _numbered_pair(stem: Path, split: str) -> pl.DataFrame:
    zero, one = (stem.with_name(f"{stem.name}.{number}") for number in (0, 1))
    return _pair((zero, one), split)


def _yelp(config: DataConfig, raw: Path) -> pl.DataFrame:
    """Training sentences without those of the validation and test splits of Li et al.

    Training rows are the test files of Shen et al. (the published training files of Li et al. where
    ``full`` is set). ``yelp_judge`` has other ones, the development files of Shen et al., so that a
    classifier of what was generated has seen none of the generator's sentences.
    """
    li = raw / "yelp_li"
    if config.source == "yelp_judge":
        train = raw / "yelp_shen" / "sentiment.dev"
    else:
        train = li / "sentiment.train" if config.full else raw / "yelp_shen" / "sentiment.test"
    held = pl.concat([_numbered_pair(li / "sentiment.dev", "valid"),
                      _numbered_pair(li / "sentiment.test", "test")])  # fmt: skip
    others = held["text"].str.strip_chars().implode()
    fault = pl.when(pl.col("text").str.strip_chars().is_in(others)).then(
        pl.lit("also in the validation or test split")
    )
    kept = held.with_columns(fault=pl.lit(None, pl.String))
    return pl.concat([_numbered_pair(train, "train").with_columns(fault=fault), kept])


def _yelp_li(_: DataConfig, raw: Path) -> pl.DataFrame:
    """Development, test and human rewrites of Li et al., to check a classifier with.

    The validation split holds the rewrites (``human.txt``), under the sentiment that was asked of
    the writers: the opposite of the sentence that they rewrote.
    """
    sources = _numbered_pair(raw / "sentiment.test", "test")
    rewrites = _lines(raw / "human.txt", "valid")
    if rewrites.height != sources.height:
        raise UsageError(
            f"{raw / 'human.txt'}: {rewrites.height} rewrites of {sources.height} test sentences"
        )
    opposite = dict(zip(SENTIMENTS, reversed(SENTIMENTS), strict=True))
    rewrites = rewrites.with_columns(sentiment=sources["sentiment"].replace_strict(opposite))
    return pl.concat([_numbered_pair(raw / "sentiment.dev", "train"), rewrites, sources])


def _polarity(_: DataConfig, raw: Path) -> pl.DataFrame:
    return _pair((raw / "rt-polarity.neg", raw / "rt-polarity.pos"), None)


def _sst2(_: DataConfig, raw: Path) -> pl.DataFrame:
    """A sentence, a tab, and 0 or 1, a line."""
    parts = []
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        path = raw / f"{name}.tsv"
        rows = [line.rpartition("\t") for line in read_lines(path)]
        for number, (text, _tab, label) in enumerate(rows, 1):
            if label.strip() not in ("0", "1") or not text:
                raise UsageError(
                    f"{path}: line {number}: expected a sentence, a tab, and 0 or 1; got label "
                    f"{label.strip()[:20]!r}"
                )
        columns = {
            "text": [text for text, _tab, _label in rows],
            "sentiment": [SENTIMENTS[int(label)] for _text, _tab, label in rows],
        }
        parts.append(numbered(pl.DataFrame(columns)).with_columns(split=pl.lit(split)))
    return pl.concat(parts)


Reader = Callable[[DataConfig, Path], pl.DataFrame]
CORPORA: dict[str, tuple[str, Reader]] = {
    "gaussians16": ("points", _points),
    "gaussians8": ("points", _points),
    "pinwheel10": ("points", _points),
    "pinwheel5": ("points", _points),
    "ptb": ("sentences", _ptb),
    "chatter": ("dialogues", _chatter),
    "daily_dialog": ("dialogues", _daily_dialog),
    "kvret": ("dialogues", _kvret),
    "jericho": ("sentences", _jericho),
    "yelp": ("sentences", _yelp),
    "yelp_judge": ("sentences", _yelp),
    "yelp_li": ("sentences", _yelp_li),
    "rt_polarity": ("sentences", _polarity),
    "sst2": ("sentences", _sst2),
    "agnews": ("documents", _agnews),
}
