"""The kinds of data: a file for each, and the table by which they are found."""

from __future__ import annotations

from ldebm.config import DataConfig
from ldebm.data.kinds.base import Kind
from ldebm.data.kinds.dialogues import Dialogues
from ldebm.data.kinds.documents import Documents
from ldebm.data.kinds.images import Images
from ldebm.data.kinds.points import Points
from ldebm.data.kinds.sentences import Sentences
from ldebm.plugins import find

__all__ = ["KINDS", "kind_named", "open_kind"]

KINDS: dict[str, type[Kind]] = {
    "points": Points,
    "sentences": Sentences,
    "dialogues": Dialogues,
    "documents": Documents,
    "images": Images,
}


def open_kind(config: DataConfig) -> Kind:
    """A data set as its kind treats it."""
    return kind_named(config.kind)(config)


def kind_named(name: str) -> type[Kind]:
    """The class of a kind of data: of this table, or of a plugin.

    Raises:
        UsageError: there is none.
    """
    if name in KINDS:
        return KINDS[name]
    kind: type[Kind] = find("kinds", name).data()
    return kind
