"""Images of one size and mode, with the reason for every one left out.

Pixels wait in a temporary file while splits and limits are decided on a table without them, so that
memory does not grow with the data set. A prepared table has the columns ``id``, ``image`` (the
pixels, uint8 in the order height, width, channel), ``height``, ``width``, ``channels`` and the
labels; it is read in parts.

Shapes: H height, W width, C channels, B images.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ldebm.config import DataConfig
from ldebm.data.columns import label_column, labels
from ldebm.data.image_files import ImageSource, RawImage
from ldebm.data.image_sources import open_images
from ldebm.data.images import ImageError, as_array, resized
from ldebm.data.kinds.base import Check, Cleaned, Kind, Limit, divided
from ldebm.errors import REBUILD, UsageError
from ldebm.files import atomic_path, opened_parquet, parquet_parts

__all__ = ["Images", "batches"]

GROUP_BYTES = 1 << 24  # of pixels in a row group
FEW = 8  # images of a split: with fewer, one says little about the mean colour
CONSTANT = 0.01  # of images, with one value everywhere
PAIRS = "images and labels"  # a hash of all of a split
SIDES = ("height", "width", "channels")


class Images(Kind):
    """Rows of pixels, ``number`` in the temporary file with their ``digest``."""

    content = "digest"
    columns = ("number", "digest")
    limits = (
        Limit("in_train", "share of images that the training split has as well", most=0.25),
        Limit("smallest_std", "standard deviation of the pixels (0 to 255)", least=1),
        Limit("constant", "share of images of one colour, beside a first", most=CONSTANT),
        Limit("shift", "mean colour's distance from training, in standard deviations", most=1),
    )

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.shape: tuple[int, int, int] | None = None  # H, W, C of all
        self._file: Any = None
        self._stored = 0

    @staticmethod
    def is_source(path: Path) -> bool:
        return path.is_file() or path.is_dir()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, raw: Path, scratch: Path) -> pl.DataFrame:
        return self.from_source(open_images(self.config, raw), scratch)

    def from_source(self, source: ImageSource, scratch: Path, every: int = 1) -> pl.DataFrame:
        """Decodes the images of a source, or one in so many.

        Returns:
            A row per image: ``split``, ``line`` (from 1), ``place`` in the source, ``number`` and
            ``digest`` of the pixels or, of one left out, the ``reason``; and the labels.

        Raises:
            UsageError: a source file is missing or damaged, sizes differ and none is asked for, or
                a label is none.
        """
        folder = next(path for path in scratch.absolute().parents if path.is_dir())
        # it has no name and goes with the process
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (:meth:`close`)
        names = self.config.labels if self.config.source == "file" else source.names
        columns = [source.names.index(name) for name in names]
        schema = {"line": pl.Int64(), "split": pl.String(), "place": pl.String(),
                  "number": pl.Int64(), "digest": pl.String(), "reason": pl.String()}  # fmt: skip
        rows: list[tuple[Any, ...]] = []
        values: list[list[Any]] = [[] for _ in names]
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for line, image in enumerate(source.images, 1):
                if line % every:
                    continue
                rows.append((line, image.split, image.place, *self._keep(image)))
                for column, index in zip(values, columns, strict=True):
                    column.append(image.labels[index])
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        return frame.with_columns(
            pl.Series(label_column(name), labels(column, f"label {name!r}"), dtype=pl.String)
            for name, column in zip(names, values, strict=True)
        )

    def _keep(self, image: RawImage) -> tuple[int | None, str | None, str | None]:
        """Number, digest and reason of one image."""
        config, shape = self.config, self.shape
        try:
            if image.fault:
                raise ImageError(image.fault)
            wanted = config.channels or (shape[2] if shape else None)
            pixels = as_array(image.content, wanted, config.background)
        except ImageError as error:
            return None, None, str(error)
        if config.side is not None:
            pixels = resized(pixels, config.side)
        height, width, channels = pixels.shape
        if height != width or (shape and pixels.shape != shape):
            other = f"other images have {shape[0]} x {shape[1]}" if shape else ""
            raise UsageError(
                f"{image.place}: {height} x {width} pixels; {other or 'images have to be square'}: "
                "set side (in pixels) in the data set's section of params.yaml"
            )
        self.shape = (height, width, channels)
        content = pixels.tobytes()
        self._file.write(content)
        self._stored += 1
        return self._stored - 1, _digest(content), None

    def _pixels(self, table: pl.DataFrame) -> Iterator[np.ndarray]:
        """The images of a table, uint8 (B, H, W, C), some megabytes at a time."""
        assert self.shape is not None
        self._file.flush()
        stored = np.memmap(self._file, np.uint8, "r", shape=(self._stored, *self.shape))
        numbers = table["number"].to_numpy()
        rows = max(1, min(65536, GROUP_BYTES // int(np.prod(self.shape))))
        for start in range(0, len(numbers), rows):
            yield stored[numbers[start : start + rows]]

    def clean(self, frame: pl.DataFrame) -> Cleaned:
        kept, left_out = divided(frame, pl.col("place"))
        return kept.drop("place"), left_out

    def facts(
        self, split: str, tables: Mapping[str, pl.DataFrame], labels: Sequence[str]
    ) -> dict[str, Any]:
        """Size of the images, and mean, spread and range of the values of a channel.

        Computed from counts of the 256 values, so that the result does not depend on any order.
        """
        assert self.shape is not None
        table, channels = tables[split], self.shape[2]
        counts = np.zeros((channels, 256), dtype=np.int64)
        constant = 0
        for part in self._pixels(table):
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
            **dict(zip(SIDES, self.shape, strict=True)),
            "mean": mean.tolist(),
            "std": spread.tolist(),
            "min": [int(row[0]) for row in used],
            "max": [int(row[-1]) for row in used],
            "smallest_std": float(spread.min()),
            "constant": constant,
            "pairs": _pairs_hash(table["digest"], [table[label_column(n)] for n in labels]),
        }

    def write(self, target: Path, table: pl.DataFrame) -> None:
        """Writes a split in row groups of some megabytes."""
        assert self.shape is not None
        columns = table.drop("number", "digest").to_arrow(compat_level=pl.CompatLevel.oldest())
        rest = [columns.schema.field(name) for name in columns.column_names if name != "id"]
        own = [pa.field("id", pa.int64()), pa.field("image", pa.binary())]
        schema = pa.schema([*own, *(pa.field(name, pa.int32()) for name in SIDES), *rest])
        start = 0
        with (
            atomic_path(target) as path,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for part in self._pixels(table):
                rows = columns.slice(start, len(part))
                start += len(part)
                arrays = {name: rows.column(name) for name in rows.column_names}
                arrays["image"] = pa.array([image.tobytes() for image in part], pa.binary())
                for name, size in zip(SIDES, self.shape, strict=True):
                    arrays[name] = pa.array(np.full(len(part), size, dtype=np.int32))
                writer.write_table(
                    pa.table([arrays[field.name] for field in schema], schema=schema),
                    row_group_size=len(part),
                )

    @staticmethod
    def shares(facts: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, float]:
        """``constant`` beside a first; ``shift`` of a channel's mean over the training spread."""
        if "constant" not in facts:
            return {}
        difference = np.abs(np.array(facts["mean"]) - np.array(train["mean"]))
        shift = float((difference / np.maximum(train["std"], 1e-6)).max())
        return {
            "constant": max(0, facts["constant"] - 1) / facts["rows"],
            "shift": shift * min(1.0, facts["rows"] / FEW) ** 0.5,
        }

    def checks(self, facts: Mapping[str, Any], train: Mapping[str, Any]) -> list[Check]:
        """Sizes are those of training; images and labels are together as they were read."""
        wanted = {name: train[name] for name in SIDES} | {PAIRS: facts["pairs"]}
        wanted["bytes"] = train["height"] * train["width"] * train["channels"]
        mostly = 1 - max(CONSTANT, 1 / facts["rows"])  # one may have one value everywhere
        varied = {"column": "range", "min_value": 1, "mostly": mostly}
        return [
            ("ExpectColumnValuesToBeBetween", varied),
            *(("ExpectColumnValuesToBeInSet", {"column": name, "value_set": [value]})
              for name, value in wanted.items()),
        ]  # fmt: skip

    def checked(self, path: Path, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Facts of every image, of which a row group at a time is in memory."""
        columns = [label_column(label) for label in labels]
        facts: dict[str, list[Any]] = {name: [] for name in (*SIDES, "bytes", "range", *columns)}
        hashes = []
        with opened_parquet(path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                for name in (*SIDES, *columns):
                    facts[name] += table.column(name).to_pylist()
                for content in table.column("image").to_pylist():
                    image = np.frombuffer(content, np.uint8)
                    facts["bytes"].append(image.size)
                    facts["range"].append(int(np.ptp(image)) if image.size else 0)
                    hashes.append(_digest(content))
        pairs = _pairs_hash(hashes, [facts[name] for name in columns])
        yield facts | {PAIRS: [pairs] * len(hashes)}

    def pack(
        self, files: Mapping[str, Path], rows: Mapping[str, int], target: Path
    ) -> dict[str, Any]:
        """Images go from one file to the other in parts: all may be more than memory holds."""
        sides = next(parquet_parts(files["train"], SIDES))
        height, width, channels = (int(sides[name][0]) for name in SIDES)
        meta: dict[str, Any] = {"channels": channels, "size": height}
        if self.config.background != "white":
            meta["background"] = self.config.background
        for split, file in files.items():
            shape = (rows[split], channels, height, width)
            with atomic_path(target / f"{split}.x.npy") as path:
                packed = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)
                start = 0
                for pixels, _ in batches(file):
                    packed[start : start + len(pixels)] = pixels.transpose(0, 3, 1, 2)
                    start += len(pixels)
                packed.flush()
        return meta


def batches(path: str | Path) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """The row groups of a prepared table: pixels, uint8 (B, H, W, C), and the other columns.

    Raises:
        UsageError: the file is missing or damaged, or an image does not have the size it states.
    """
    with opened_parquet(path) as file:
        for number in range(file.num_row_groups):
            columns = file.read_row_group(number).to_pydict()
            content = columns.pop("image")
            shapes = set(zip(*(columns[name] for name in SIDES), strict=True))
            lengths = {len(image) for image in content}
            if len(shapes) != 1 or lengths != {int(np.prod(next(iter(shapes))))}:
                raise UsageError(f"{path}: images of different sizes; {REBUILD}")
            pixels = np.frombuffer(b"".join(content), dtype=np.uint8)
            yield pixels.reshape(len(content), *shapes.pop()), columns


def _pairs_hash(digests: Iterable[str], labels: Iterable[Iterable[Any]]) -> str:
    """A hash of the images of a split and of their labels, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for row in zip(digests, *labels, strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _digest(pixels: bytes) -> str:
    """What tells images apart: a hash of their pixels."""
    return hashlib.blake2b(pixels, digest_size=16).hexdigest()
