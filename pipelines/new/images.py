"""A user's images: what they are, and a data set and a hierarchical model that suit them.

Nothing here decides which images are usable: they are prepared as the stage would prepare them,
without being kept, and what the stage or validation would refuse is refused here.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ldebm.config import DataConfig
from ldebm.data.columns import MAX_CLASSES
from ldebm.data.columns import labels as label_values
from ldebm.data.folders import other_files
from ldebm.data.image_files import ImageSource, RawImage, is_binary
from ldebm.data.image_sources import open_user_file
from ldebm.data.images import ImageError, as_array, mean_of_visible
from ldebm.data.kinds.images import Images
from ldebm.data.limits import failures
from ldebm.data.packed import SPLITS
from ldebm.data.prepare import Prepared, examine
from ldebm.errors import UsageError
from ldebm.fitting.presets import groups_of_images, image_length
from pipelines.new.summary import Summary, start_from

__all__ = ["ImageFacts", "data_section", "holds_images", "image_experiment", "inspect_images"]

SIZES = (64, 32, 16, 8)  # pixels of a side that are proposed where images are larger or unequal
SMALL = 0.05  # share of images that may be smaller than the proposed size
FEW_GREY = 0.1  # share of grey images that is left out of colour ones, which validation allows
LOOKS = 1000  # images that are decoded to find out whether they are grey or transparent
PIXELS = 1_000_000_000  # that are decoded to try the preparation; of more images, some
BRIGHT = 170  # mean of what transparent pixels surround: from here on the background is black
MANY = 20_000  # images from which one draw of each is kept for the prior, not four


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
        background: behind transparent pixels.
        summary: for people.
    """

    rows: int
    size: int | None
    side: int
    channels: int
    labels: list[str]
    classes: int
    background: str = "white"
    summary: Summary | None = None


@dataclass
class Seen:
    """What reading all images without decoding them shows.

    Attributes:
        shapes: how many have which height and width.
        splits: that the source states.
        labels: values of every label column.
    """

    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    splits: set[str | None] = field(default_factory=set)
    labels: dict[str, list[Any]] = field(default_factory=dict)


def holds_images(path: Path) -> bool:
    """Whether a file, or folder, of a user is one of images: so far as its name or columns tell."""
    if path.is_dir() or path.suffix.lower() in (".zip", ".npz"):
        return True
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        return any(is_binary(field.type) for field in pq.read_schema(path))
    except (pa.ArrowInvalid, OSError):
        return False  # whoever reads it says what is wrong


def inspect_images(path: Path, label: str | None = None, shown: Path | None = None) -> ImageFacts:
    """Looks at the size of every image, and prepares them as the stage would, on trial.

    Args:
        path: a zip, npz or parquet file.
        label: the label column to keep; None: all that can be classes.
        shown: the folder that ``path`` is a zip of.

    Raises:
        UsageError: the file cannot be read, there is no such label, or preparing or validating
            the images would fail.
    """
    shown = shown or path
    source = open_user_file(path)
    if label is not None:
        source.require(label, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        seen = _read_headers(source)
        rows = seen.shapes.total()
        if not rows:
            raise UsageError(f"{path}: no image in it can be read")
        grey, background, coloured = _look(path, rows)
    notes = [*source.notes]
    if grey and coloured:
        notes.append(
            f"colour is lost: more than {FEW_GREY:.0%} of the images are grey, so that all are "
            f"read as grey ones, {coloured} with colours among those looked at"
        )
    kept = [label] if label else _possible_labels(seen.labels, rows, notes)
    size, side = _size(seen.shapes)
    facts = ImageFacts(rows, size, side, 1 if grey else 3, kept, 0, background or "white")
    pixels = sum(height * width * n for (height, width), n in seen.shapes.items())
    every = -(-pixels // PIXELS)
    prepared = _prepare_on_trial(path, facts, every)
    if background:
        notes.append(f"transparent pixels become {background}")
    if every > 1:
        notes.append(f"rows and classes are those of one image in {every}")
    left = other_files(shown)
    if left:
        notes.append("files not read: " + ", ".join(f"{n} {ending}" for ending, n in left.items()))
    classes = prepared.profile["splits"]["train"]["labels"]
    return dataclasses.replace(
        facts,
        classes=len(classes[kept[0]]) if len(kept) == 1 else 0,
        summary=_summary(shown, facts, seen, prepared, notes),
    )


def _read_headers(source: ImageSource) -> Seen:
    seen = Seen(labels={name: [] for name in source.names})
    for image in source.images:
        for name, value in zip(source.names, image.labels, strict=True):
            seen.labels[name].append(value)
        shape = _shape(image)
        if shape is not None and not image.fault:
            seen.shapes[shape] += 1
            seen.splits.add(image.split)
    return seen


def _shape(image: RawImage) -> tuple[int, int] | None:
    """Height and width; None where not even the header can be read."""
    if not isinstance(image.content, bytes):
        return image.content.shape[0], image.content.shape[1]
    try:
        with Image.open(io.BytesIO(image.content)) as opened:
            return opened.height, opened.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning):
        return None


def _look(path: Path, rows: int) -> tuple[bool, str | None, int]:
    """Whether to read the images as grey ones, the background of transparent pixels, and how many
    of the images that were looked at have colours.

    They are grey where all are, in whatever mode, or more than colour ones could do without.
    """
    step = -(-rows // LOOKS)
    modes: Counter[int] = Counter()
    coloured = 0
    visible: list[float] = []
    for number, image in enumerate(open_user_file(path).images):
        if number % step or image.fault:
            continue
        try:
            pixels = as_array(image.content, None)
            surrounded = mean_of_visible(image.content)
        except ImageError:
            continue
        modes[pixels.shape[2]] += 1
        coloured += bool((pixels != pixels[:, :, :1]).any())
        if surrounded is not None:
            visible.append(surrounded)
    background = None
    if visible:
        background = "black" if float(np.mean(visible)) >= BRIGHT else "white"
    return not coloured or modes[1] > FEW_GREY * modes.total(), background, coloured


def _possible_labels(
    columns: Mapping[str, Sequence[Any]], rows: int, notes: list[str]
) -> list[str]:
    """The columns whose values can be classes; the notes say why others are not used."""
    kept = []
    for name, column in columns.items():
        try:
            values = set(label_values(column, f"column {name!r}")) - {None}
        except UsageError:
            notes.append(f"column {name!r} is not used as a label: its values are too long")
            continue
        fractions = any(isinstance(value, float) and value % 1 > 0 for value in column)
        if 2 <= len(values) <= min(MAX_CLASSES, rows / 2) and not fractions:
            kept.append(name)
        else:
            number = "one value" if len(values) == 1 else f"{len(values)} values"
            notes.append(f"column {name!r} is not used as a label: {number} in {rows} rows")
    if len(kept) > 1:
        notes.append(f"{len(kept)} labels: give --label to have classes of one")
    return kept


def _size(shapes: Counter[tuple[int, int]]) -> tuple[int | None, int]:
    """The size to ask for, and the side that images then have."""
    sides = Counter[int]()
    for shape, number in shapes.items():
        sides[min(shape)] += number
    equal = len(shapes) == 1 and len(set(next(iter(shapes)))) == 1
    shortest = min(sides)
    if equal and shortest <= SIZES[0] and shortest % 2 == 0 and shortest >= SIZES[-1]:
        return None, shortest
    smaller = 0
    for side in sorted(sides):  # a few may be smaller than the others
        smaller += sides[side]
        if smaller > SMALL * sides.total():
            shortest = side
            break
    size = next((size for size in SIZES if size <= shortest), SIZES[-1])
    return size, size


def _prepare_on_trial(path: Path, facts: ImageFacts, every: int) -> Prepared:
    """What the stage would make of the images; of very many, of one in ``every``.

    Raises:
        UsageError: preparing them would fail, or validating them.
    """
    config = DataConfig.model_validate(
        {"kind": "images", "source": "file", "side": facts.size, "channels": facts.channels,
         "labels": facts.labels, "background": facts.background}
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, closing(Images(config)) as kind:
        frame = kind.from_source(open_user_file(path), Path(scratch) / "trial", every)
        prepared = examine(kind, frame, path)
    problems = failures(prepared.profile)
    if problems:
        reasons = prepared.profile["rejects"]["reasons"]
        why = "".join(f"; {count} left out: {reason}" for reason, count in reasons.items())
        raise UsageError(f"{path}: {'; '.join(problems)}{why}")
    return prepared


def _summary(
    shown: Path, facts: ImageFacts, seen: Seen, prepared: Prepared, notes: list[str]
) -> Summary:
    splits = prepared.profile["splits"]
    rows = {split: int(splits[split]["rows"]) for split in SPLITS}
    told = {"pixels": _pixels(seen.shapes, facts)}
    stated = seen.splits - {None}
    taken = [split for split in SPLITS if split not in stated]
    if taken and stated:
        told["splits"] = f"{' and '.join(taken)} taken from the training images"
    same = [f"{_images(splits['train']['duplicates'])} of train repeated"]
    same += [f"{_images(splits[split]['in_train'])} of {split} also in train"
             for split in SPLITS[1:]]  # fmt: skip
    same = [text for text in same if not text.startswith("0 ")]
    if same:
        told["equal"] = ", ".join(same)
    left = prepared.rejects["row"].drop_nulls().head(3).to_list()
    if left:
        told["such as"] = ", ".join(text[:60] for text in left)
    if notes:
        told["note"] = "; ".join(notes)
    classes = {}
    for label in facts.labels:
        total: Counter[str] = Counter()
        for split in SPLITS:
            total.update(splits[split]["labels"][label])
        classes[label] = dict(total)
    return Summary(
        "images",
        str(shown),
        rows,
        bool(stated),
        prepared.profile["rejects"]["reasons"],
        classes,
        told,
    )


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"


def _pixels(shapes: Counter[tuple[int, int]], facts: ImageFacts) -> str:
    """What sizes the images have, and what becomes of them."""
    heights, widths = [shape[0] for shape in shapes], [shape[1] for shape in shapes]
    mode = "grey" if facts.channels == 1 else "colour"
    sides = f"{min(heights)} x {min(widths)}"
    if facts.size is None:
        return f"{sides}, {mode}, as they are"
    if len(shapes) > 1:
        sides = f"{sides} to {max(heights)} x {max(widths)}"
    crop = "cropped to the centred square, " if any(h != w for h, w in shapes) else ""
    text = f"{sides} (height x width), {mode}: {crop}scaled to {facts.size} x {facts.size}"
    small = sum(number for shape, number in shapes.items() if min(shape) < facts.size)
    return f"{text}; {_images(small)} smaller than that scaled up" if small else text


def data_section(path: str, sha256: str, facts: ImageFacts) -> dict[str, Any]:
    """The data set's file of conf/."""
    data: dict[str, Any] = {
        "defaults": ["/preset/classifier/images@image_classifier", "_self_"],
        "kind": "images",
        "source": "file",
        "path": path,
        "sha256": sha256,
    }
    if facts.size is not None:
        data["side"] = facts.size
    data["channels"] = facts.channels
    if facts.background != "white":
        data["background"] = facts.background
    if facts.labels:
        data["labels"] = facts.labels
        epochs = round(min(60, max(4, 400_000 / facts.rows)))  # some minutes on two cores
        data["image_classifier"] = {"epochs": epochs, "shift": 1 if facts.side < 16 else 2}
    return data


def image_experiment(name: str, facts: ImageFacts) -> dict[str, Any]:
    """A hierarchical VAE of three groups and a diffusion prior on them."""
    content: dict[str, Any] = {
        **start_from("images"),
        "data": name,
        "description": f"hierarchical VAE on {name}, {facts.rows} images",
        "backbone": {
            "hvae": groups_of_images(facts.side, facts.channels),
            **image_length(facts.rows),
        },
    }
    prior: dict[str, Any] = {}
    if facts.rows > MANY:
        prior = {"hierarchy": {"cached_draws": 1}}
    if facts.classes:
        content["cluster"] = {"labels": "given", "column": facts.labels[0]}
        prior |= {"classes": facts.classes, "class_weight": 1.0}
        prior["hierarchy"] = prior.get("hierarchy", {}) | {"label_groups": [0]}
    return content | ({"prior": prior} if prior else {})
