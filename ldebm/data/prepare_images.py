"""Preparing images: decoded, of one size and mode, with the reason for every one left out.

Pixels wait in a temporary file while splits and limits are decided on a table without them, so that
memory does not grow with the data set.

Shapes: H height, W width, C channels, B images.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from ldebm.config import DataConfig
from ldebm.data.image_files import ImageSource, RawImage
from ldebm.data.images import ImageError, as_array, group_rows, image_digest, resized, write_images
from ldebm.data.label_columns import label_column
from ldebm.data.values import labels as label_values
from ldebm.errors import UsageError

__all__ = ["ImageStore", "read_images"]


class ImageStore:
    """Pixels of equally large images in a temporary file.

    Args:
        target: the file is on the disk of this folder, which need not be there yet; it has no name
            and goes with the process.
    """

    def __init__(self, target: Path) -> None:
        folder = next(path for path in target.absolute().parents if path.is_dir())
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)
        self.shape: tuple[int, int, int] | None = None
        self.n = 0

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, pixels: np.ndarray) -> int:
        """Keeps one image and returns its number."""
        if self.shape is None:
            self.shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
        self._file.write(pixels.tobytes())
        self.n += 1
        return self.n - 1

    def parts(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        """The images of these numbers, uint8 (B, H, W, C), some megabytes at a time."""
        assert self.shape is not None
        self._file.flush()
        stored = np.memmap(self._file, np.uint8, "r", shape=(self.n, *self.shape))
        rows = group_rows(self.shape)
        for start in range(0, len(numbers), rows):
            yield stored[numbers[start : start + rows]]

    def write(self, target: Path, table: pl.DataFrame) -> None:
        """Writes a prepared table: the images that column ``number`` names, and its columns."""
        assert self.shape is not None
        columns = table.drop("number", "digest").to_arrow(compat_level=pl.CompatLevel.oldest())
        write_images(target, self.parts(table["number"].to_numpy()), columns, self.shape)

    def facts(self, table: pl.DataFrame) -> dict[str, Any]:
        """Size of the images of ``table``, and mean, spread and range of the values of a channel.

        Computed from counts of the 256 values, so that the result does not depend on any order.
        """
        assert self.shape is not None
        channels = self.shape[2]
        counts = np.zeros((channels, 256), dtype=np.int64)
        constant = 0
        for part in self.parts(table["number"].to_numpy()):
            flat = part.reshape(len(part), -1)
            constant += int((flat.min(axis=1) == flat.max(axis=1)).sum())
            for channel in range(channels):
                counts[channel] += np.bincount(part[..., channel].reshape(-1), minlength=256)
        values = np.arange(256)
        total = counts.sum(axis=1)
        mean = counts @ values / total
        spread = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
        used = [np.flatnonzero(row) for row in counts]
        return {
            **dict(zip(("height", "width", "channels"), self.shape, strict=True)),
            "mean": mean.tolist(),
            "std": spread.tolist(),
            "min": [int(row[0]) for row in used],
            "max": [int(row[-1]) for row in used],
            "smallest_std": float(spread.min()),
            "constant": constant,
        }


def read_images(
    config: DataConfig, source: ImageSource, store: ImageStore, every: int = 1
) -> pl.DataFrame:
    """Decodes the images of a source into ``store``.

    Args:
        config: of the data set.
        source: its images.
        store: takes the pixels.
        every: read one image in so many.

    Returns:
        A row per image: ``split``, ``line`` (from 1), ``place`` in the source, ``number`` in the
        store and ``digest`` of the pixels or, of one left out, the ``reason``; and the labels.

    Raises:
        UsageError: a source file is missing or damaged, sizes differ and none is asked for, or a
            label is none.
    """
    names = config.labels if config.source == "file" else source.names
    columns = [source.names.index(name) for name in names]
    rows: dict[str, list[Any]] = {
        name: [] for name in ("line", "split", "place", "number", "digest", "reason")
    }
    labels: list[list[Any]] = [[] for _ in names]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for line, image in enumerate(source.images, 1):
            if line % every:
                continue
            kept = _keep(image, config, store)
            for name, value in zip(rows, (line, image.split, image.place, *kept), strict=True):
                rows[name].append(value)
            for column, index in zip(labels, columns, strict=True):
                column.append(image.labels[index])
    schema = {"line": pl.Int64, "number": pl.Int64}
    frame = pl.DataFrame(rows, schema={name: schema.get(name, pl.String) for name in rows})
    named = [
        pl.Series(label_column(name), label_values(column, f"label {name!r}"), dtype=pl.String)
        for name, column in zip(names, labels, strict=True)
    ]
    return frame.with_columns(*named)


def _keep(
    image: RawImage, config: DataConfig, store: ImageStore
) -> tuple[int | None, str | None, str | None]:
    """Number, digest and reason of one image."""
    wanted = config.channels or (store.shape[2] if store.shape else None)
    try:
        if image.fault:
            raise ImageError(image.fault)
        pixels = as_array(image.content, wanted, config.background)
    except ImageError as error:
        return None, None, str(error)
    if config.side is not None:
        pixels = resized(pixels, config.side)
    if pixels.shape[0] != pixels.shape[1] or (store.shape and pixels.shape != store.shape):
        height, width = pixels.shape[:2]
        other = f"other images have {store.shape[0]} x {store.shape[1]}" if store.shape else ""
        raise UsageError(
            f"{image.place}: {height} x {width} pixels; {other or 'images have to be square'}: "
            "set side (in pixels) in the data set's section of params.yaml"
        )
    return store.add(pixels), image_digest(pixels.tobytes()), None
