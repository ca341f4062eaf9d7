"""Images side by side in one picture; equal images give equal PNG files.

Shapes: N images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldebm.files import atomic_path

__all__ = ["cells", "picture", "tile", "write_png"]

SIDE = 384  # pixels of a picture's side, about
SMALLEST = 24  # pixels of a cell's side that can still be seen


def cells(size: int, most: int = 64) -> int:
    """How many images of ``size`` pixels a square picture shows: at most ``most``, a square number.

    Example:
        >>> cells(8), cells(64), cells(256)
        (64, 36, 4)
    """
    across = max(2, min(int(most**0.5), SIDE // max(size, SMALLEST)))
    return across * across


def tile(images_NCHW: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """The images row by row with grey lines between them; small ones are enlarged.

    Args:
        images_NCHW: uint8.
        columns: images of a row; by default as many as make the picture square.
        gap: pixels between images.

    Returns:
        uint8 (H, W, C) of the picture.

    Example:
        >>> tile(np.zeros((6, 1, 24, 24), dtype=np.uint8), columns=3).shape
        (49, 74, 1)
    """
    count, channels, height, width = images_NCHW.shape
    factor = -(-SMALLEST // min(height, width))
    images = images_NCHW.repeat(factor, axis=2).repeat(factor, axis=3)
    height, width = height * factor, width * factor
    columns = columns or max(1, round(count**0.5))
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    sheet = np.full(shape, 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return sheet


def picture(pixels_HWC: np.ndarray) -> bytes:
    """A PNG file of uint8 pixels, grey or colour."""
    import io

    from PIL import Image

    grey = pixels_HWC.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC[:, :, 0] if grey else pixels_HWC))
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return stream.getvalue()


def write_png(target: str | Path, pixels_HWC: np.ndarray) -> None:
    """Writes :func:`picture`, the whole file or nothing."""
    content = picture(pixels_HWC)
    with atomic_path(target) as path:
        path.write_bytes(content)
