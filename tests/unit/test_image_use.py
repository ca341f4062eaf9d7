"""Image models from the command line and from Python: drawing, scoring, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldebm
from ldebm.data.images import as_array
from ldebm.errors import UsageError
from ldebm.files import read_parquet
from ldebm.grids import cells, picture, tile
from ldebm.modalities.images import read_pictures
from ldebm.model import Model, save
from tests.unit.image_models import image_model, pictures

LABELLED = {
    "classes": 3,
    "hierarchy": {"channels": 4, "label_groups": [0], "label_sampling": "langevin"},
    "cluster": {"labels": "given", "column": "digit"},
}
ATTRIBUTES = {
    "classes": 4,
    "hierarchy": {
        "channels": 4, "attributes": {"bright": [0], "wide": [1]}, "label_sampling": "langevin"
    },
    "cluster": {"labels": "given"},
}  # fmt: skip


def saved(path: Path, **changes: object) -> Path:
    model = image_model(**changes)  # type: ignore[arg-type]
    header = {"experiment": "pictures-hvae", "seed": 0, "meta": model.meta}
    header["config"] = model.config.model_dump(mode="json")
    save(path, model.backbone, model.prior, header, None)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("plain") / "model.safetensors")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("labelled") / "model.safetensors", **LABELLED)


@pytest.fixture(scope="module")
def attributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("attributed") / "model.safetensors", **ATTRIBUTES)


def test_images_are_drawn_into_a_picture_and_the_same_seed_gives_the_same_bytes(
    run, plain: Path, tmp_path: Path
):
    first, second, other = (tmp_path / f"{name}.png" for name in "abc")
    for out, seed in ((first, 1), (second, 1), (other, 2)):
        done = run("generate", plain, "-n", 9, "--seed", seed, "--out", out)
        assert (done.code, done.err) == (0, "")
        assert "9 images" in done.out
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    with Image.open(first) as image:
        assert image.size == (3 * 24 + 2, 3 * 24 + 2)  # 8 pixels enlarged to 24, lines between


def test_images_drawn_into_parquet_are_read_again_as_they_were(
    run, attributed: Path, tmp_path: Path
):
    out = tmp_path / "drawn.parquet"
    asked = ["--attribute", "wide=1", "--attribute", "bright=0"]
    assert run("generate", attributed, "-n", 5, "--out", out, *asked).code == 0
    table = read_parquet(out, ["id", "wide", "bright", "seed"])
    assert table["wide"] == ["1"] * 5
    model = ldebm.load(attributed)
    expected = model.generate(5, seed=0, attributes={"wide": 1, "bright": 0})
    assert (read_pictures(out, model.meta).pixels == expected).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --to FILE.png or FILE.parquet"),
        (["--out", "x.jpg"], "x.jpg"),
        (["--out", "x.png", "--attribute", "Hat=1"], "attribute 'Hat'"),
        (["--out", "x.png", "--attribute", "wide=7"], "attribute wide=7: expected 0 or 1"),
        (["--out", "x.png", "--attribute", "wide"], "expected NAME=VALUE"),
        (["--out", "x.png", "--attribute", "wide=1", "--attribute", "wide=0"], "given twice"),
        (["--out", "x.png", "--attribute", "wide=1", "--label", "1"], "not both"),
        (["--out", "x.png", "--label", "9"], "a class from 0 to 3"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(run, attributed: Path, arguments, said: str):
    done = run("generate", attributed, *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_model_without_labels_refuses_one(run, plain: Path, tmp_path: Path):
    done = run("generate", plain, "--label", "1", "--out", tmp_path / "x.png")
    assert (done.code, "no labels" in done.err) == (2, True)
    done = run("generate", plain, "--attribute", "wide=1", "--out", tmp_path / "x.png")
    assert (done.code, "expected one of the model's (none)" in done.err) == (2, True)


def test_a_class_is_drawn_by_its_name(labelled: Path):
    model = ldebm.load(labelled)
    assert model.label_index("one") == 1
    assert model.class_labels() == ["nought", "one", "two"]
    by_name = model.generate(3, label="one", seed=4)
    assert by_name.shape == (3, 1, 8, 8)
    assert (by_name == model.generate(3, label=1, seed=4)).all()
    other = model.sample_latents(3, "two", 4)
    assert (model.sample_latents(3, "one", 4) != other).any()


def test_combinations_of_attributes_are_classes_with_names(attributed: Path):
    names = ldebm.load(attributed).class_labels()
    assert names[1] == "bright=0, wide=1"
    assert names[2] == "bright=1, wide=0"


def test_scores_of_an_image_do_not_depend_on_the_other_rows(plain: Path):
    model = ldebm.load(plain)
    images = pictures(6)
    together, alone = model.score(images), model.score(images[4:5])
    np.testing.assert_allclose(together.bound[4:5], alone.bound, rtol=1e-5)
    np.testing.assert_allclose(together.energies[4:5], alone.energies, atol=1e-5)
    assert together.energies.shape == (6, 3)
    np.testing.assert_allclose(together.energy, together.energies.sum(1))
    np.testing.assert_allclose(together.bits * 64 * np.log(2), -together.bound)


def test_scores_are_written_as_a_table_or_shown(run, plain: Path, tmp_path: Path):
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    for index, image in enumerate(pictures(3)):
        place = folder / ("more" if index == 2 else "") / f"{index}.png"
        place.write_bytes(picture(image.transpose(1, 2, 0)))
    shown = run("score", plain, "--file", folder)
    lines = shown.out.splitlines()
    header = ["bound", "bits", "energy", "energy_0", "energy_1", "energy_2", "image"]
    assert lines[0].split("\t") == header
    assert [line.split("\t")[-1] for line in lines[1:]] == ["0.png", "1.png", "more/2.png"]
    out = tmp_path / "scores.parquet"
    assert run("score", plain, "--file", folder, "--out", out).code == 0
    table = read_parquet(out)
    assert table["image"] == ["0.png", "1.png", "more/2.png"]
    rows = json.loads(run("score", plain, "--file", folder, "--json").out)
    np.testing.assert_allclose([row["energy"] for row in rows], table["energy"])
    refused = run("score", plain, "--file", folder, "--fast")
    assert refused.code == 2
    assert "--fast: for models of texts" in refused.err


def test_images_are_classified_from_a_zip(run, labelled: Path, tmp_path: Path):
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in enumerate(pictures(2)):
            archive.writestr(f"{index}.png", picture(image.transpose(1, 2, 0)))
    rows = json.loads(run("classify", labelled, "--file", path, "--json").out)
    assert [row["image"] for row in rows] == ["0.png", "1.png"]
    assert {row["label"] for row in rows} <= {"nought", "one", "two"}
    assert all(1 / 3 <= row["probability"] <= 1 for row in rows)


def png(size: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (size, size)).save(stream, format="png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\nnot an image", "corrupt image"),
        (png(8)[:48], "corrupt image"),
        (png(12), "12 x 12 pixels, the model has 8 x 8; give --resize"),
    ],
    ids=["no image", "cut off", "too large"],
)
def test_images_that_do_not_fit_are_named(run, plain: Path, tmp_path: Path, content, said):
    (tmp_path / "good.png").write_bytes(png(8))
    (tmp_path / "other.png").write_bytes(content)
    done = run("score", plain, "--file", tmp_path)
    assert done.code == 2
    assert "other.png" in done.err
    assert said in done.err
    assert done.err.count("\n") == 1


def test_grey_images_are_refused_where_colour_is_known(tmp_path: Path):
    path = tmp_path / "grey.png"
    path.write_bytes(png(8))
    with pytest.raises(UsageError, match="greyscale where colour is wanted"):
        read_pictures(path, {"channels": 3, "size": 8})
    path.write_bytes(png(8, "RGB"))
    assert read_pictures(path, {"channels": 3, "size": 8}).pixels.shape == (1, 3, 8, 8)


def test_images_of_another_size_are_scaled_where_that_is_asked_for(tmp_path: Path):
    path = tmp_path / "wide.png"
    Image.new("L", (40, 20), 90).save(path)
    pictures = read_pictures(path, {"channels": 1, "size": 8}, resize=True)
    assert pictures.pixels.shape == (1, 1, 8, 8)
    assert (pictures.pixels == 90).all()


def test_nothing_to_read_is_said(tmp_path: Path):
    meta = {"channels": 1, "size": 8}
    with pytest.raises(UsageError, match="no such file or folder"):
        read_pictures(tmp_path / "none", meta)
    with pytest.raises(UsageError, match="no image in it"):
        read_pictures(tmp_path, meta)
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UsageError, match="expected a folder, or a file of"):
        read_pictures(tmp_path / "notes.txt", meta)


def test_scores_and_texts_are_of_different_models(run, plain: Path):
    done = run("interpolate", plain, "a", "b")
    assert (done.code, "a model of images" in done.err) == (2, True)
    done = run("classify", plain, "some words")
    assert (done.code, "give the images by --from" in done.err) == (2, True)


def test_encoding_in_parts_is_encoding_at_once(monkeypatch: pytest.MonkeyPatch, plain: Path):
    model: Model = ldebm.load(plain)
    images = pictures(7)
    whole = model.encode(images)
    monkeypatch.setattr("ldebm.modalities.images.ImageModel.at_once", 3)
    np.testing.assert_allclose(model.encode(images), whole, atol=1e-5)
    assert model.reconstruct(images).shape == images.shape


def test_a_picture_holds_every_image_where_it_belongs():
    images = pictures(5)
    sheet = as_array(picture(tile(images, columns=2)), None)
    assert sheet.shape == (3 * 24 + 2, 2 * 24 + 1, 1)
    third = sheet[25:49, :24, 0]
    assert (third[::3, ::3] == images[2, 0]).all()
    assert (sheet[50:, 25:] == 128).all()
    assert cells(32) == 64
