"""The section ``data``: where a data set comes from, and how it is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ldebm.config.classifiers import ImageClassifierConfig, TextClassifierConfig
from ldebm.config.plugged import Plugged
from ldebm.config.sections import Section

__all__ = ["DataConfig"]


class DataConfig(Section):
    """One data set: where it comes from and how it is prepared and packed."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"full", "split_punctuation", "strict", "text_classifier", "background"}
    )
    former: ClassVar[Mapping[str, str]] = {
        "judge": "image_classifier", "classifier": "text_classifier", "size": "side",
    }  # fmt: skip
    kind: Annotated[
        Literal["points", "sentences", "dialogues", "documents", "images"] | str, Plugged("kinds")
    ]
    """What a row is: a point of the plane, a sentence, an utterance of a dialogue, a document
    (word counts), an image, or a kind of yours (docs/extending.md).
    """
    source: str
    """Name in the list of known sources (`ldebm data list`), or `file` for your own data."""
    path: str | None = None
    """Your file or folder of images, relative to the project; with `source: file`."""
    sha256: str | None = None
    """Expected sha256 of your file (of a folder: of its zip); null: not checked."""
    checksums: dict[str, str] = {}
    """Expected sha256 by file name, for files of a source whose checksum is not known."""
    full: bool = False
    """Also fetch the optional files of the source, which a mirror need not hold."""
    columns: dict[Literal["text", "label", "context", "x", "dialogue", "turn", "speaker"], str] = {}
    """Which column of your file has which role; `x` of points lists its columns, separated by
    commas.
    """
    seed: int = 0
    """Seed of generated data and of random splits."""
    train: int | None = Field(None, gt=0)
    """Training rows to keep, chosen at random; null: all."""
    valid: int | None = Field(None, gt=0)
    """Validation rows to keep. Where the source has none, as many are taken from the training
    rows; null: one in twenty.
    """
    test: int | None = Field(None, gt=0)
    """Test rows to keep. Where the source has no splits, as many are set aside; null: all, or
    one in twenty.
    """
    labels: list[str] = []
    """Label columns to keep; empty: all that a known source has, and none of your own file."""
    lowercase: bool = False
    """Convert the text to lower case."""
    split_punctuation: bool = False
    """Make words and runs of punctuation marks separate words."""
    strict: bool = True
    """In dialogues, stop when the numbers of turns and labels differ; false: drop such
    dialogues and count them.
    """
    tokenizer: Literal["word", "unigram", "bpe"] = "word"
    """How text becomes tokens: whole words, or the subwords of a unigram or byte-pair model."""
    vocab_size: int = Field(10001, ge=8)
    """Entries of the vocabulary, with the four control tokens (padding, unknown, begin, end)."""
    max_len: int = Field(40, ge=3)
    """Longest row in tokens, with the begin and end tokens; longer rows are cut and keep the
    end token.
    """
    context_turns: int = Field(0, ge=0)
    """Previous turns of a dialogue that a response is given; 0: no context. Yu et al. (2022),
    appendix B.2, use 5.
    """
    side: int | None = Field(None, ge=4, le=1024)
    """Side of the images in pixels, to which they are scaled; null: as they are."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour images; null: as the first image."""
    background: Literal["white", "black"] = "white"
    """Colour behind transparent pixels of images."""
    image_classifier: ImageClassifierConfig | None = None
    """The classifier that measures images of this data set; null: the defaults."""
    text_classifier: TextClassifierConfig | None = None
    """Train a classifier of the labels of this text data set, by which `evaluate.classifier`
    scores control; null: none.
    """

    def known_labels(self) -> list[str] | None:
        """The label columns that the packed data have; None where only the source knows."""
        own = [self.columns["label"]] if "label" in self.columns else []
        return [*self.labels, *own] if self.labels or self.source == "file" else None
