"""A user's images in the layouts that people have them in, from ``ldebm new`` to packed arrays.

The content of every picture tells its number, and its number its class, so that every packed pair
of image and label can be checked.
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldebm.data.packed import open_packed
from ldebm.errors import UsageError
from pipelines.library import Library
from pipelines.new.dataset import add_dataset
from pipelines.new.images import inspect_images
from tests.unit.data_worlds import World, encoded

CLASSES = ("bar", "box", "dot")


def pixels(number: int, side: int = 8) -> np.ndarray:
    """A noisy picture, uint8 (side, side), with its number in the corner; its class is i mod 3."""
    picture = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
    picture[0, 0] = number
    return picture


def png(number: int) -> bytes:
    return encoded(pixels(number))


class Pictures(World):
    """A project's folder with the folder ``mine``."""

    def put(self, name: str, content: bytes) -> Path:
        self.write(f"mine/{name}", content)
        return self.folder / "mine"

    def put_all(self, name: Callable[[int], str], number: int) -> Path:
        """So many pictures under the names that ``name`` gives them."""
        for i in range(number):
            self.put(name(i), png(i))
        return self.folder / "mine"

    def build(self, source: Path, *labels: str) -> dict[str, dict[int, str | None]]:
        """By split: number of every packed image to the name of its class."""
        packed = self.built(self.add(source, *labels))
        label = next(iter([*labels, *packed.meta["labels"]]), None)
        label_of: dict[str, dict[int, str | None]] = {}
        for name in ("train", "valid", "test"):
            split = packed.split(name)
            of_rows: list[str | None] = [None] * split.n
            if label is not None:
                names = packed.meta["labels"][label]
                of_rows = [names[i] if i >= 0 else None for i in split.labels(label)]
            label_of[name] = dict(zip(split.x[:, 0, 0, 0].tolist(), of_rows, strict=True))
            assert len(label_of[name]) == split.n, "no image is there twice"
        return label_of


@pytest.fixture
def world(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path)


def expected(numbers: Any, names: Any = CLASSES) -> dict[int, str]:
    return {i: str(names[i % 3]) for i in numbers}


def union(labels: dict[str, Any], *splits: str) -> dict[int, Any]:
    return {key: value for split in splits for key, value in labels[split].items()}


# Folders


def test_a_stray_image_is_left_out_and_the_splits_stay(world: Pictures) -> None:
    source = world.put_all(
        lambda i: f"{'test' if i > 71 else 'train'}/{CLASSES[i % 3]}/{i}.png", 90
    )
    world.put("preview.png", png(200))
    world.put(".DS_Store", b"x")
    world.put("__MACOSX/train/bar/._1.png", b"x")
    world.put("train/bar/Thumbs.db", b"x")
    world.put("train/notes.txt", b"x")
    labels = world.build(source)
    assert labels["test"] == expected(range(72, 90))
    assert union(labels, "train", "valid") == expected(range(72))
    assert len(labels["valid"]) == 4
    assert world.says("rows", "90: 68 train, 4 valid, 18 test")
    assert world.says("left out", "1 of no split")
    assert world.says("preview.png")
    assert world.says("files not read: 1 .txt")
    assert world.says("build", "minutes on two CPU cores")
    assert world.says("valid taken from the training images")


def test_an_image_beside_the_classes_is_left_out(world: Pictures) -> None:
    source = world.put_all(lambda i: f"{CLASSES[i % 3]}/deep er/Ünï {i}.PNG", 30)
    world.put("index.png", png(200))
    labels = world.build(source)
    assert union(labels, "train", "valid", "test") == expected(range(30))
    assert world.says("left out", "1 outside the folders of classes")


def test_test_images_without_classes_are_unlabelled(world: Pictures) -> None:
    source = world.put_all(
        lambda i: f"{f'train/{CLASSES[i % 3]}' if i < 45 else 'test'}/{i}.png", 60
    )
    labels = world.build(source)
    assert labels["test"] == dict.fromkeys(range(45, 60))
    assert union(labels, "train", "valid") == expected(range(45))


@pytest.mark.parametrize("names", [("Training_Set", "Validation", "Testing"), ("train", "dev", "")])
def test_usual_names_of_splits_are_known(names: tuple[str, ...], world: Pictures) -> None:
    there = [name for name in names if name]
    for i in range(60):
        name = there[0] if i < 40 else there[1 + i % (len(there) - 1)]
        source = world.put(f"{name}/{CLASSES[i % 3]}/{i}.png", png(i))
    labels = world.build(source)
    if len(there) == 3:
        assert labels["train"] == expected(range(40))
        assert labels["valid"] == expected(range(41, 60, 2)) or labels["valid"] == expected(
            range(40, 60, 2)
        )
    else:
        assert labels["valid"] == expected(range(40, 60))
        assert union(labels, "train", "test") == expected(range(40))
        assert world.says("test taken from the training images")


def test_a_class_called_train_among_others_is_a_class(world: Pictures) -> None:
    names = ("bus", "car", "train")
    source = world.put_all(lambda i: f"{names[i % 3]}/{i}.png", 30)
    assert union(world.build(source), "train", "valid", "test") == expected(range(30), names)


def test_links_to_folders_are_followed_and_do_not_run_in_circles(world: Pictures) -> None:
    for i in range(30):
        world.put(f"../real/{CLASSES[i % 3]}/{i}.png", png(i))
    links = world.folder / "links"
    links.mkdir()
    for name in CLASSES:
        os.symlink(world.folder / "real" / name, links / name)
    os.symlink(links, world.folder / "real/bar/back")
    os.symlink(world.folder / "nowhere.png", links / "dot/dead.png")
    labels = world.build(links)
    assert union(labels, "train", "valid", "test") == expected(range(30))
    assert world.says("left out", "1 corrupt image")
    assert world.says("dot/dead.png")


def test_a_zip_made_on_windows_has_folders(world: Pictures) -> None:
    path = world.folder / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(30):
            entry = zipfile.ZipInfo("x")
            entry.filename = f"mine\\{CLASSES[i % 3]}\\{i}.png"
            archive.writestr(entry, png(i))
    assert union(world.build(path), "train", "valid", "test") == expected(range(30))


# labels.csv


def test_a_table_of_labels_keeps_the_splits_of_the_folders(world: Pictures) -> None:
    rows = ["image,kind,caption"]
    for i in range(60):
        name = f"{'train' if i < 45 else 'test'}/{i}.png"
        source = world.put(name, png(i))
        rows.append(f"{name},{CLASSES[i % 3]},picture number {i}")
    table = "\n".join([*rows, "train/99.png,bar,gone"])
    world.put("labels.csv", table.replace(",", ";").encode("utf-16"))  # as spreadsheets write it
    labels = world.build(source)
    assert labels["test"] == expected(range(45, 60))
    assert world.says("column 'caption' is not used as a label: 60 values in 60 rows")
    assert world.says("1 rows of labels.csv have no image, such as train/99.png")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,kind\na/1.png,x\n", r"no row for b/1.png \(1 of 2 images lack one\)"),
        ("image,kind\n1.png,x\n", "has one row, 1.png, for a/1.png and b/1.png; write the folders"),
        ("image,kind\na/1.png,x\na/1.png,y\n", "has two rows for a/1.png; leave one"),
        ("image;kind\na/1.png;x;y\nb/1.png;x\n", "labels.csv: line 2 has 3 cells"),
    ],
    ids=["no row", "same name", "two rows", "cells"],
)
def test_a_table_of_labels_that_does_not_fit_is_one_clear_line(
    table: str, message: str, world: Pictures
) -> None:
    for name in ("a/1.png", "b/1.png"):
        source = world.put(name, png(1))
    world.put("labels.csv", table.encode())
    world.new_refuses(message, source)


# npz

STACK = np.stack([pixels(i) for i in range(60)])
KINDS = np.arange(60) % 3
COLOUR = np.stack([STACK, STACK, 255 - STACK], axis=3)


def save(world: Pictures, **arrays: np.ndarray) -> Path:
    path = world.folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def test_arrays_of_training_and_test_images_are_both_read(world: Pictures) -> None:
    path = save(world, x_train=STACK[:45], y_train=KINDS[:45], x_test=STACK[45:],
                y_test=KINDS[45:])  # fmt: skip
    labels = world.build(path)
    assert labels["test"] == expected(range(45, 60), "012")
    assert union(labels, "train", "valid") == expected(range(45), "012")


def test_arrays_of_three_splits_are_read_with_columns_of_labels(world: Pictures) -> None:
    parts = {"train": slice(40), "val": slice(40, 50), "test": slice(50, 60)}
    arrays = {f"{name}_images": STACK[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": KINDS[part, None] for name, part in parts.items()}
    labels = world.build(save(world, **arrays))
    assert labels["train"] == expected(range(40), "012")
    assert labels["valid"] == expected(range(40, 50), "012")
    assert labels["test"] == expected(range(50, 60), "012")


@pytest.mark.parametrize(
    ("images", "channels"),
    [
        (STACK[..., None], 1),
        (STACK[:, None], 1),
        (COLOUR, 3),
        (COLOUR.transpose(0, 3, 1, 2), 3),
        (np.concatenate([COLOUR, np.full((60, 8, 8, 1), 255, np.uint8)], 3), 3),
        (STACK.astype(np.int64), 1),
        (STACK.astype(np.float32), 1),
        ((STACK / 255).astype(np.float32), 1),
        (STACK / 127.5 - 1, 1),
        (STACK.astype(np.uint16) * 257, 1),
        (np.stack([STACK] * 3, axis=3), 1),
    ],
    ids=["grey last", "grey first", "colour", "colour first", "opaque", "int64", "float 255",
         "float 1", "float -1 to 1", "16 bits", "grey in colour"],
)  # fmt: skip
def test_arrays_of_any_layout_and_range_give_the_same_pixels(
    images: np.ndarray, channels: int, world: Pictures
) -> None:
    labels = world.build(save(world, images=images, label=np.array(CLASSES)[KINDS]))
    assert union(labels, "train", "valid", "test") == expected(range(60))
    train = open_packed(world.folder / "packed").split("train")
    assert train.x.shape[1:] == (channels, 8, 8)
    numbers = train.x[:, 0, 0, 0]
    assert (train.x[:, 0] == STACK[numbers]).all()


def test_one_hot_and_boolean_labels_are_labels(world: Pictures) -> None:
    labels = world.build(save(world, images=STACK, y=np.eye(3)[KINDS]))
    assert union(labels, "train", "valid", "test") == expected(range(60), "012")
    flags = inspect_images(save(world, images=STACK, flag=KINDS > 0))
    assert (flags.labels, flags.classes) == (["flag"], 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": STACK, "arr_1": KINDS, "arr_2": STACK}, "2 arrays of images: arr_0, arr_2; exp"),
        ({"images": STACK, "train_images": STACK}, "arrays of images images, train_images: expect"),
        ({"x_train": STACK, "y_train": KINDS[:50]}, r"60 images in 'x_train' and labels 'y' of 50"),
        (
            {"data": STACK.reshape(60, 64)},
            r"no array of images; arrays there: data \(60 x 64",
        ),
        ({"images": COLOUR[0]}, r"'images' is of 8 x 8 x 3 uint8; expected one array of images"),
        ({"images": STACK.astype(float) * 9}, "values from 0 to 2295; expected 0 to 1, -1 to 1"),
        ({"images": np.where(STACK == 0, np.nan, STACK)}, "values that are NaN or infinite"),
        ({"images": STACK, "y": np.array([{}] * 60)}, "arrays of text need a dtype of str"),
    ],
    ids=["two", "both", "fewer labels", "flat", "one image", "range", "nan", "objects"],
)
def test_arrays_that_are_not_clear_are_named(
    arrays: dict[str, Any], message: str, world: Pictures
) -> None:
    world.new_refuses(message, save(world, **arrays))


# Parquet


def table(**columns: Any) -> pa.Table:
    contents = pa.array([png(i) for i in range(60)], pa.binary())
    return pa.table({"image": contents, **columns})


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array([CLASSES[i % 3] for i in range(60)]).dictionary_encode(), CLASSES),
        (pa.array([i % 3 == 0 for i in range(60)]), ("true", "false", "false")),
        (pa.array([float(i % 3) for i in range(60)]), "012"),
        (pa.array(KINDS, pa.int8()), "012"),
    ],
    ids=["category", "boolean", "whole floats", "small integers"],
)
def test_columns_of_many_types_are_labels(column: pa.Array, names: Any, world: Pictures) -> None:
    pq.write_table(table(label=column), world.folder / "mine.parquet")
    labels = world.build(world.folder / "mine.parquet", "label")
    assert union(labels, "train", "valid", "test") == expected(range(60), names)


def test_a_column_that_can_be_no_label_is_refused_by_name(world: Pictures) -> None:
    lists = pa.array([[i, 1] for i in range(60)])
    pq.write_table(table(boxes=lists), world.folder / "mine.parquet")
    words = "column 'boxes' is no label: it holds lists; labels are"
    world.new_refuses(words, world.folder / "mine.parquet", "boxes")
    assert inspect_images(world.folder / "mine.parquet").labels == []


def test_the_name_of_a_users_file_is_no_split(world: Pictures) -> None:
    pq.write_table(table(), world.folder / "test.parquet")
    labels = world.build(world.folder / "test.parquet")
    assert {split: len(rows) for split, rows in labels.items()} == {
        "train": 54, "valid": 3, "test": 3,
    }  # fmt: skip


# What ``ldebm new`` decides and refuses


def test_bright_drawings_on_nothing_get_a_black_background(world: Pictures) -> None:
    for i in range(30):
        picture = np.full((8, 8, 4), 255, dtype=np.uint8)
        picture[..., 3] = pixels(i) // 2 * 2
        picture[0, 0] = [i, i, i, 255]
        source = world.put(f"{CLASSES[i % 3]}/{i}.png", encoded(picture))
    labels = world.build(source)
    assert Library(world.folder).dataset("mine").background == "black"
    assert world.says("transparent pixels become black")
    assert union(labels, "train", "valid", "test") == expected(range(30))
    assert open_packed(world.folder / "packed").meta["background"] == "black"


def test_one_small_image_does_not_shrink_the_others(world: Pictures) -> None:
    for i in range(40):
        source = world.put(f"{i}.png", encoded(pixels(i, 40)))
    world.put("icon.png", png(99))
    assert world.add(source).side == 32
    assert world.says("8 x 8 to 40 x 40", "scaled to 32 x 32; 1 image smaller")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda i: b"no image" if i < 20 else png(i), "left out is 0.5; expected at most "
         "0.1.*20 left out: corrupt image"),
        (lambda i: png(i % 4), "rows that repeat another row is"),
        (lambda i: encoded(np.full((8, 8), i, np.uint8)), "one colour, beside a first is 0.9"),
        (lambda i: b"no image" if i < 32 else png(i), r"8 usable rows \(32 left out"),
    ],
    ids=["damaged", "repeated", "one colour", "too few"],
)  # fmt: skip
def test_what_a_build_would_refuse_is_refused_at_once(
    content: Callable[[int], bytes], message: str, world: Pictures
) -> None:
    for i in range(40):
        source = world.put(f"{CLASSES[i % 3]}/{i}.png", content(i))
    world.new_refuses(message, source)


def test_images_of_training_in_the_test_split_are_counted_and_many_are_refused(
    world: Pictures,
) -> None:
    for i in range(60):
        split = "train" if i < 40 else "test"
        source = world.put(f"{split}/{CLASSES[i % 3]}/{i}.png", png(i))
    world.put("test/bar/again.png", png(0))
    world.add(source)
    assert world.says("1 image of test also in train")
    for i in range(1, 20):
        world.put(f"test/bar/again{i}.png", png(i))
    with pytest.raises(UsageError, match=r"images that the training split has as well is 0\.475"):
        add_dataset("other", source, root=world.folder)


def test_colour_that_is_lost_among_grey_images_is_said(world: Pictures) -> None:
    stream = np.random.default_rng(0)
    for i in range(60):
        shape = (16, 16, 3) if i < 51 else (16, 16)
        picture = stream.integers(0, 256, shape, dtype=np.uint8)
        source = world.put(f"{i}.png", encoded(picture))
    world.add(source)
    assert Library(world.folder).dataset("mine").channels == 1
    assert any("colour is lost" in line and "51 with colours" in line for line in world.said)
