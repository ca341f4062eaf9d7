"""The section ``data``: where a data set comes from, and how it is prepared."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ldebm.config.images import JudgeConfig
from ldebm.config.sections import Section
from ldebm.config.text_judge import TextJudgeConfig

__all__ = ["DataConfig"]


class DataConfig(Section):
    """One data set: where it comes from and how it is prepared and packed."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"full", "split_punctuation", "strict", "classifier"}
    )
    kind: Literal["points", "sentences", "dialogues", "documents", "images"]
    source: str  # a name of the source registry, or "file"
    path: str | None = None  # source "file": the user's file (or folder of images)
    sha256: str | None = None  # source "file": checked when given (of a folder: of its zip)
    checksums: dict[str, str] = {}  # file name to sha256, where the registry knows none
    full: bool = False  # also the files of the source that a mirror need not hold
    columns: dict[
        Literal["text", "label", "context", "x", "dialogue", "turn", "speaker"], str
    ] = {}  # source "file"
    seed: int = 0  # generators and random splits
    train: int | None = Field(None, gt=0)  # rows; None: all that the source has
    valid: int | None = Field(None, gt=0)
    test: int | None = Field(None, gt=0)
    labels: list[str] = []  # label columns to keep, of those that the source has
    lowercase: bool = False
    split_punctuation: bool = False  # words and runs of marks become words (MR 3.3)
    strict: bool = True  # dialogues: unequal numbers of turns and labels are an error
    tokenizer: Literal["word", "unigram", "bpe"] = "word"
    vocab_size: int = Field(10001, ge=8)  # with the four control tokens
    max_len: int = Field(40, ge=3)  # tokens with BOS and EOS; longer rows keep EOS (MR 3.2)
    context_turns: int = Field(0, ge=0)
    size: int | None = Field(None, ge=4, le=1024)  # images: pixels of a side; None: as they are
    channels: Literal[1, 3] | None = None  # images: grey or colour; None: as the first image is
    judge: JudgeConfig = JudgeConfig()  # images: the keys that differ from the section `judge`
    classifier: TextJudgeConfig | None = None  # text: train one of its labels, to score control
