"""What a user's images are, and a hierarchical model that suits their size."""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError

__all__ = ["ImageFacts", "data_section", "holds_images", "image_experiment", "inspect_images"]

SIZES = (64, 32, 16, 8)  # pixels of a side that are proposed where images are larger or unequal
FEW_GREY = 0.1  # share of grey images that is left out of colour ones, which validation allows
ROUNDS = 300  # epochs of the first stage at most, on few images


@dataclass(frozen=True)
class ImageFacts:
    """What a user's images are.

    Attributes:
        rows: how many there are.
        size: pixels of a side to bring them to; None: they all have ``side`` already.
        side: pixels of a side after that.
        channels: 1 or 3.
        labels: label columns to keep.
        classes: values of the label, where there is one only; else 0.
    """

    rows: int
    size: int | None
    side: int
    channels: int
    labels: list[str]
    classes: int


def holds_images(path: Path) -> bool:
    """Whether a file, or folder, of a user is one of images: so far as its name or columns tell."""
    if path.is_dir() or path.suffix.lower() in (".zip", ".npz"):
        return True
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    import pyarrow as pa

    from ldebm.data.image_files import is_binary

    try:
        import pyarrow.parquet as pq

        return any(is_binary(field.type) for field in pq.read_schema(path))
    except (pa.ArrowInvalid, OSError):
        return False  # whoever reads it says what is wrong


def inspect_images(path: Path, label: str | None = None) -> ImageFacts:
    """Looks at the size and mode of every image, without decoding it.

    Args:
        path: a zip, npz or parquet file.
        label: the label column to keep; None: all there are.

    Raises:
        UsageError: the file cannot be read, holds no usable image or has no such label.
    """
    from ldebm.data.image_sources import open_user_file

    source = open_user_file(path)
    if label is not None and label not in source.names:
        there = ", ".join(source.names) or "none"
        raise UsageError(f"{path}: no column {label!r} for --label; label columns there: {there}")
    shapes: Counter[tuple[int, int]] = Counter()
    values: list[set[Any]] = [set() for _ in source.names]
    grey = 0
    for image in source.images:
        found = _shape(image.content)
        if found is None:
            continue
        shapes[found[:2]] += 1
        grey += found[2] == 1
        for seen, value in zip(values, image.labels, strict=True):
            seen.add(value)
    rows = shapes.total()
    if not rows:
        raise UsageError(f"{path}: no image in it can be read")
    classes = {n: len(seen - {None}) for n, seen in zip(source.names, values, strict=True)}
    if label is not None and classes[label] < 2:
        raise UsageError(f"{path}: label {label!r} has one class only; at least two are needed")
    kept = [label] if label else [name for name, number in classes.items() if number > 1]
    size, side = _size(shapes)
    return ImageFacts(
        rows, size, side, 1 if grey > FEW_GREY * rows else 3, kept,
        classes[kept[0]] if len(kept) == 1 else 0,
    )  # fmt: skip


def _shape(content: Any) -> tuple[int, int, int] | None:
    """Height, width and channels of an image; None where it cannot be used."""
    from PIL import Image

    if not isinstance(content, bytes):
        return (*content.shape[:2], content.shape[2] if content.ndim == 3 else 1)
    try:
        with Image.open(io.BytesIO(content)) as image:
            channels = 1 if image.mode in ("1", "L", "LA") else 3
            return image.height, image.width, channels
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _size(shapes: Counter[tuple[int, int]]) -> tuple[int | None, int]:
    """The size to ask for, and the side that images then have."""
    shortest = min(min(shape) for shape in shapes)
    equal = len(shapes) == 1 and len(set(next(iter(shapes)))) == 1
    if equal and shortest <= SIZES[0] and shortest % 2 == 0 and shortest >= SIZES[-1]:
        return None, shortest
    size = next((size for size in SIZES if size <= shortest), SIZES[-1])
    return size, size


def data_section(path: str, sha256: str, facts: ImageFacts) -> dict[str, Any]:
    """The data section of params.yaml."""
    data: dict[str, Any] = {"kind": "images", "source": "file", "path": path, "sha256": sha256}
    if facts.size is not None:
        data["size"] = facts.size
    data["channels"] = facts.channels
    if facts.labels:
        data["labels"] = facts.labels
        epochs = round(min(60, max(4, 400_000 / facts.rows)))  # some minutes on two cores
        data["judge"] = {"epochs": epochs, "shift": 1 if facts.side < 16 else 2}
    return data


def image_experiment(name: str, facts: ImageFacts) -> dict[str, Any]:
    """A hierarchical VAE of three groups and a diffusion prior on them (MR 6.9, 10.23)."""
    given = bool(facts.classes)
    cluster: dict[str, Any] = {"labels": "none"}
    if given:
        cluster = {"labels": "given", "column": facts.labels[0]}
    batch = 128 if facts.rows > 5000 else 64
    updates = min(6000, max(800, round(ROUNDS * facts.rows / batch)))
    return {
        "data": name,
        "description": f"hierarchical VAE on {name}, {facts.rows} images",
        "backbone": {
            "arch": "hvae",
            "hvae": _hvae(facts),
            "kl_warmup": updates // 5,
            "training": {"updates": updates, "batch": batch, "validate_every": None,
                         "optimiser": {"lr": 2e-3, "schedule": "one_cycle"}},
        },
        "cluster": cluster,
        "prior": {
            "kind": "diffusion", "levels": 6, "classes": facts.classes or 10,
            "energy": {"hidden": 128, "blocks": 2, "activation": "silu", "spectral_norm": False,
                       "init": "orthogonal"},
            "sampler": {"steps": 12}, "score_matching": 0.8, "standardise": "diagonal",
            "mi_weight": 0.0, "class_weight": 1.0 if given else 0.0,
            "hierarchy": {"channels": 32, "label_groups": [0] if given else [],
                          "cached_draws": 4 if facts.rows <= 20000 else 1},
            "training": {"updates": 2000, "batch": 128, "validate_every": None,
                         "optimiser": {"lr": 2e-3, "betas": [0.9, 0.99], "clip": 1.0,
                                       "schedule": "linear", "warmup": 100, "ema": 0.995}},
        },
        "evaluate": {"samples": 5000},
    }  # fmt: skip


def _hvae(facts: ImageFacts) -> dict[str, Any]:
    """A dense group above two of the smallest sizes to which the image is halved."""
    halvings = max(2, math.ceil(math.log2(facts.side / 4)))
    sizes = [facts.side // 2]
    while len(sizes) < halvings:
        sizes.append(-(-sizes[-1] // 2))
    thick = 4 if facts.channels == 3 else 1
    layers: list[dict[str, Any]] = [{"dense": 32 if facts.side >= 28 else 8}]
    layers += [{"conv": [2 * thick, sizes[-1]]}, {"conv": [thick, sizes[-2]]}]
    widths = [min(16 * 2**i * (2 if facts.channels == 3 else 1), 128) for i in range(halvings)]
    return {"layers": layers, "widths": widths, "hidden": 128, "mixtures": 5}
