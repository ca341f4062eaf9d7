"""Counts in the stages of the data: read, checked and packed as points are, but whole and >= 0."""

from __future__ import annotations

import numpy as np
import polars as pl

from ldebm.data.kinds.base import Cleaned, Limit
from ldebm.data.kinds.points import Points


class Counts(Points):
    """Rows of counts, ``x``; rows with anything else are left out with the reason."""

    limits = (*Points.limits, Limit("smallest", "smallest count", least=0))

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        kept, rejects = super().clean(frame)
        x = kept["x"].to_numpy()
        whole = pl.Series("whole", ((x >= 0) & (x == np.floor(x))).all(axis=1), dtype=pl.Boolean)
        wrong = kept.filter(~whole)
        shown = pl.col("x").cast(pl.List(pl.String)).list.join(" ").alias("row")
        more = wrong.select(
            pl.col("split").cast(pl.String), "line", reason=pl.lit("not counts"), row=shown
        )
        return kept.filter(whole), pl.concat([rejects, more.select(rejects.columns)])

    def facts(self, split, tables, labels):
        return super().facts(split, tables, labels) | {
            "smallest": float(tables[split]["x"].to_numpy().min())
        }
