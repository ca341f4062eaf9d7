"""A project's folder in which data are added by ``ldebm new``, fetched, prepared and packed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldebm.config import DataConfig, ExperimentConfig
from ldebm.data.fetch import fetch
from ldebm.data.packed import Packed, open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.data.registry import SOURCES
from ldebm.errors import UsageError
from ldebm.files import read_parquet
from pipelines.library import Library
from pipelines.new.dataset import add_dataset

__all__ = ["World", "encoded", "noise", "sizes", "table"]


class World:
    """The folder, and what ``ldebm new`` has said in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw = folder, folder / "raw"
        self.said: list[str] = []

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def config(self, name: str, content: str | bytes, **config: Any) -> DataConfig:
        """The section of a file of the user, as one may write it."""
        path = str(self.write(name, content))
        return DataConfig(**{"kind": "sentences", "source": "file", "path": path, **config})

    def add(self, source: Path, *labels: str, **options: Any) -> DataConfig:
        """The section that ``ldebm new`` writes for a file or folder."""
        add_dataset("mine", source, labels=labels, root=self.folder, say=self.said.append,
                    **options)  # fmt: skip
        config = Library(self.folder).dataset("mine")
        return config.model_copy(update={"path": str(source)})

    def experiment(self, name: str = "mine-ldebm") -> ExperimentConfig:
        return Library(self.folder).experiment(name)

    def prepared(self, config: DataConfig) -> dict[str, Any]:
        """The profile; published files are expected in ``raw``."""
        if config.path or (config.source in SOURCES and SOURCES[config.source].generator):
            fetch(None, config, self.raw)
        return prepare(config, self.raw, self.folder / "prepared")

    def packed(self, config: DataConfig) -> Packed:
        """What packing makes of the prepared data."""
        pack(config, self.folder / "prepared", self.folder / "packed")
        return open_packed(self.folder / "packed")

    def built(self, config: DataConfig) -> Packed:
        self.prepared(config)
        return self.packed(config)

    def rows(self, split: str = "train") -> dict[str, Any]:
        return read_parquet(self.folder / "prepared" / f"{split}.parquet")

    def refuses(self, message: str, config: DataConfig) -> None:
        """Asserts that preparing stops with one line and writes nothing."""
        with pytest.raises(UsageError, match=message) as error:
            self.prepared(config)
        assert "\n" not in str(error.value)
        assert not (self.folder / "prepared").exists()

    def new_refuses(self, message: str, source: Path, *labels: str, **options: Any) -> None:
        """Asserts that ``ldebm new`` stops with one line and writes nothing."""
        with pytest.raises(UsageError, match=message) as error:
            self.add(source, *labels, **options)
        assert "\n" not in str(error.value)
        assert not list(self.folder.rglob("*.yaml"))

    def says(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.said)


def sizes(profile: dict[str, Any]) -> list[int]:
    """Rows of training, validation and test."""
    return [facts["rows"] for facts in profile["splits"].values()]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(
    pixels: np.ndarray, form: str = "PNG", mode: str | None = None, **options: Any
) -> bytes:
    """Pixels as a file."""
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, form, **options)
    return stream.getvalue()


def table(names: Sequence[str], rows: Sequence[str]) -> str:
    """Lines of CSV."""
    return "\n".join([",".join(names), *rows]) + "\n"
