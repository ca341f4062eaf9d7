"""A user's label may have any name, also that of a column of the pipeline."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ldebm.config import DataConfig
from ldebm.data.packed import open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare

ROWS = 40
NAMES = (
    "number", "digest", "reason", "line", "place", "fault", "group", "turn", "dialogue", "context",
    "known", "x", "height", "width", "channels", "bytes", "range", "label.a", "labels",
)  # fmt: skip


def tile(value: int) -> bytes:
    """A picture whose every pixel has the value; a corner has another."""
    pixels = np.full((8, 8), value, dtype=np.uint8)
    pixels[0, 0] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def packed_labels(config: DataConfig, folder: Path) -> dict[str, dict[int, str]]:
    """By label: every row's own number, which its content shows, and the name of its class."""
    prepare(config, folder / "raw", folder / "prepared")
    meta = pack(config, folder / "prepared", folder / "packed")
    found: dict[str, dict[int, str]] = {label: {} for label in config.labels}
    packed = open_packed(folder / "packed")
    for split in map(packed.split, ("train", "valid", "test")):
        for row in range(split.n):
            if config.kind == "images":
                own = int(split.x[row, 0, 4, 4])
            elif config.kind == "points":
                own = int(split.x[row, 0])
            else:
                own = int("".join(packed.tokenizer.decode(split.row(row)).split()))
            for label, rows in found.items():
                rows[own] = meta["labels"][label][split.labels(label)[row]]
    return found


@pytest.mark.parametrize("kind", ["images", "sentences", "points"])
def test_labels_of_any_name_stay_with_their_rows(kind: Any, tmp_path: Path) -> None:
    expected = {
        label: {row: f"{label} {(row + shift) % 3}" for row in range(ROWS)}
        for shift, label in enumerate(NAMES)
    }
    columns: dict[str, Any] = {label: list(rows.values()) for label, rows in expected.items()}
    roles: dict[Any, str] = {}
    if kind == "images":
        columns["image"] = pa.array([tile(row) for row in range(ROWS)], pa.binary())
    elif kind == "points":
        columns |= {"a": [float(row) for row in range(ROWS)], "b": [row / 7 for row in range(ROWS)]}
        roles = {"x": "a,b"}
    else:
        columns["body"] = [" ".join(f"{row:02}") for row in range(ROWS)]
        roles = {"text": "body"}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "raw/mine.parquet")
    config = DataConfig(kind=kind, source="file", columns=roles, labels=list(NAMES))
    assert packed_labels(config, tmp_path) == expected
