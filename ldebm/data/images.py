"""Images as arrays: decoding files, one size and one number of channels.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

__all__ = ["ImageError", "as_array", "mean_of_visible", "resized"]

LARGEST = 50_000_000  # pixels: a small file may unpack to gigabytes
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)


class ImageError(Exception):
    """One image cannot be used; the message is the reason."""


def as_array(
    content: bytes | np.ndarray, channels: int | None, background: str = "white"
) -> np.ndarray:
    """The pixels of an encoded file or of a bare array, uint8 (H, W, C).

    Transparent pixels show the background, 16-bit values become 8-bit ones, palettes and CMYK
    become RGB, and photographs are turned as their EXIF data say.

    Args:
        content: a file in a format of Pillow, or uint8 (H, W) or (H, W, C) with C of 1, 3 or 4.
        channels: 1 (colour becomes its luminance), 3, or None for what the image has.
        background: ``white`` or ``black``, behind transparent pixels.

    Raises:
        ImageError: it is damaged, too large, of another mode, of several frames, or grey where
            colour is wanted.

    Example:
        >>> as_array(np.zeros((8, 8), dtype=np.uint8), None).shape
        (8, 8, 1)
    """
    image = _from_array(content) if isinstance(content, np.ndarray) else _opened(content)
    image = _plain(image, background)
    if channels == 3 and image.mode == "L":
        raise ImageError("greyscale where colour is wanted")
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or colour) or not pixels.size:
        shape = " x ".join(map(str, pixels.shape))
        raise ImageError(f"array of {shape} {pixels.dtype}, expected H x W (x 1, 3 or 4) uint8")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _opened(content: bytes) -> Image.Image:
    """Decodes the only frame of a file, the right way up."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > LARGEST:
                raise ImageError(f"more than {LARGEST} pixels")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a photograph with its preview
                raise ImageError("several frames; save each as a file of its own")
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
            upright.format = image.format
            return upright
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than {LARGEST} pixels") from None
    except DAMAGED:
        raise ImageError("corrupt image") from None


def _plain(image: Image.Image, background: str) -> Image.Image:
    """An image of mode L or RGB."""
    grey = image.mode in ("1", "L", "LA")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    if _transparent(image):
        shown = Image.new("RGBA", image.size, background)
        shown.alpha_composite(image.convert("RGBA"))
        image = shown.convert("RGB")
    elif image.mode not in ("1", "L", "LA", "PA", "RGBA", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise ImageError(f"mode {image.mode}, expected grey or RGB of 8 or 16 bits, or CMYK")
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _transparent(image: Image.Image) -> bool:
    """Whether a pixel of an image is transparent, at least in part."""
    if image.mode not in ("LA", "PA", "RGBA") and not (
        image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    ):
        return False
    low, _ = image.convert("RGBA").getchannel("A").getextrema()
    return low != 255


def mean_of_visible(content: bytes | np.ndarray) -> float | None:
    """The mean luminance of what transparent pixels surround, 0 to 255; None where none are.

    Raises:
        ImageError: the image cannot be read.
    """
    image = _from_array(content) if isinstance(content, np.ndarray) else _opened(content)
    if not _transparent(image):
        return None
    pixels = image.convert("RGBA")
    weight = np.asarray(pixels.getchannel("A"), dtype=np.float64)
    values = np.asarray(pixels.convert("RGB").convert("L"), dtype=np.float64)
    return float((values * weight).sum() / weight.sum()) if weight.any() else None


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
