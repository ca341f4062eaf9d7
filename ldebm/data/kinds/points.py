"""Points of the plane, or of a space of any dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.data.columns import Table, kind_of, label_names_of, numbers, require_column
from ldebm.data.kinds.base import Check, Cleaned, Kind, Limit, divided
from ldebm.errors import UsageError
from ldebm.files import read_parquet, write_array

__all__ = ["Points"]

FEW = 8  # rows of a split: with fewer, one row says little about the spread


class Points(Kind):
    """Rows of coordinates, ``x``."""

    content = "x"
    columns = ("x",)
    limits = (
        Limit("in_train", "share of points that the training split has as well", most=0.5),
        Limit("smallest_std", "standard deviation of a coordinate", least=1e-6),
        # beyond it float32 networks of unit scale cannot be trained
        Limit("largest", "largest coordinate", most=1e4),
    )

    def own_columns(self, table: Table, path: Path) -> dict[str, pl.Series]:
        """Coordinates, float32: of the named columns, or of all that hold numbers."""
        if "x" in self.config.columns:
            names = [name.strip() for name in self.config.columns["x"].split(",")]
            for name in names:
                require_column(table, name, "x", path)
        else:
            taken = {*label_names_of(self.config), "split", "id"}
            others = [name for name in table if name not in taken]
            names = [name for name in others if kind_of(table[name]) in ("numbers", "vectors")]
        if not names:
            raise UsageError(f"{path}: no numeric columns; columns there are: {', '.join(table)}")
        parts = [_coordinates(table[name], f"{path}: column {name!r}") for name in names]
        x = np.concatenate(parts, axis=1).astype(np.float32)
        return {"x": pl.Series(x, dtype=pl.Array(pl.Float32, x.shape[1]))}

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        finite = np.isfinite(frame["x"].to_numpy().astype(np.float64)).all(axis=1)
        usable = pl.Series("usable", finite, dtype=pl.Boolean)
        reason = pl.when(usable).then(None).otherwise(pl.lit("not finite"))
        shown = pl.col("x").cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
        return divided(frame.with_columns(reason=reason), shown)

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        x = tables[split]["x"].to_numpy().astype(np.float64)
        return {
            "dimensions": int(x.shape[1]),
            "mean": x.mean(axis=0).tolist(),
            "std": x.std(axis=0).tolist(),
            "min": x.min(axis=0).tolist(),
            "max": x.max(axis=0).tolist(),
            "largest": float(np.abs(x).max()),
            "smallest_std": float(x.std(axis=0).min()),
        }

    @staticmethod
    def shares(facts: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, float]:
        return {"smallest_std": train["smallest_std"]} if facts["rows"] < FEW else {}

    def checks(self, facts: Mapping[str, Any], train: Mapping[str, Any]) -> list[Check]:
        axes = range(facts["dimensions"])
        return [("ExpectColumnValuesToNotBeNull", {"column": f"x{axis}"}) for axis in axes]

    def checked_columns(self, part: pl.DataFrame) -> dict[str, Any]:
        return {f"x{axis}": values for axis, values in enumerate(part["x"].to_numpy().T)}

    def pack(
        self, files: Mapping[str, Path], rows: Mapping[str, int], target: Path
    ) -> dict[str, Any]:
        """Shift and scale are those of a user's data, since the papers' have a known one."""
        tables = {split: read_parquet(file, ["x"])["x"] for split, file in files.items()}
        meta: dict[str, Any] = {"dimensions": int(tables["train"].shape[1])}
        if self.config.source == "file":
            x = tables["train"].astype(np.float64)
            meta |= {"shift": x.mean(0).tolist(), "scale": np.maximum(x.std(0), 1e-6).tolist()}
        for split, table in tables.items():
            write_array(target / f"{split}.x.npy", table.astype(np.float32))
        return meta


def _coordinates(values: Sequence[Any], where: str) -> np.ndarray:
    if kind_of(values) != "vectors":
        return np.array(numbers(values, where), dtype=np.float64)[:, None]
    width = len(next(value for value in values if value))
    missing = [np.nan] * width
    rows = [numbers(value, where) if value else missing for value in values]
    wrong = next((i for i, row in enumerate(rows, 1) if len(row) != width), None)
    if wrong is not None:
        raise UsageError(f"{where}: row {wrong} has {len(rows[wrong - 1])} numbers, row 1 {width}")
    return np.array(rows, dtype=np.float64)
