"""What both training stages share: their length, their key, their curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldebm.config import TrainingConfig
from ldebm.files import hash_json, write_csv
from ldebm.lineage.records import code_hashes
from ldebm.training.trainer import TrainResult

__all__ = ["CHECKPOINTS", "run_key", "with_length", "write_curves"]

CHECKPOINTS = Path(".ckpt")
APART = {
    "ldebm/config/alike.py",
    "ldebm/training/together.py",
    "ldebm/training/stacked_runs.py",
    "ldebm/nn/stacked_energy.py",
    "ldebm/priors/stacked.py",
}
"""Code that only trains several runs at once: each has the numbers that it has alone."""


def with_length(config: TrainingConfig, epochs: float | None) -> TrainingConfig:
    """The training section with ``run.epochs`` in place of its own epochs, when that is given."""
    if epochs is None or config.updates is not None:
        return config
    return config.model_copy(update={"epochs": epochs, "updates": None})


def run_key(*parts: Any) -> str:
    """What identifies a training: parameters, inputs, and the code that this process imported."""
    root = Path(__file__).parents[2]
    code = {name: value for name, value in code_hashes(root).items() if name not in APART}
    return hash_json([*parts, code])[:32]


def write_curves(out: Path, result: TrainResult | None) -> None:
    """``curve.csv`` (training terms) and ``validation.csv``; only headers without training."""
    for name, rows in (
        ("curve.csv", result.curve if result else []),
        ("validation.csv", result.validation if result else []),
    ):
        columns = list(rows[0]) if rows else ["update", "epoch", "loss"]
        columns += sorted({column for row in rows for column in row} - set(columns))
        write_csv(out / name, columns, [[row.get(key, "") for key in columns] for row in rows])
