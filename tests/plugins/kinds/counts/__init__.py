"""Counts: rows of whole numbers from 0 up, as events an hour, from numeric columns of a file."""

from __future__ import annotations

from typing import Any

from ldebm.plugins import KindPlugin


def data() -> Any:
    """The class for the stages of the data."""
    from plugins.kinds.counts.rows import Counts

    return Counts


def model() -> Any:
    """The class of models."""
    from plugins.kinds.counts.model import CountModel

    return CountModel


plugin = KindPlugin(data, model)
