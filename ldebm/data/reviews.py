"""Sentences with a sentiment: Yelp, movie reviews, the Stanford Sentiment Treebank.

docs/method.md, section 6.5.

Every frame has ``split`` (null where the source has none), ``line``, ``text``, ``sentiment`` and,
where rows are left out, ``fault``.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ldebm.config import DataConfig
from ldebm.data.frames import lines_frame
from ldebm.data.text_files import read_lines
from ldebm.errors import UsageError

__all__ = ["read_polarity", "read_sst2", "read_yelp", "read_yelp_li"]

SENTIMENTS = ("negative", "positive")  # by the number that ends a file's name
OPPOSITE = {"negative": "positive", "positive": "negative"}


def _pair(stem: Path, split: str | None) -> pl.DataFrame:
    """``<stem>.0`` and ``<stem>.1`` one after the other; lines are numbered through both."""
    parts = [
        lines_frame(stem.with_name(f"{stem.name}.{number}"), split).with_columns(
            sentiment=pl.lit(name)
        )
        for number, name in enumerate(SENTIMENTS)
    ]
    offset = pl.col("line") + parts[0].height
    return pl.concat([parts[0], parts[1].with_columns(line=offset)])


def read_yelp(config: DataConfig, raw: Path) -> pl.DataFrame:
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
    held = [_pair(li / "sentiment.dev", "valid"), _pair(li / "sentiment.test", "test")]
    others = pl.concat(held)["text"].str.strip_chars().implode()
    fault = pl.when(pl.col("text").str.strip_chars().is_in(others)).then(
        pl.lit("also in the validation or test split")
    )
    return pl.concat(
        [
            _pair(train, "train").with_columns(fault=fault),
            *(part.with_columns(fault=pl.lit(None, pl.String)) for part in held),
        ]
    )


def read_yelp_li(_: DataConfig, raw: Path) -> pl.DataFrame:
    """Development, test and human rewrites of Li et al., to check a classifier with.

    The validation split holds the rewrites (``human.txt``), under the sentiment that was asked of
    the writers: the opposite of the sentence that they rewrote.
    """
    sources = _pair(raw / "sentiment.test", "test")
    rewrites = lines_frame(raw / "human.txt", "valid")
    if rewrites.height != sources.height:
        raise UsageError(
            f"{raw / 'human.txt'}: {rewrites.height} rewrites of {sources.height} test sentences"
        )
    opposite = sources["sentiment"].replace_strict(OPPOSITE)
    train = _pair(raw / "sentiment.dev", "train")
    return pl.concat([train, rewrites.with_columns(sentiment=opposite), sources])


def read_polarity(_: DataConfig, raw: Path) -> pl.DataFrame:
    """The two files of Pang and Lee, which have no splits."""
    parts, before = [], 0
    for name, suffix in (("negative", "neg"), ("positive", "pos")):
        part = lines_frame(raw / f"rt-polarity.{suffix}", None)
        line = pl.col("line") + before
        parts.append(part.with_columns(line=line, sentiment=pl.lit(name)))
        before += part.height
    return pl.concat(parts)


def read_sst2(_: DataConfig, raw: Path) -> pl.DataFrame:
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
        parts.append(
            pl.DataFrame(
                {
                    "text": [text for text, _tab, _label in rows],
                    "sentiment": [SENTIMENTS[int(label)] for _text, _tab, label in rows],
                }
            )
            .with_row_index("line", offset=1)
            .with_columns(pl.col("line").cast(pl.Int64), split=pl.lit(split))
        )
    return pl.concat(parts)
