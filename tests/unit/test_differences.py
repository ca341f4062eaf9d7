"""The first difference of two files is named in the terms of their format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ldebm.files import write_array, write_csv, write_json, write_model, write_parquet
from pipelines.lineage.differences import Difference, first_difference


def pair(tmp_path: Path, name: str) -> tuple[Path, Path]:
    return tmp_path / "old" / name, tmp_path / "new" / name


def differs(pair_of_paths: tuple[Path, Path]) -> Difference:
    difference = first_difference(*pair_of_paths)
    assert difference is not None
    return difference


def test_equal_bytes_have_no_difference(tmp_path: Path):
    files = pair(tmp_path, "a.json")
    for path in files:
        write_json(path, {"a": 1})
    assert first_difference(*files) is None
    assert first_difference(tmp_path / "old", tmp_path / "new") is None


def test_of_a_model_the_tensor_the_index_both_values_and_the_largest_gap(tmp_path: Path):
    files = pair(tmp_path, "model.safetensors")
    weights = {"a": torch.zeros(3), "b.weight": torch.arange(6.0).reshape(2, 3)}
    write_model(files[0], weights, {})
    changed = weights["b.weight"].clone()
    changed[0, 2] += 0.5
    changed[1, 1] -= 2
    write_model(files[1], weights | {"b.weight": changed}, {})
    difference = differs(files)
    assert (difference.where, difference.expected, difference.actual) == (
        "tensor b.weight[0][2]",
        "2.0",
        "2.5",
    )
    assert difference.more == "2 of 6 values differ, by 2 at most"


def test_the_last_bit_of_a_bfloat16_counts(tmp_path: Path):
    files = pair(tmp_path, "model.safetensors")
    for path, value in zip(files, (1.0, 1.0078125), strict=True):
        write_model(path, {"x": torch.tensor([0.5, value], dtype=torch.bfloat16)}, {})
    difference = differs(files)
    assert (difference.where, difference.actual) == ("tensor x[1]", "1.0078125")


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, "tensor b"),
        ({"a": torch.zeros(3)}, "tensor a, shape"),
        ({"a": torch.zeros(2, dtype=torch.float64)}, "tensor a, dtype"),
        ({"a": torch.tensor(-0.0).expand(2)}, "tensor a[0]"),
    ],
)
def test_of_models_missing_tensors_shapes_types_and_signs_of_zero(tmp_path: Path, other, where):
    files = pair(tmp_path, "model.safetensors")
    write_model(files[0], {"a": torch.zeros(2)}, {})
    write_model(files[1], other, {})
    assert differs(files).where == where


def test_the_same_nan_is_no_difference_but_the_header_is(tmp_path: Path):
    files = pair(tmp_path, "model.safetensors")
    for path, seed in zip(files, (0, 1), strict=True):
        write_model(path, {"a": torch.tensor([float("nan")])}, {"seed": seed})
    difference = differs(files)
    assert difference.where == "header ldebm.seed"
    assert (difference.expected, difference.actual) == ("0", "1")


def test_of_a_table_the_column_and_row(tmp_path: Path):
    files = pair(tmp_path, "latents.parquet")
    rows = {"id": np.arange(3), "mu": np.zeros((3, 2), dtype=np.float32)}
    write_parquet(files[0], rows)
    rows["mu"][1, 1] = 0.25
    write_parquet(files[1], rows)
    difference = differs(files)
    assert (difference.where, difference.expected, difference.actual) == (
        "column mu, row 1",
        "[0.0, 0.0]",
        "[0.0, 0.25]",
    )
    assert difference.more == "1 of 3 rows differ in this column"


def test_of_tables_columns_and_row_counts(tmp_path: Path):
    files = pair(tmp_path, "latents.parquet")
    write_parquet(files[0], {"id": np.arange(3)})
    write_parquet(files[1], {"name": np.arange(3)})
    assert "id" in differs(files).expected
    write_parquet(files[1], {"id": np.arange(4)})
    assert (differs(files).where, differs(files).actual) == ("rows", "4")


@pytest.mark.parametrize(
    ("other", "where", "expected", "actual"),
    [
        ({"nll": {"test": 1.5}, "n": [1, 2]}, "key nll.test", "1.25", "1.5"),
        ({"nll": {"test": 1.25}, "n": [1, 3]}, "key n[1]", "2", "3"),
        ({"nll": {"test": 1.25}}, "key n", "[1, 2]", "missing"),
        ({"nll": {"test": "1.25"}, "n": [1, 2]}, "key nll.test", "1.25", '"1.25"'),
    ],
)
def test_of_json_the_key(tmp_path: Path, other, where, expected, actual):
    files = pair(tmp_path, "metrics.json")
    write_json(files[0], {"nll": {"test": 1.25}, "n": [1, 2]})
    write_json(files[1], other)
    difference = differs(files)
    assert (difference.where, difference.expected, difference.actual) == (where, expected, actual)


def test_json_of_the_same_content_but_other_bytes_falls_back_to_the_byte(tmp_path: Path):
    files = pair(tmp_path, "metrics.json")
    write_json(files[0], {"a": 1})
    files[1].parent.mkdir()
    files[1].write_text(json.dumps({"a": 1}))
    assert differs(files).where == "byte 1"


def test_of_a_csv_the_cell(tmp_path: Path):
    files = pair(tmp_path, "curve.csv")
    write_csv(files[0], ["update", "loss"], [[1, 0.5], [2, 0.25]])
    write_csv(files[1], ["update", "loss"], [[1, 0.5], [2, 0.2]])
    difference = differs(files)
    assert (difference.where, difference.expected, difference.actual) == (
        "row 2, column loss",
        '"0.25"',
        '"0.2"',
    )
    write_csv(files[1], ["update", "loss"], [[1, 0.5]])
    assert differs(files).actual == "missing"


def test_of_an_array_the_index(tmp_path: Path):
    files = pair(tmp_path, "x.npy")
    write_array(files[0], np.zeros((2, 2), dtype=np.int16))
    write_array(files[1], np.array([[0, 0], [7, 0]], dtype=np.int16))
    assert (differs(files).where, differs(files).actual) == ("array[1][0]", "7")


def test_of_long_lines_what_surrounds_the_difference(tmp_path: Path):
    files = pair(tmp_path, "index.html")
    for path, word in zip(files, ("one", "two"), strict=True):
        path.parent.mkdir()
        path.write_text("first\n" + "x" * 500 + word + "y" * 500)
    difference = differs(files)
    assert difference.where == "line 2"
    assert "one" in difference.expected
    assert "two" in difference.actual
    assert len(difference.actual) < 100


def test_of_other_files_the_byte_and_of_damaged_ones_too(tmp_path: Path):
    for name in ("figure.png", "model.safetensors", "latents.parquet"):
        files = pair(tmp_path, name)
        for path, content in zip(files, (b"\xff\x00\x01", b"\xff\x00\x02\x03"), strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        difference = differs(files)
        assert (difference.where, difference.expected, difference.actual) == (
            "byte 2",
            "0x01",
            "0x02",
        )
        assert difference.more == "sizes 3 bytes and 4 bytes"


def test_of_folders_the_first_file_and_what_is_missing(tmp_path: Path):
    for folder in ("old", "new"):
        write_json(tmp_path / folder / "b/metrics.json", {"a": folder})
    difference = differs((tmp_path / "old", tmp_path / "new"))
    assert (difference.file, difference.where) == ("b/metrics.json", "key a")
    write_json(tmp_path / "new/a.json", {})
    difference = differs((tmp_path / "old", tmp_path / "new"))
    assert (difference.file, difference.expected, difference.actual) == (
        "a.json",
        "missing",
        "present",
    )
    assert str(difference) == "a.json: file: missing -> present"


def test_a_folder_in_place_of_a_file(tmp_path: Path):
    write_json(tmp_path / "old", {})
    (tmp_path / "new").mkdir()
    assert differs((tmp_path / "old", tmp_path / "new")).actual == "a folder"
