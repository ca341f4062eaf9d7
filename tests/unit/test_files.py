"""Writers leave the whole new file or the old one, with the same bytes for the same content."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch

from ldebm.errors import UsageError
from ldebm.files import (
    atomic_path,
    hash_json,
    hash_path,
    read_json,
    read_model,
    read_parquet,
    write_array,
    write_csv,
    write_json,
    write_model,
    write_parquet,
    write_text,
)


def fail_half_way(target: Path) -> None:
    with atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError):
        fail_half_way(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_replaces_a_read_only_link_without_touching_its_other_name(tmp_path: Path):
    cached = tmp_path / "cached"
    cached.write_text("{}")
    cached.chmod(0o444)
    target = tmp_path / "target.json"
    target.hardlink_to(cached)
    write_json(target, {"a": 1})
    assert cached.read_text() == "{}"
    assert read_json(target) == {"a": 1}


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path, umask):
    old = tmp_path / "old.json"
    old.write_text("{}")
    old.chmod(0o640)
    before = os.umask(umask)
    try:
        for name in ("new.json", "old.json"):
            write_json(tmp_path / name, {"a": 1})
        write_model(tmp_path / "model", {"a": torch.ones(1)}, {})
    finally:
        os.umask(before)
    for name in ("new.json", "model"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "params.yaml").symlink_to("real/params.yaml")
    for text in ("new\n", "newer\n"):  # at first it leads nowhere
        write_text(tmp_path / "params.yaml", text)
        assert (tmp_path / "params.yaml").is_symlink()
        assert (tmp_path / "real/params.yaml").read_text() == text
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["params.yaml"]


def test_a_link_into_the_cache_is_replaced_itself(tmp_path: Path):
    cached = tmp_path / "cached"
    cached.write_text("{}")
    cached.chmod(0o444)
    (tmp_path / "metrics.json").symlink_to(cached)
    write_json(tmp_path / "metrics.json", {"a": 1})
    assert cached.read_text() == "{}"
    assert not (tmp_path / "metrics.json").is_symlink()
    assert os.access(tmp_path / "metrics.json", os.W_OK)


def test_json_has_the_same_bytes_in_any_key_order_and_null_for_what_is_not_finite(tmp_path: Path):
    write_json(tmp_path / "a", {"x": float("nan"), "y": np.float32(0.5), "z": (1, 2)})
    write_json(tmp_path / "b", {"z": [1, 2], "y": 0.5, "x": float("inf")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": None, "y": 0.5, "z": [1, 2]}


def test_models_have_the_same_bytes_in_any_order_and_under_any_name(tmp_path: Path):
    one = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    write_model(tmp_path / "one", one, {"x": 1, "y": 2})
    write_model(tmp_path / "two", dict(reversed(one.items())), {"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    tensors, header = read_model(tmp_path / "one")
    assert header == {"x": 1, "y": 2}
    assert torch.equal(tensors["b"], one["b"])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"x" * 50, lambda b: b""])
def test_a_damaged_model_is_one_line_that_says_what_to_do(tmp_path: Path, damage):
    path = tmp_path / "model.safetensors"
    write_model(path, {"a": torch.ones(100)}, {"x": 1})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match="build it again") as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_model_of_another_program_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, str(tmp_path / "other"))
    with pytest.raises(UsageError, match="not a readable ldebm model"):
        read_model(tmp_path / "other")


def test_parquet_keeps_numbers_vectors_and_text(tmp_path: Path):
    columns = {
        "id": np.arange(3),
        "x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "text": ["a", "é", ""],
    }
    write_parquet(tmp_path / "t.parquet", columns)
    table = read_parquet(tmp_path / "t.parquet")
    assert np.array_equal(table["id"], columns["id"])
    assert np.array_equal(table["x"], columns["x"])
    assert table["x"].dtype == np.float32
    assert table["text"] == columns["text"]


def test_parquet_has_the_same_bytes_twice(tmp_path: Path):
    for name in "ab":
        write_parquet(tmp_path / name, {"id": np.arange(1000), "text": ["word"] * 1000})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_truncated_parquet_file_is_one_line(tmp_path: Path):
    path = tmp_path / "t.parquet"
    write_parquet(path, {"id": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="cannot be read as parquet"):
        read_parquet(path)


@pytest.mark.parametrize("reader", [read_json, read_model, read_parquet])
def test_a_missing_file_says_how_to_build_it(tmp_path: Path, reader):
    with pytest.raises(UsageError, match="build it first"):
        reader(tmp_path / "absent")


def test_broken_json_names_the_file(tmp_path: Path):
    path = tmp_path / "broken.json"
    path.write_text('{"a": ')
    with pytest.raises(UsageError, match=r"broken\.json: not valid JSON"):
        read_json(path)


def test_arrays_can_be_mapped_into_memory(tmp_path: Path):
    write_array(tmp_path / "a.npy", np.arange(12).reshape(3, 4)[:, ::2])
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped[2, 1] == 10


def test_tables_end_their_lines_the_same_way_everywhere(tmp_path: Path):
    write_csv(tmp_path / "c.csv", ["x", "y"], [[1, 2.5], [2, "a,b"]])
    assert (tmp_path / "c.csv").read_bytes() == b'x,y\n1,2.5\n2,"a,b"\n'


def test_a_folder_hash_sees_names_and_contents(tmp_path: Path):
    for name in ("one", "two", "renamed", "edited"):
        (tmp_path / name / "sub").mkdir(parents=True)
        file = "b" if name == "renamed" else "a"
        (tmp_path / name / "sub" / file).write_text("y" if name == "edited" else "x")
    hashes = {name: hash_path(tmp_path / name) for name in ("one", "two", "renamed", "edited")}
    assert hashes["one"] == hashes["two"]
    assert len(set(hashes.values())) == 3


def test_the_hash_of_json_is_that_of_its_value():
    assert hash_json({"a": 1.0, "b": (1,)}) == hash_json({"b": [1], "a": np.float64(1.0)})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_parquet_columns_are_those_of_pyarrow_but_pandas_is_not_imported(tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    columns = {"text": ["a", "ü", "", "zz"], "n": [1, 2, 3, -4], "f": [0.5, 1.0, math.nan, 2.0]}
    columns |= {"x": x[:, ::-1], "i": np.arange(4)[::-1], "j": np.arange(4, dtype=np.int16)}
    mixed = {"none": ["a", None, "b", "c"], "flag": np.array([True, False, True, True])}
    write_parquet(tmp_path / "a.parquet", columns | mixed)
    with patch("ldebm.files._arrow", pa.array):
        write_parquet(tmp_path / "b.parquet", columns | mixed)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    script = (
        "import sys, numpy as np; from ldebm.files import read_parquet, write_parquet;"
        "write_parquet('c.parquet', {'text': ['a'], 'n': [1], 'x': np.zeros((1, 2))});"
        "read_parquet('c.parquet'); sys.exit('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == 0
