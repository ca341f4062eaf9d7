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
from dataclasses import dataclass, field
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


@dataclass
class Part:
    """The arrays of one split, or of all rows.

    Attributes:
        images: names of its arrays of images.
        others: its other arrays by their name without the split's.
        arrays: names of these as in the file.
    """

    images: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    others: dict[str, np.ndarray] = field(default_factory=dict)


def open_npz(path: Path) -> ImageSource:
    """The images of an npz, of all splits; other arrays with a value for every image are labels.

    Values from 0 to 1 or -1 to 1 are scaled to 0 to 255, 16-bit ones divided by 257; all splits
    alike. Channels may come first or last.

    Raises:
        UsageError: it is damaged, holds no images, or it is not clear which array they are.
    """
    arrays = _read(path)
    parts = _parts(arrays, path)
    chosen = {split: _images(part, split, arrays, path) for split, part in parts.items()}
    scale, note = _scaling([arrays[name] for name in chosen.values()], path)
    labels: dict[str | None, dict[str, np.ndarray]] = {}
    unfit: dict[str, str] = {}
    for split, part in parts.items():
        count = len(arrays[chosen[split]])
        labels[split] = {}
        for name, values in part.others.items():
            flat = _flat(values, count)
            if flat is not None:
                labels[split][name] = flat
                continue
            unfit[name] = f"an array of {_shape(values)}"
            if name.lower() in LABEL_NAMES and values.shape[:1] != (count,):
                raise UsageError(
                    f"{path}: {count} images in {chosen[split]!r} and labels {name!r} of "
                    f"{_shape(values)}; expected one for every image"
                )
    of_rows = labels.get(None, {}).pop("split", None)
    names = tuple(sorted({name for found in labels.values() for name in found}))

    def rows() -> Iterator[RawImage]:
        for split, array in chosen.items():
            found = labels[split]
            for i, image in enumerate(_last(arrays[array])):
                place = f"{array} {i}"
                own = split if of_rows is None else stated_split(of_rows[i].item(), place)
                row = tuple(found[name][i].item() if name in found else None for name in names)
                yield RawImage(own, place, scale(image), row)

    read = {*chosen.values(), *(array for part in parts.values() for array in part.arrays)}
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
    parts: dict[str | None, Part] = {}
    for name, values in arrays.items():
        words = [word for word in re.split(r"[_\-./ ]+", name) if word]
        split = next((split for word in words if (split := SPLIT_WORDS.get(word.lower()))), None)
        rest = "_".join(word for word in words if SPLIT_WORDS.get(word.lower()) is None)
        part = parts.setdefault(split, Part())
        if values.ndim in (3, 4) and values.dtype.kind in "biuf":
            part.images.append(name)
        else:
            part.others[rest if split else name] = values
            part.arrays.append(name)
    with_images = {split: part for split, part in parts.items() if part.images}
    if None in with_images and len(with_images) > 1:
        raise UsageError(f"{path}: arrays of images {_all(with_images)}: {EXPECTED}")
    if not with_images:
        there = ", ".join(f"{name} ({_shape(a)})" for name, a in arrays.items()) or "none"
        raise UsageError(f"{path}: no array of images; arrays there: {there}; {EXPECTED}")
    return dict(sorted(with_images.items(), key=lambda item: ORDER.index(item[0])))


def _all(parts: Mapping[str | None, Part]) -> str:
    return ", ".join(name for part in parts.values() for name in part.images)


def _images(part: Part, split: str | None, arrays: Mapping[str, np.ndarray], path: Path) -> str:
    """The name of the part's array of images."""
    if len(part.images) > 1:
        which = f" of the split {split}" if split else ""
        raise UsageError(
            f"{path}: {len(part.images)} arrays of images{which}: {', '.join(part.images)}; "
            f"{EXPECTED}"
        )
    name = part.images[0]
    values = arrays[name]
    if not values.size or (values.ndim == 3 and values.shape[-1] in CHANNELS):
        raise UsageError(f"{path}: array {name!r} is of {_shape(values)}; {EXPECTED}")
    if values.ndim == 4 and not {values.shape[1], values.shape[-1]} & set(CHANNELS):
        raise UsageError(
            f"{path}: array {name!r} is of {_shape(values)}; expected 1, 3 or 4 channels, first or "
            "last"
        )
    return name


def _shape(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape)) or 'no dimension'} {values.dtype}"


def _flat(values: np.ndarray, count: int) -> np.ndarray | None:
    """Labels as an array (N): of (N) or (N, 1), or the places of the ones of (N, K); else None."""
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.ndim == 2 and len(values) == count and _one_hot(values):
        return np.asarray(values.argmax(axis=1))
    if values.shape != (count,) or values.dtype.kind not in "biufUS":
        return None
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


def _one_hot(values: np.ndarray) -> bool:
    if values.dtype.kind not in "biuf" or values.shape[1] < 2:
        return False
    return bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def _last(values: np.ndarray) -> np.ndarray:
    """The images with their channels last."""
    if values.ndim == 4 and values.shape[-1] not in CHANNELS:
        return values.transpose(0, 2, 3, 1)
    return values


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
