"""What an evaluation gives, how it is written, and the pass over a split that all of it shares.

Shapes: N rows, D latent dimension.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.base import Backbone
from ldebm.data.batches import make_batch, row_batches
from ldebm.data.packed import Split
from ldebm.files import write_csv, write_json, write_model, write_text
from ldebm.seeding import numpy_generator

__all__ = ["Report", "context_rows", "encode_rows", "subset"]

AT_ONCE = 512  # rows that are encoded


@dataclass
class Report:
    """Everything that the evaluate stage writes.

    Attributes:
        metrics: flat names and numbers.
        details: what is not a number (signatures, cluster descriptions).
        samples: one record a line of samples.jsonl.
        tables: file name without suffix -> (header, rows).
        panels: arrays that the figures draw.
        weights: file name without suffix -> (tensors, header) of what was trained on the way.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    panels: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = field(default_factory=dict)

    def write(self, metrics: Path, out: Path) -> None:
        """Writes the metrics, and details.json, samples.jsonl and tables to the folder ``out``."""
        write_json(metrics, self.metrics)
        write_json(out / "details.json", self.details)
        lines = [json.dumps(item, sort_keys=True, ensure_ascii=False) for item in self.samples]
        write_text(out / "samples.jsonl", "".join(line + "\n" for line in lines))
        for name, (header, rows) in sorted(self.tables.items()):
            write_csv(out / f"{name}.csv", header, rows)
        for name, (tensors, about) in sorted(self.weights.items()):
            write_model(out / f"{name}.safetensors", tensors, about)


def subset(n: int, limit: int | None, seed: int, name: str) -> np.ndarray:
    """All of n rows, or ``limit`` random ones in rising order."""
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(numpy_generator(seed, name).permutation(n)[:limit])


@torch.no_grad()
def context_rows(
    backbone: Backbone, split: Split, rows: np.ndarray, device: torch.device
) -> Tensor:
    """Contexts of ``rows`` in their order, (N, C)."""
    backbone.eval()
    parts = (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE))
    return torch.cat([backbone.context(make_batch(split, part, device)) for part in parts])


@torch.no_grad()
def encode_rows(
    backbone: Backbone, split: Split, rows: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Posterior means and log-variances of ``rows`` in their order, each (N, D)."""
    backbone.eval()
    order, batches = row_batches(split, rows, AT_ONCE, device)
    rising = np.argsort(rows, kind="stable")
    place = torch.from_numpy(rising[np.searchsorted(rows[rising], order)]).to(device)
    encoded: list[Tensor] = []
    done = 0
    with getattr(backbone, "tables", contextlib.nullcontext)():
        for batch in batches:
            parts = backbone.encode(batch)
            size = len(parts[0])
            encoded = encoded or [part.new_empty(len(rows), *part.shape[1:]) for part in parts[:2]]
            for values, part in zip(encoded, parts, strict=False):
                values[place[done : done + size]] = part
            done += size
    return encoded[0], encoded[1]
