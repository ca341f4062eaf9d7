"""The image sources: every image in turn, with its split and labels, not yet decoded."""

from __future__ import annotations

import dataclasses
import gzip
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.image_archives import open_zip
from ldebm.data.image_arrays import open_npz
from ldebm.data.image_files import ImageSource, RawImage, open_shards
from ldebm.data.text_files import existing
from ldebm.errors import UsageError
from ldebm.files import read_parquet

__all__ = ["READERS_OF_FILES", "open_images", "open_user_file"]

CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR_ROW = 1 + 3 * 32 * 32


def open_images(config: DataConfig, raw: Path) -> ImageSource:
    """Opens the images of ``data/raw/<name>``.

    Raises:
        UsageError: a file is missing or is not what the parameters say.
    """
    if config.source != "file":
        if config.source not in READERS:
            raise UsageError(f"source {config.source!r} holds no images; correct kind or source")
        return READERS[config.source](raw)
    files = sorted(p for p in raw.glob("*") if p.suffix.lower() in READERS_OF_FILES)
    if len(files) != 1:
        raise UsageError(
            f"{raw}: expected one file of {', '.join(READERS_OF_FILES)}, found {len(files)}"
        )
    source = open_user_file(files[0])
    for name in config.labels:
        source.require(name, files[0])
    return source


def open_user_file(path: Path) -> ImageSource:
    """The images of a user's zip (or zipped folder), npz or parquet file.

    Raises:
        UsageError: it is damaged or holds no image, or the labels do not fit.
    """
    return READERS_OF_FILES[path.suffix.lower()](path)


def _digits(raw: Path) -> ImageSource:
    """Counts of 0 to 16 ink pixels in each of 8 x 8 cells become 0 to 255."""
    table = read_parquet(existing(raw / "digits.parquet"))
    values = table["image"].reshape(-1, 8, 8)
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)
    pairs = zip(pixels, table["label"].tolist(), strict=True)
    images = (RawImage(None, f"digit {i}", x, (y,)) for i, (x, y) in enumerate(pairs))
    return ImageSource(("digit",), images)


def _mnist(raw: Path) -> ImageSource:
    def rows() -> Iterator[RawImage]:
        for split, prefix in (("train", "train"), ("test", "t10k")):
            pixels = _idx(raw / f"{prefix}-images-idx3-ubyte.gz")
            labels = _idx(raw / f"{prefix}-labels-idx1-ubyte.gz")
            if len(pixels) != len(labels):
                raise UsageError(f"{raw}: {len(pixels)} images, {len(labels)} labels of {split}")
            for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                yield RawImage(split, f"{prefix} {i}", image, (int(label),))

    return ImageSource(("digit",), rows())


def _idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format: a magic number, the sizes, the bytes."""
    try:
        data = gzip.decompress(existing(path).read_bytes())
        zeros, kind, dimensions = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
        if (zeros, kind) != (0, 8):
            raise ValueError("not an array of bytes")
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UsageError(f"{path}: damaged ({error}); fetch it again (`dvc repro`)") from None


def _cifar_binary(raw: Path) -> ImageSource:
    """The lossless edition: rows of one label byte and three planes of 32 x 32."""
    path = existing(raw / "cifar-10-binary.tar.gz")
    names = [(f"data_batch_{i}.bin", "train") for i in range(1, 6)] + [("test_batch.bin", "test")]

    def rows() -> Iterator[RawImage]:
        try:
            with tarfile.open(path) as archive:
                for name, split in names:
                    member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                    data = np.frombuffer(member.read() if member else b"", dtype=np.uint8)
                    if not data.size or data.size % CIFAR_ROW:
                        raise UsageError(f"{path}: {name} is not in rows of {CIFAR_ROW} bytes")
                    for i, row in enumerate(data.reshape(-1, CIFAR_ROW)):
                        image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                        yield RawImage(split, f"{name} {i}", image, (CIFAR_CLASSES[row[0]],))
        except (tarfile.TarError, EOFError, OSError, KeyError, IndexError) as error:
            raise UsageError(f"{path}: damaged ({error}); fetch it again (`dvc repro`)") from None

    return ImageSource(("class",), rows())


def _svhn(raw: Path) -> ImageSource:
    """House numbers as MATLAB arrays (H, W, C, images); the label 10 is the digit 0."""
    from scipy.io import loadmat

    def rows() -> Iterator[RawImage]:
        for split in ("train", "test"):
            path = existing(raw / f"{split}_32x32.mat")
            try:
                content = loadmat(path)
                pixels, labels = content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1)
            except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
                raise UsageError(f"{path}: damaged ({error}); fetch it again") from None
            for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                yield RawImage(split, f"{path.name} {i}", image, (int(label) % 10,))

    return ImageSource(("digit",), rows())


def _shards(raw: Path) -> ImageSource:
    paths = sorted(raw.glob("*.parquet"))
    if not paths:
        raise UsageError(f"{raw}: no parquet file; fetch the data set first (`dvc repro`)")
    return open_shards(paths)


def _relabelled(source: ImageSource, change: Callable[[Any], Any]) -> Iterator[RawImage]:
    for image in source.images:
        yield dataclasses.replace(image, labels=tuple(map(change, image.labels)))


def _cifar_shards(raw: Path) -> ImageSource:
    return ImageSource(("class",), _relabelled(_shards(raw), CIFAR_CLASSES.__getitem__))


def _attribute_shards(raw: Path) -> ImageSource:
    """Shards whose labels are attributes of 1 or -1, which become 1 and 0."""
    source = _shards(raw)
    return ImageSource(source.names, _relabelled(source, lambda v: 0 if v == -1 else v))


def _parquet(path: Path) -> ImageSource:
    return open_shards([path], named=False)


READERS: dict[str, Callable[[Path], ImageSource]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar_shards,
    "cifar10_lossless": _cifar_binary,
    "celeba64": _attribute_shards,
    "celebahq256": _attribute_shards,
    "lsun_church": _shards,
    "svhn": _svhn,
}
READERS_OF_FILES: dict[str, Callable[[Path], ImageSource]] = {
    ".zip": open_zip,
    ".npz": open_npz,
    ".parquet": _parquet,
}
