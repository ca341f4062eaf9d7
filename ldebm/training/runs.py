"""What both training stages share: their length, their key, their curves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldebm.config import TrainingConfig
from ldebm.files import hash_json, hash_path, write_csv
from ldebm.sources import files_of
from ldebm.training.trainer import TrainResult

__all__ = ["CHECKPOINTS", "run_key", "with_length", "write_curves"]

CHECKPOINTS = Path(".ckpt")


def with_length(config: TrainingConfig, epochs: float | None) -> TrainingConfig:
    """The training section with ``run.epochs`` in place of its own epochs, when that is given."""
    if epochs is None or config.updates is not None:
        return config
    return config.model_copy(update={"epochs": epochs, "updates": None})


def run_key(*parts: Any, code: Iterable[str]) -> str:
    """What identifies a training: parameters, inputs, and the code that it runs.

    Args:
        parts: parameters and hashes of inputs.
        code: names of the modules that the training begins with; all that they import counts.
    """
    root = Path(__file__).parents[2]
    files: dict[str, Path] = {}
    for name in {"ldebm.training.trainer", *code}:
        files |= files_of(name, root)
    return hash_json([*parts, {path: hash_path(files[path]) for path in sorted(files)}])[:32]


def write_curves(out: Path, result: TrainResult | None) -> None:
    """``curve.csv`` (training terms) and ``validation.csv``; only headers without training."""
    for name, rows in (
        ("curve.csv", result.curve if result else []),
        ("validation.csv", result.validation if result else []),
    ):
        columns = list(rows[0]) if rows else ["update", "epoch", "loss"]
        columns += sorted({column for row in rows for column in row} - set(columns))
        write_csv(out / name, columns, [[row.get(key, "") for key in columns] for row in rows])
