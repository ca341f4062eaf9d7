"""The stages of the data take memory for few rows of a file at a time, however many it has."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ldebm.config import DataConfig
from ldebm.data.kinds import open_kind
from ldebm.data.prepare import examine
from ldebm.data.text_files import read_table
from ldebm.files import growing_array, write_array, write_parquet
from tests.unit.data_worlds import World

SMALL, LARGE = 100_000, 300_000  # rows; the smaller fills the buffers of the writers
WIDTH = 600  # characters of a row
STAGES = """
import resource, sys
from pathlib import Path
from ldebm.config import DataConfig
from ldebm.data import tokenizer
from ldebm.data.kinds import sentences
from ldebm.data.limits import measured
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare

tokenizer.SAMPLE = sentences.SAMPLE = 1000  # texts that are in memory on purpose
rows, folder = int(sys.argv[1]), Path(sys.argv[2])
words = [f"{i:0100d}" for i in range(200)]
(folder / "raw").mkdir(parents=True)
with (folder / "raw" / "a.csv").open("w") as file:
    file.write("text,kind\\n")
    for i in range(rows):
        said = " ".join(words[n % 199] for n in (i, i // 199, i // 40000, 3 * i, 5 * i, 7 * i))
        file.write(f"{said},k{i % 3}\\n")
config = DataConfig(kind="sentences", source="file", labels=["kind"], vocab_size=300)
prepare(config, folder / "raw", folder / "prepared")
measured(folder / "prepared", config)
pack(config, folder / "prepared", folder / "packed")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.long
def test_memory_of_the_data_stages_does_not_follow_the_text(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs the units of Linux")
    peaks = []
    for rows in (SMALL, LARGE):
        command = [sys.executable, "-c", STAGES, str(rows), str(tmp_path / str(rows))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    more = (LARGE - SMALL) * WIDTH
    assert peaks[1] - peaks[0] < 2 * more  # four times where all rows are in memory


SAID = ["", "x" * 20_001, " two\twords ", "Caf\u00e9 <unk>", *(f"row {i % 37}" for i in range(60))]
ROWS = [
    {"text": text, "n": ["1.0", "2", "", "3.0"][i % 4], "split": ["", "train", "dev"][i % 3]}
    for i, text in enumerate(SAID)
]


def _written(form: str, world: World) -> Path:
    name = f"mine.{form}"
    if form == "txt":
        return world.write(name, "\n".join(SAID[2:]))
    if form == "jsonl":
        return world.write(name, "\n".join(map(json.dumps, ROWS)))
    columns = {key: [str(row[key]) for row in ROWS] for key in ROWS[0]}
    if form == "csv":
        lines = [";".join(row) for row in zip(*columns.values(), strict=True)]
        return world.write(name, "\n".join([";".join(columns), *lines]))
    write_parquet(world.folder / name, columns)
    return world.folder / name


@pytest.mark.parametrize("form", ["csv", "jsonl", "txt", "parquet"])
def test_a_file_in_parts_is_prepared_as_one_that_is_read_at_once(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldebm.data.csv_tables.PART", 7)
    monkeypatch.setattr("ldebm.data.text_files.PART", 7)
    world = World(tmp_path)
    path = _written(form, world)
    labels = [] if form == "txt" else ["n"]
    config = DataConfig(kind="sentences", source="file", path=str(path), labels=labels)
    kind = open_kind(config)
    whole = examine(kind, kind.from_table(read_table(path), path), path)
    assert world.prepared(config) == whole.profile
    for split, table in whole.tables.items():
        expected = io.BytesIO()
        table.write_parquet(expected, compression="zstd", row_group_size=65536)
        assert (tmp_path / f"prepared/{split}.parquet").read_bytes() == expected.getvalue()
    assert world.rows("rejects")["row"] == whole.rejects["row"].to_list()
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_a_column_that_no_part_has_is_named_with_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldebm.data.text_files.PART", 2)
    world = World(tmp_path)
    lines = [*[{"text": "a", "x": 1}] * 12, {"text": "b", "mood": "c"}]
    said = "\n".join(map(json.dumps, lines))
    world.refuses("no column 'tone' for label", world.config("a.jsonl", said, labels=["tone"]))
    world.refuses("at least two classes", world.config("a.jsonl", said, labels=["mood"]))


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
@pytest.mark.parametrize("rows", [0, 9, 10, 1001])
def test_an_array_that_grows_is_written_as_a_whole_one(
    dtype: str, rows: int, tmp_path: Path
) -> None:
    values = np.arange(rows).astype(dtype)
    write_array(tmp_path / "whole.npy", values)
    with growing_array(tmp_path / "grown.npy", dtype) as append:
        for start in range(0, rows, 100):
            append(values[start : start + 100])
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
