"""Images: decoding, the forms a source can have, preparing, packing, batches, bad input."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ldebm.config import DataConfig
from ldebm.data.batches import make_batch
from ldebm.data.fetch import fetch
from ldebm.data.image_sources import open_images
from ldebm.data.images import ImageError, as_array, resized
from ldebm.data.kinds.images import batches
from ldebm.data.packed import open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.errors import UsageError
from ldebm.files import hash_path, read_parquet
from tests.unit.data_worlds import World, encoded, noise, sizes

COLOUR = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
GREY = COLOUR[:, :, 0]


def _frames() -> bytes:
    stream = io.BytesIO()
    images = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:])
    return stream.getvalue()


FRAMES = _frames()


def parquet(path: Path, contents: list[bytes], **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": pa.array(contents, pa.binary()), **columns}
    pq.write_table(pa.table(table), path)


def images_config(source: str, **options: Any) -> DataConfig:
    return DataConfig(kind="images", source=source, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Decoding


def test_lossless_files_give_back_their_pixels() -> None:
    for form in ("PNG", "BMP", "TIFF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        assert (as_array(encoded(COLOUR, form, **options), None) == COLOUR).all()
    assert as_array(encoded(GREY), None).shape == (6, 6, 1)
    assert (as_array(encoded(GREY), 1)[:, :, 0] == GREY).all()
    assert (as_array(encoded(COLOUR, mode="RGBA"), 3) == COLOUR).all()


def test_colour_becomes_its_luminance_where_grey_is_wanted() -> None:
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert (as_array(red, 1) == 76).all()  # 0.299 * 255 (ITU-R 601)


def test_a_turned_photograph_is_put_upright() -> None:
    tall = noise(0, 8, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees
    lying = encoded(np.ascontiguousarray(np.rot90(tall)), exif=exif)
    assert (as_array(lying, None) == tall).all()


@pytest.mark.parametrize(
    ("content", "channels", "reason"),
    [
        (b"", None, "corrupt image"),
        (encoded(COLOUR)[:50], None, "corrupt image"),
        (encoded(noise(0, 64, 64, 3), "JPEG")[:800], None, "corrupt image"),
        (encoded(GREY), 3, "greyscale where colour is wanted"),
        (encoded(np.zeros((4, 4), dtype=np.float32), "TIFF"), None, "mode F, expected grey or RGB"),
        (encoded(GREY, "TIFF", "I"), None, "mode I, expected grey or RGB of 8 or 16 bits, or CMYK"),
        (FRAMES, None, "several frames; save each as a file of its own"),
        (np.zeros((4, 4, 2), dtype=np.uint8), None, "array of 4 x 4 x 2 uint8"),
        (np.zeros((4, 4)), None, "array of 4 x 4 float64"),
    ],
)
def test_an_unusable_image_has_a_reason(content: Any, channels: int | None, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        as_array(content, channels)


def test_transparent_pixels_show_the_background() -> None:
    pixels = np.dstack([COLOUR, np.zeros((6, 6), dtype=np.uint8)])
    pixels[:3, :, 3] = 255
    for name, value in (("white", 255), ("black", 0)):
        for content in (encoded(pixels), pixels):
            array = as_array(content, None, name)
            assert (array[:3] == COLOUR[:3]).all()
            assert (array[3:] == value).all()
    pixels[..., 3] = 51  # a fifth
    half = as_array(encoded(pixels), None, "black").astype(int)
    assert np.abs(half - COLOUR / 5).max() <= 1
    grey = np.dstack([GREY, np.zeros_like(GREY)])
    assert (as_array(encoded(grey), None) == np.full((6, 6, 1), 255)).all()
    palette = Image.fromarray(COLOUR).quantize(8)
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=int(palette.getpixel((0, 0))))
    assert (as_array(stream.getvalue(), None)[0, 0] == 255).all()
    keyed = encoded(GREY, transparency=int(GREY[2, 3]))  # one grey value is transparent
    expected = np.where(GREY[2, 3] == GREY, 255, GREY)
    assert (as_array(keyed, None)[..., 0] == expected).all()


def test_sixteen_bits_become_eight_and_one_bit_too() -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        assert (as_array(encoded(deep, form), None).reshape(-1) == np.arange(256)).all()
    portable = b"P5 16 16 65535\n" + deep.astype(">u2").tobytes()
    assert (as_array(portable, None).reshape(-1) == np.arange(256)).all()
    bits = (GREY > 40) * np.uint8(255)
    assert (as_array(encoded(bits, mode="1"), None)[..., 0] == bits).all()


def test_ink_colours_become_red_green_and_blue() -> None:
    pixels = as_array(encoded(COLOUR, "TIFF", "CMYK"), None)
    assert pixels.shape == (6, 6, 3)
    assert (pixels == COLOUR).all()


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_unread() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header
    chunk += struct.pack(">I", zipfile.crc32(b"IHDR" + header))
    with pytest.raises(ImageError, match="more than 50000000 pixels"):
        as_array(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x10IDAT" + b"\0" * 64, None)


def test_resizing_takes_the_centred_square_and_keeps_what_fits() -> None:
    wide = noise(1, 6, 10, 3)
    assert (resized(wide, 6) == wide[:, 2:8]).all()
    assert resized(COLOUR, 6) is COLOUR
    flat = np.full((20, 30, 1), 77, dtype=np.uint8)
    assert (resized(flat, 8) == np.full((8, 8, 1), 77)).all()


# Sources


def _write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_idx_files_keep_pixels_and_labels_and_give_validation_rows(world: World) -> None:
    for prefix, rows in (("train", 40), ("t10k", 12)):
        _write_idx(world.raw / f"{prefix}-images-idx3-ubyte.gz", noise(rows, rows, 9, 9))
        labels = np.arange(rows, dtype=np.uint8) % 10
        _write_idx(world.raw / f"{prefix}-labels-idx1-ubyte.gz", labels)
    config = images_config("mnist", valid=8, labels=["digit"])
    profile = world.prepared(config)
    assert sizes(profile) == [32, 8, 12]
    (test,) = batches(world.folder / "prepared/test.parquet")
    assert (test[0][..., 0] == noise(12, 12, 9, 9)).all()
    assert test[1]["label.digit"] == [str(i % 10) for i in range(12)]
    parts = [next(batches(world.folder / f"prepared/{s}.parquet")) for s in ("train", "valid")]
    together = np.concatenate([pixels[..., 0] for pixels, _ in parts])
    assert {row.tobytes() for row in together} == {row.tobytes() for row in noise(40, 40, 9, 9)}


def test_the_lossless_cifar_archive_is_read_in_planes(world: World) -> None:
    pixels = noise(0, 2, 3, 32, 32)
    rows = b"".join(bytes([i]) + image.tobytes() for i, image in enumerate(pixels))
    (world.raw).mkdir()
    with tarfile.open(world.raw / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(rows)
            archive.addfile(entry, io.BytesIO(rows))
    images = list(open_images(images_config("cifar10_lossless"), world.raw).images)
    assert [image.split for image in images] == ["train"] * 10 + ["test"] * 2
    assert [image.labels for image in images[:2]] == [("airplane",), ("automobile",)]
    assert (images[1].content == pixels[1].transpose(1, 2, 0)).all()


def test_the_matlab_house_numbers_have_zero_for_ten(world: World) -> None:
    from scipy.io import savemat

    pixels = noise(0, 32, 32, 3, 4)
    (world.raw).mkdir()
    for split in ("train", "test"):
        savemat(world.raw / f"{split}_32x32.mat", {"X": pixels, "y": [[1], [10], [9], [2]]})
    images = list(open_images(images_config("svhn"), world.raw).images)
    assert [image.labels[0] for image in images] == [1, 0, 9, 2] * 2
    assert (images[2].content == pixels[..., 2]).all()


def test_shards_have_splits_classes_and_attributes(world: World) -> None:
    raw = world.raw
    contents = [encoded(noise(i, 8, 8, 3)) for i in range(4)]
    parquet(raw / "train-0.parquet", contents, label=[0, 9, 3, 1], split=["train"] * 4)
    parquet(raw / "test-0.parquet", contents[:1], label=[2], split=["test"])
    images = list(open_images(images_config("cifar10"), raw).images)
    names = ["airplane", "truck", "cat", "automobile", "bird"]
    assert sorted(image.labels[0] for image in images) == sorted(names)
    assert sum(image.split == "test" for image in images) == 1
    for path in raw.glob("*"):
        path.unlink()
    parquet(raw / "valid-0.parquet", contents[:2], Male=[1, -1], Young=[-1, 1], name=["a", "b"])
    source = open_images(images_config("celeba64"), raw)
    assert source.names == ("Male", "Young")
    assert [image.labels for image in source.images] == [(1, 0), (0, 1)]


def test_digits_are_prepared_and_packed_with_the_same_bytes_every_time(world: World) -> None:
    config = images_config("digits", valid=180, test=360, labels=["digit"])
    fetch(None, config, world.raw)
    for name in ("one", "two"):
        prepare(config, world.raw, world.folder / name / "prepared")
        pack(config, world.folder / name / "prepared", world.folder / name / "packed")
    assert hash_path(world.folder / "one") == hash_path(world.folder / "two")
    packed = open_packed(world.folder / "one/packed")
    assert {**packed.meta, "labels": None} == {
        "kind": "images",
        "source": "digits",
        "rows": {"train": 1257, "valid": 180, "test": 360},
        "channels": 1,
        "size": 8,
        "labels": None,
    }
    assert packed.meta["labels"] == {"digit": [str(i) for i in range(10)]}
    train = packed.split("train")
    assert train.x.shape == (1257, 1, 8, 8)
    assert set(np.unique(train.x)) == set(np.rint(np.arange(17) * 255 / 16))
    rows = read_parquet(world.folder / "one/prepared/train.parquet", ["label.digit"])
    assert [str(number) for number in train.labels("digit")] == rows["label.digit"]


def test_batches_run_from_minus_one_to_one(world: World) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (3, 1, 1)).transpose(1, 2, 0)
    images = np.stack([ramp] + [noise(i, 16, 16, 3) for i in range(29)])
    (world.raw).mkdir()
    split = np.array((["train"] * 10) + ["valid"] * 10 + ["test"] * 10)
    np.savez(world.raw / "mine.npz", images=images, split=split)
    config = images_config("file")
    packed = world.built(config)
    train = packed.split("train")
    x = make_batch(train, np.array([3, 0]), torch.device("cpu"))
    assert x.shape == (2, 3, 16, 16)
    assert x.dtype == torch.float32
    assert x[1].min() == -1
    assert x[1].max() == 1
    back = ((x + 1) * 127.5).round().to(torch.uint8)
    assert (back.numpy() == images[[3, 0]].transpose(0, 3, 1, 2)).all()
    with pytest.raises(UsageError, match="images have no tokenizer"):
        _ = packed.tokenizer


def test_many_label_columns_are_one_array(world: World) -> None:
    names = [f"attribute {i}" for i in range(40)]
    values = noise(0, 40, 30) % 2 * 2 - np.int8(1)
    values[:, :2] = [-1, 1]  # both classes in training
    contents = [encoded(noise(i, 8, 8, 3)) for i in range(30)]
    for split, part in (("train", slice(20)), ("valid", slice(20, 25)), ("test", slice(25, 30))):
        columns = {name: row[part] for name, row in zip(names, values.tolist(), strict=True)}
        parquet(world.raw / f"{split}-0.parquet", contents[part], **columns)
    config = images_config("celeba64", side=8)
    packed = world.built(config)
    assert len(list((world.folder / "packed").iterdir())) < 12
    test = packed.split("test")
    for name, row in zip(names, values, strict=True):
        assert (test.labels(name) == (row[25:] > 0)).all()
    with pytest.raises(UsageError, match="no label column 'Male'"):
        test.labels("Male")


def test_rejected_images_are_listed_with_their_place_and_reason(world: World) -> None:
    contents = [encoded(noise(i, 8, 8, 3)) for i in range(30)]
    contents[4], contents[7] = b"no image", encoded(noise(0, 8, 8))
    parquet(world.raw / "mine.parquet", contents)
    profile = world.prepared(images_config("file", side=8))
    assert profile["rejects"]["reasons"] == {
        "corrupt image": 1,
        "greyscale where colour is wanted": 1,
    }
    rejects = world.rows("rejects")
    assert rejects["row"] == ["mine.parquet row 4", "mine.parquet row 7"]
    assert rejects["line"].tolist() == [5, 8]
    assert sum(facts["rows"] for facts in profile["splits"].values()) == 28


def test_equal_images_are_counted_and_statistics_are_those_of_numpy(world: World) -> None:
    images = noise(3, 30, 8, 8, 3)
    images[1], images[25], images[5] = images[0], images[2], 9
    split = np.array((["train"] * 20) + ["valid"] * 5 + ["test"] * 5)
    (world.raw).mkdir()
    np.savez(world.raw / "mine.npz", images=images, split=split)
    splits = world.prepared(images_config("file"))["splits"]
    assert splits["train"]["duplicates"] == 1
    assert splits["test"]["in_train"] == 1
    assert splits["train"]["constant"] == 1
    train = images[:20].astype(np.float64)
    assert np.allclose(splits["train"]["mean"], train.mean((0, 1, 2)))
    assert np.allclose(splits["train"]["std"], train.std((0, 1, 2)))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(8, 8, 3)] * 20 + [(9, 9, 3)], {}, "mine.parquet row 20: 9 x 9 pixels; other images have "
         "8 x 8: set side"),
        ([(8, 6, 3)] * 20, {}, "8 x 6 pixels; images have to be square: set side"),
        ([(8, 8)] * 20, {"channels": 3}, "0 usable rows .20 left out; 20 greyscale where colour"),
        ([(8, 8, 3)] * 20, {"labels": ["Male"]}, "no label column 'Male'; label columns there: y"),
    ],
    ids=["other size", "not square", "grey", "no attribute"],
)  # fmt: skip
def test_bad_images_are_one_clear_line_and_write_nothing(
    shapes: list[tuple[int, ...]], options: dict[str, Any], message: str, world: World
) -> None:
    contents = [encoded(noise(i, *shape)) for i, shape in enumerate(shapes)]
    parquet(world.raw / "mine.parquet", contents, y=[i % 2 for i in range(len(shapes))])
    world.refuses(message, images_config("file", **options))


def test_a_source_without_registered_files_takes_those_that_the_parameters_name(
    world: World,
) -> None:
    path = world.folder / "mirror/celebahq256/train-00000.parquet"
    parquet(path, [encoded(noise(i, 10, 10, 3)) for i in range(20)])
    config = images_config("celebahq256", side=8)
    with pytest.raises(UsageError, match=r"no file to fetch: .* as checksums"):
        fetch(None, config, world.raw, world.folder / "mirror")
    named = config.model_copy(update={"checksums": {path.name: hash_path(path)}})
    fetch(None, named, world.raw, world.folder / "mirror")
    images = list(open_images(named, world.raw).images)
    assert len(images) == 20
    assert images[0].split == "train"


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_idx_file_is_named(name: str, world: World) -> None:
    for prefix in ("train", "t10k"):
        _write_idx(world.raw / f"{prefix}-images-idx3-ubyte.gz", noise(0, 20, 8, 8))
        _write_idx(world.raw / f"{prefix}-labels-idx1-ubyte.gz", noise(0, 20) % 10)
    path = world.raw / name
    path.write_bytes(path.read_bytes()[:-20])
    world.refuses(rf"{name}: damaged", images_config("mnist"))


# A user's own images


def folder_of(path: Path, names: list[str], labels: str | None = None) -> Path:
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(encoded(noise(i, 8, 8, 3)))
    if labels is not None:
        (path / "labels.csv").write_text(labels)
    return path


def fetched(path: Path, world: World, **options: Any) -> list[Any]:
    config = images_config("file", path=str(path), **options)
    fetch(None, config, world.raw)
    return list(open_images(config, world.raw).images)


def test_a_folder_is_kept_as_one_file_whose_bytes_follow_from_its_content(world: World) -> None:
    names = ["b/2.png", "a/1.png", "a/.hidden.png", "a/notes.txt"]
    one = folder_of(world.folder / "one", names)
    two = folder_of(world.folder / "two", names[1::-1])
    (two / "b/2.png").write_bytes((one / "b/2.png").read_bytes())
    (two / "a/1.png").write_bytes((one / "a/1.png").read_bytes())
    for folder in (one, two):
        fetch(None, images_config("file", path=str(folder)), world.folder / f"raw-{folder.name}")
    assert hash_path(world.folder / "raw-one") == hash_path(world.folder / "raw-two")
    pinned = hash_path(world.folder / "raw-one/images.zip")
    fetch(None, images_config("file", path=str(one), sha256=pinned), world.folder / "again")
    (one / "a/1.png").write_bytes(b"other")
    with pytest.raises(UsageError, match=r"one: wrong sha256"):
        fetch(None, images_config("file", path=str(one), sha256=pinned), world.folder / "changed")


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (
            [
                "all/train/cat/1.png",
                "all/train/dog/2.png",
                "all/val/cat/3.png",
                "all/test/dog/4.jpg",
            ],
            None,
            [("test", ("dog",)), ("train", ("cat",)), ("train", ("dog",)), ("valid", ("cat",))],
        ),
        (["faces/1.png", "faces/2.png"], None, [(None, ()), (None, ())]),
        (
            ["1.png", "sub/2.png"],
            "image,Male,Smiling,split\n1.png,1,0,train\nsub/2.png,0,,test\n",
            [("train", ("1", "0")), ("test", ("0", None))],
        ),
    ],
    ids=["folders", "one folder", "a labels file"],
)
def test_folders_or_a_table_name_splits_and_labels(
    names: list[str], labels: str | None, expected: list[Any], world: World
) -> None:
    images = fetched(folder_of(world.folder / "mine", names, labels), world)
    assert [(image.split, image.labels) for image in images] == expected


def test_a_zip_is_read_as_the_folder_and_a_damaged_member_is_rejected(world: World) -> None:
    path = world.folder / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(24):
            archive.writestr(f"{'ab'[i % 2]}/{i:02}.png", encoded(noise(i, 8, 8, 3)))
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"IDAT") + 20] ^= 255  # of the first member: its checksum does not fit
    path.write_bytes(bytes(whole))
    config = images_config("file", path=str(path), labels=["class"])
    fetch(None, config, world.raw)
    profile = world.prepared(config)
    assert profile["rejects"] == {"rows": 1, "reasons": {"corrupt image": 1}}
    assert sum(profile["splits"]["train"]["labels"]["class"].values()) == 19


@pytest.mark.parametrize(
    ("names", "labels", "options", "message"),
    [
        (["notes.txt"], None, {}, "mine: no image in the folder; expected .png"),
        (["a/1.png", "b/2.png"], None, {"labels": ["Male"]}, "no label column 'Male'; label "
         "columns there: class"),
        (["1.png", "2.png"], "image,y\n1.png,1\n", {}, "labels.csv has no row for 2.png"),
        (["1.png"], "picture,y\n1.png,1\n", {}, "no column 'image' of file names; columns there: "
         "picture, y"),
        (["1.png"], "image,split\n1.png,held-out\n", {}, "split 'held-out'; expected train"),
        (["1.png"], "", {}, "labels.csv: the file is empty"),
    ],
    ids=["no image", "no attribute", "no row", "no names", "unknown split", "empty table"],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_one_clear_line(
    names: list[str], labels: str | None, options: dict[str, Any], message: str, world: World
) -> None:
    path = folder_of(world.folder / "mine", names, labels)
    with pytest.raises(UsageError, match=message) as error:
        fetched(path, world, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK no zip", "damaged archive"),
        ("b.npz", b"no npz", "cannot be read as npz"),
        ("c.npz", {"images": np.zeros(4)}, r"no array of images; arrays there: images .4 float64"),
        ("d.npz", {"images": np.array([{}])}, "cannot be read as npz"),
        ("e.parquet", b"PAR1", "cannot be read as parquet"),
        ("f.parquet", pa.table({"text": ["a"]}), "no column 'image' of image files; .*there: text"),
    ],
)
def test_other_files_that_cannot_be_used_are_one_clear_line(
    name: str, content: Any, message: str, world: World
) -> None:
    path = world.write(f"raw/{name}", content if isinstance(content, bytes) else b"")
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, pa.Table):
        pq.write_table(content, path)
    world.refuses(message, images_config("file"))
