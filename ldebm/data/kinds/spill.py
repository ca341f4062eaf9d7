"""Texts that wait in a temporary file while their splits are decided on a table without them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Spill"]

SCHEMA = pa.schema([("text", pa.large_string())])


class Spill:
    """Texts on disk, numbered from 0 as they come; null where there is none.

    Args:
        scratch: a folder, which need not exist, on whose disk there is room for them.
    """

    def __init__(self, scratch: Path) -> None:
        folder = next(path for path in scratch.absolute().parents if path.is_dir())
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=".texts-")
        self._file = Path(self._folder.name) / "texts.parquet"
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="lz4")
        self._rows = 0

    def add(self, texts: pl.Series) -> None:
        """Adds the next texts."""
        column = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
        self._writer.write_table(pa.table([column], schema=SCHEMA))
        self._rows += len(texts)

    def texts(self, numbers: pl.Series) -> pl.LazyFrame:
        """The column ``text`` of these rising numbers; :meth:`add` is not called any more."""
        assert numbers.is_sorted()
        self._writer.close()
        wanted = np.zeros(self._rows, dtype=bool)
        wanted[numbers.to_numpy()] = True
        rows = [pl.scan_parquet(self._file), pl.LazyFrame({"wanted": wanted})]
        return pl.concat(rows, how="horizontal").filter("wanted").select("text")

    def close(self) -> None:
        """Removes the file."""
        self._writer.close()
        self._folder.cleanup()
