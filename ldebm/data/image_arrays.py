"""Images in an npz file: arrays of images and of labels, of all rows or of each split.

    images, labels, split                               all rows, with a split of every row
    x_train, y_train, x_test, y_test                    as Keras has it
    train_images, train_labels, val_images, ...         as MedMNIST has it

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ldebm.data.columns import SPLIT_WORDS, stated_split
from ldebm.data.image_files import ImageSource, RawImage
from ldebm.errors import UsageError

__all__ = ["open_npz"]

ORDER = (None, "train", "valid", "test")
CHANNELS = (1, 3, 4)
LABEL_NAMES = ("y", "label", "labels", "target", "targets", "class", "classes")
EXPECTED = (
    "expected one array of images (n, height, width[, channels]), or one of every split, such as "
    "train_images and test_images"
)
Part = tuple[str, dict[str, str]]  # the array of images, and by label's name another array


def open_npz(path: Path) -> ImageSource:
    """The images of an npz, of all splits; other arrays with a value for every image are labels.

    Values from 0 to 1 or -1 to 1 are scaled to 0 to 255, 16-bit ones divided by 257; all splits
    alike. Channels may come first or last.

    Raises:
        UsageError: it is damaged, holds no images, or it is not clear which array they are.
    """
    arrays = _read(path)
    parts = _parts(arrays, path)
    scale, note = _scaling([arrays[images] for images, _ in parts.values()], path)
    labels: dict[str | None, dict[str, np.ndarray]] = {split: {} for split in parts}
    unfit: dict[str, str] = {}
    for split, (images, others) in parts.items():
        count = len(arrays[images])
        for name, array in others.items():
            values = arrays[array]
            flat = _flat(values, count)
            if flat is not None:
                labels[split][name] = flat
            elif name.lower() in LABEL_NAMES and values.shape[:1] != (count,):
                raise UsageError(
                    f"{path}: {count} images in {images!r} and labels {name!r} of "
                    f"{_shape(values)}; expected one for every image"
                )
            else:
                unfit[name] = f"an array of {_shape(values)}"
    of_rows = labels.get(None, {}).pop("split", None)
    names = tuple(sorted({name for by_name in labels.values() for name in by_name}))

    def rows() -> Iterator[RawImage]:
        for split, (array, _) in parts.items():
            pixels = arrays[array]
            if pixels.ndim == 4 and pixels.shape[-1] not in CHANNELS:
                pixels = pixels.transpose(0, 2, 3, 1)
            columns = [labels[split].get(name) for name in names]
            for i, image in enumerate(pixels):
                place = f"{array} {i}"
                own = split if of_rows is None else stated_split(of_rows[i].item(), place)
                row = tuple(None if column is None else column[i].item() for column in columns)
                yield RawImage(own, place, scale(image), row)

    read = {array for images, others in parts.values() for array in (images, *others.values())}
    unread = ", ".join(name for name in arrays if name not in read)
    notes = [note, f"arrays that are not read: {unread}" if unread else ""]
    return ImageSource(names, rows(), unfit, tuple(filter(None, notes)))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in sorted(content.files)}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path}: cannot be read as npz ({error}); arrays of text need a dtype of str"
        ) from None


def _parts(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str | None, Part]:
    """The arrays by split; under None those whose names have no split.

    Raises:
        UsageError: there is no array of images, or there are more than can be told apart.
    """
    images: dict[str | None, list[str]] = {}
    others: dict[str | None, dict[str, str]] = {}
    for name, values in arrays.items():
        words = [word for word in re.split(r"[_\-./ ]+", name) if word]
        splits = [SPLIT_WORDS.get(word.lower()) for word in words]
        split = next(filter(None, splits), None)
        if values.ndim in (3, 4) and values.dtype.kind in "biuf":
            images.setdefault(split, []).append(name)
        else:
            rest = "_".join(word for word, of in zip(words, splits, strict=True) if of is None)
            others.setdefault(split, {})[rest if split else name] = name
    if None in images and len(images) > 1:
        names = ", ".join(name for keys in images.values() for name in keys)
        raise UsageError(f"{path}: arrays of images {names}: {EXPECTED}")
    if not images:
        there = ", ".join(f"{name} ({_shape(a)})" for name, a in arrays.items()) or "none"
        raise UsageError(f"{path}: no array of images; arrays there: {there}; {EXPECTED}")
    for split, keys in images.items():
        if len(keys) > 1:
            which = f" of the split {split}" if split else ""
            raise UsageError(
                f"{path}: {len(keys)} arrays of images{which}: {', '.join(keys)}; {EXPECTED}"
            )
        values, said = arrays[keys[0]], f"{path}: array {keys[0]!r} is of "
        if not values.size or (values.ndim == 3 and values.shape[-1] in CHANNELS):
            raise UsageError(f"{said}{_shape(values)}; {EXPECTED}")
        if values.ndim == 4 and not {values.shape[1], values.shape[-1]} & set(CHANNELS):
            raise UsageError(f"{said}{_shape(values)}; expected 1, 3 or 4 channels, first or last")
    order = sorted(images, key=ORDER.index)
    return {split: (images[split][0], others.get(split, {})) for split in order}


def _shape(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape)) or 'no dimension'} {values.dtype}"


def _flat(values: np.ndarray, count: int) -> np.ndarray | None:
    """Labels as an array (N): of (N) or (N, 1), or the places of the ones of (N, K); else None."""
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.ndim == 2 and len(values) == count and values.dtype.kind in "biuf":
        ones = ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()
        if ones and values.shape[1] > 1:
            return np.asarray(values.argmax(axis=1))
    if values.shape != (count,) or values.dtype.kind not in "biufUS":
        return None
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


def _scaling(
    arrays: list[np.ndarray], path: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """What brings the values of all arrays to 0 to 255, and a note for the user.

    Raises:
        UsageError: there are NaN or infinite values, or their range is none of the usual ones.
    """
    low = min(float(values.min()) for values in arrays)
    high = max(float(values.max()) for values in arrays)
    kinds = {values.dtype for values in arrays}
    if not np.isfinite([low, high]).all():
        raise UsageError(f"{path}: images have values that are NaN or infinite; replace them")
    if low >= 0 and high <= 1 and high > 0:
        factor, shift = 255.0, 0.0
    elif low >= -1 and low < 0 and high <= 1:
        factor, shift = 127.5, 127.5
    elif low >= 0 and high <= 255:
        factor, shift = 1.0, 0.0
    elif low >= 0 and high <= 65535 and kinds == {np.dtype(np.uint16)}:
        factor, shift = 1 / 257, 0.0
    else:
        raise UsageError(
            f"{path}: images have values from {low:g} to {high:g}; expected 0 to 1, -1 to 1, "
            "0 to 255, or 0 to 65535 (uint16)"
        )
    if factor == 1.0 and kinds == {np.dtype(np.uint8)}:
        return lambda image: image, ""

    def scaled(image: np.ndarray) -> np.ndarray:
        return np.rint(image.astype(np.float64) * factor + shift).clip(0, 255).astype(np.uint8)

    return scaled, "" if factor == 1.0 else f"values from {low:g} to {high:g} become 0 to 255"
