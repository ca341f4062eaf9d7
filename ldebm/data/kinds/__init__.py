"""The kinds of data: a file for each, and the table by which they are found."""

from __future__ import annotations

from ldebm.config import DataConfig
from ldebm.data.kinds.base import Kind
from ldebm.data.kinds.dialogues import Dialogues
from ldebm.data.kinds.documents import Documents
from ldebm.data.kinds.images import Images
from ldebm.data.kinds.points import Points
from ldebm.data.kinds.sentences import Sentences

__all__ = ["KINDS", "open_kind"]

KINDS: dict[str, type[Kind]] = {
    "points": Points,
    "sentences": Sentences,
    "dialogues": Dialogues,
    "documents": Documents,
    "images": Images,
}


def open_kind(config: DataConfig) -> Kind:
    """A data set as its kind treats it."""
    return KINDS[config.kind](config)
