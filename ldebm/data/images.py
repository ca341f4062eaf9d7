"""Images as arrays: decoding files, one size and one number of channels, prepared tables.

A prepared table of images has the columns ``id``, ``image`` (the pixels, uint8 in the order height,
width, channel), ``height``, ``width``, ``channels`` and the labels. It is read in parts, since a
split may be larger than memory.

Shapes: H height, W width, C channels, B images.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from ldebm.errors import UsageError
from ldebm.files import atomic_path

__all__ = [
    "ImageError",
    "ImageTable",
    "as_array",
    "batches",
    "group_rows",
    "resized",
    "table_columns",
    "write_images",
]

LARGEST = 50_000_000  # pixels: a small file may unpack to gigabytes
GROUP_BYTES = 1 << 24  # of pixels in a row group
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)


class ImageError(Exception):
    """One image cannot be used; the message is the reason."""


def as_array(content: bytes | np.ndarray, channels: int | None) -> np.ndarray:
    """The pixels of an encoded file or of a bare array, uint8 (H, W, C).

    Args:
        content: a file in a format of Pillow, or uint8 (H, W) or (H, W, C) with C of 1 or 3.
        channels: 1 (colour becomes its luminance), 3, or None for what the image has.

    Raises:
        ImageError: it is damaged, too large, of another mode, or grey where colour is wanted.

    Example:
        >>> as_array(np.zeros((8, 8), dtype=np.uint8), None).shape
        (8, 8, 1)
    """
    image = _from_array(content) if isinstance(content, np.ndarray) else _opened(content)
    if channels == 3 and image.mode == "L":
        raise ImageError("greyscale where colour is wanted")
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or colour) or not pixels.size:
        shape = " x ".join(map(str, pixels.shape))
        raise ImageError(f"array of {shape} {pixels.dtype}, expected H x W (x 1 or 3) uint8")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _opened(content: bytes) -> Image.Image:
    """Decodes a file to mode L or RGB, the right way up."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > LARGEST:
                raise ImageError(f"more than {LARGEST} pixels")
            image.load()
            return _plain(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than {LARGEST} pixels") from None
    except DAMAGED:
        raise ImageError("corrupt image") from None


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "PA", "RGBA", "P"):
        if not _is_opaque(image):
            raise ImageError("transparent pixels")
        return image.convert("L" if image.mode == "LA" else "RGB")
    raise ImageError(f"mode {image.mode}, expected 8-bit grey or RGB")


def _is_opaque(image: Image.Image) -> bool:
    """Whether no pixel of an image is transparent."""
    if image.mode == "P" and "transparency" not in image.info:
        return True
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of an image, brought to ``size`` by Lanczos where it differs.

    Args:
        pixels: uint8 (H, W, C).
        size: pixels of a side.

    Returns:
        uint8 (size, size, C).
    """
    height, width, channels = pixels.shape
    if height == width == size:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    image = Image.fromarray(np.ascontiguousarray(square[:, :, 0] if channels == 1 else square))
    scaled = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), dtype=np.uint8)
    return scaled.reshape(size, size, channels)


@dataclass(frozen=True)
class ImageTable:
    """Some rows of a prepared table: pixels (B, H, W, C) and its other columns."""

    pixels: np.ndarray
    columns: dict[str, Any]


def write_images(
    target: str | Path,
    pixels: Iterator[np.ndarray],
    columns: pa.Table,
    shape: tuple[int, int, int],
) -> None:
    """Writes a prepared table in row groups of some megabytes.

    Args:
        target: the parquet file.
        pixels: uint8 (B, H, W, C) in order, as many rows in all as ``columns`` has.
        columns: ``id`` and the labels.
        shape: H, W, C.
    """
    side = pa.int32()
    sizes = dict(zip(("height", "width", "channels"), shape, strict=True))
    rest = [columns.schema.field(name) for name in columns.column_names if name != "id"]
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("image", pa.binary()),
            *(pa.field(name, side) for name in sizes),
            *rest,
        ]
    )
    start = 0
    with atomic_path(target) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in pixels:
            rows = columns.slice(start, len(part))
            start += len(part)
            arrays = {"image": pa.array([image.tobytes() for image in part], pa.binary())}
            arrays |= {n: pa.array(np.full(len(part), v, dtype=np.int32)) for n, v in sizes.items()}
            full = [arrays[f.name] if f.name in arrays else rows.column(f.name) for f in schema]
            writer.write_table(pa.table(full, schema=schema), row_group_size=len(part))


def group_rows(shape: Sequence[int]) -> int:
    """Images of a row group of a prepared table, for images of H x W x C."""
    return max(1, min(65536, GROUP_BYTES // int(np.prod(shape))))


def batches(path: str | Path) -> Iterator[ImageTable]:
    """The row groups of a prepared table, in order.

    Raises:
        UsageError: the file is missing or damaged, or an image does not have the size it states.
    """
    with _opened_table(path) as file:
        for number in range(file.num_row_groups):
            yield _part(file.read_row_group(number), path)


def table_columns(path: str | Path) -> list[str]:
    """The columns of a prepared table but its pixels.

    Raises:
        UsageError: the file is missing or damaged.
    """
    with _opened_table(path) as file:
        return [name for name in file.schema_arrow.names if name != "image"]


@contextmanager
def _opened_table(path: str | Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; build it first (`dvc repro`)") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as parquet ({error})") from None


def _part(table: pa.Table, path: str | Path) -> ImageTable:
    columns = {
        name: table.column(name).to_pylist() for name in table.column_names if name != "image"
    }
    shapes = set(zip(columns["height"], columns["width"], columns["channels"], strict=True))
    content = table.column("image").to_pylist()
    if len(shapes) != 1 or {len(image) for image in content} != {int(np.prod(next(iter(shapes))))}:
        raise UsageError(f"{path}: images of different sizes; delete it and build again")
    pixels = np.frombuffer(b"".join(content), dtype=np.uint8)
    return ImageTable(pixels.reshape(len(content), *shapes.pop()), columns)
