"""Images that a model was not trained on: test images changed, and other data sets made to fit.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from ldebm.seeding import numpy_generator

__all__ = ["corrupt", "fit"]

PATCHES = 4  # a side is cut into so many for shuffling


def corrupt(kind: str, images_NCHW: np.ndarray, seed: int = 0) -> np.ndarray:
    """Changes images, or replaces them by noise (the names of ``OOD_TRANSFORMS``).

    Args:
        kind: ``rotated`` by 90 degrees, ``inverted`` (white for black), ``shuffled`` (4 x 4 patches
            in an order of every image's own), or ``noise`` (every value alike, at random).
        images_NCHW: uint8.
        seed: of patches and noise.

    Raises:
        ValueError: there is no such change.
    """
    if kind not in CHANGES:
        raise ValueError(f"no change of images is called {kind!r}")
    return CHANGES[kind](images_NCHW, numpy_generator(seed, "shifted", kind))


def _shuffled(image_CHW: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Patches in another order; what is left over at the right and below stays."""
    height, width = (side // PATCHES for side in image_CHW.shape[1:])
    places = [(y * height, x * width) for y in range(PATCHES) for x in range(PATCHES)]
    result = image_CHW.copy()
    for (y, x), index in zip(places, stream.permutation(len(places)), strict=True):
        top, left = places[index]
        patch = image_CHW[:, top : top + height, left : left + width]
        result[:, y : y + height, x : x + width] = patch
    return result


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "rotated": lambda images, _: np.ascontiguousarray(np.rot90(images, axes=(2, 3))),
    "inverted": lambda images, _: 255 - images,
    "noise": lambda images, stream: stream.integers(0, 256, images.shape, dtype=np.uint8),
    "shuffled": lambda images, stream: np.stack([_shuffled(image, stream) for image in images]),
}


def fit(images_NCHW: np.ndarray, channels: int, size: int) -> np.ndarray:
    """Images of another data set in the channels and size of this one.

    Smaller images get a black border, larger ones are scaled down (Lanczos); grey ones are repeated
    over the channels, of colours the luminance is taken.

    Example:
        >>> fit(np.zeros((2, 1, 28, 28), dtype=np.uint8), 3, 32).shape
        (2, 3, 32, 32)
    """
    count, own, side, _ = images_NCHW.shape
    images = images_NCHW
    if own == 3 and channels == 1:
        weights = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
        images = np.rint((images * weights).sum(1, keepdims=True)).astype(np.uint8)
    if side > size:
        images = np.stack([_scaled(image, size) for image in images])
    elif side < size:
        before = (size - side) // 2
        result = np.zeros((count, images.shape[1], size, size), dtype=np.uint8)
        result[:, :, before : before + side, before : before + side] = images
        images = result
    return images.repeat(channels, axis=1) if images.shape[1] < channels else images


def _scaled(image_CHW: np.ndarray, size: int) -> np.ndarray:
    planes = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS))
        for plane in np.ascontiguousarray(image_CHW)
    ]
    return np.stack(planes)
