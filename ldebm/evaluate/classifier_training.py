"""Training an evaluation classifier, with the one trainer.

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.config import (
    ImageClassifierConfig,
    OptimiserConfig,
    TextClassifierConfig,
    TrainingConfig,
)
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.data.packed import JUDGE, Packed, Split
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.evaluate.classifier import EvaluationClassifier
from ldebm.files import hash_path, write_json, write_model
from ldebm.optimisers import ParameterGroup
from ldebm.seeding import configure, derive_seed
from ldebm.training.objectives import Terms
from ldebm.training.runs import CHECKPOINTS, run_key
from ldebm.training.trainer import train

__all__ = ["LabelTask", "accuracies", "build_classifier"]


class LabelTask:
    """Cross-entropy of every label column: a task of the trainer.

    Args:
        network: to be trained.
        train: its rows.
        valid: validation rows.
    """

    def __init__(self, network: EvaluationClassifier, train: Split, valid: Split) -> None:
        config = network.config
        self.module: nn.Module = network
        self.network, self.train_split, self.valid_split = network, train, valid
        self.lr, self.batch, self.seed = config.lr, config.batch, config.seed
        self.steps_per_epoch = steps_per_epoch(train.n, config.batch)
        self.labels = {name: _labels(train, name) for name in network.columns}

    def groups(self) -> list[ParameterGroup]:
        optimiser = OptimiserConfig(lr=self.lr, schedule="one_cycle", final=0.0, clip=1.0)
        return [ParameterGroup("classifier", list(self.module.parameters()), optimiser)]

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""
        return

    def loss(self, step: int) -> Terms:
        """The mean over columns of the cross-entropy of the rows that have the label."""
        rows = batch_rows(self.train_split.n, self.batch, self.seed, step)
        losses = []
        for name, logits_BK in self.network.training_logits(self.train_split, rows, step).items():
            label_B = torch.from_numpy(self.labels[name][rows]).to(logits_BK.device)
            total = functional.cross_entropy(
                logits_BK,
                label_B,
                ignore_index=-1,
                reduction="sum",
                label_smoothing=self.network.smoothing,
            )
            losses.append(total / (label_B >= 0).sum().clamp_min(1))
        loss = torch.stack(losses).mean()
        return Terms(loss, {"cross_entropy": loss.detach()})

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""
        return

    def validate(self, step: int) -> dict[str, float]:
        accuracy = _mean(accuracies(self.network, self.valid_split))
        return {"accuracy": accuracy, "score": 1 - accuracy}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""
        return


def _labels(split: Split, column: str) -> np.ndarray:
    """Classes of a column, int64 (n), -1 for none."""
    return np.asarray(split.labels(column), dtype=np.int64)


def accuracies(network: EvaluationClassifier, split: Split) -> dict[str, dict[str, float]]:
    """How well a classifier knows the labels of a split.

    Returns:
        By column that has a label there: ``accuracy``; ``balanced_accuracy``, the mean over the
        classes that occur; and ``majority``, the accuracy of always naming the most frequent class.
    """
    network.eval()
    columns = {}
    for column, guess_B in network.predict(split).items():
        label_B = _labels(split, column)
        known_B = label_B >= 0
        label_B, right_B = label_B[known_B], (guess_B == label_B)[known_B]
        if not label_B.size:
            continue
        shares = [right_B[label_B == k].mean() for k in np.unique(label_B)]
        columns[column] = {
            "accuracy": float(right_B.mean()),
            "balanced_accuracy": float(np.mean(shares)),
            "majority": float(np.bincount(label_B).max() / label_B.size),
        }
    return columns


def _mean(columns: dict[str, dict[str, float]]) -> float:
    return float(np.mean([scores["accuracy"] for scores in columns.values()]))


def build_classifier(
    kind: type[EvaluationClassifier],
    config: ImageClassifierConfig | TextClassifierConfig,
    packed: Packed,
    out: Path,
) -> dict[str, Any]:
    """Trains a classifier and writes ``out/{judge.safetensors, metrics.json}``.

    Args:
        kind: its class.
        config: its parameters.
        packed: the data set.
        out: the folder.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UsageError: the data set has no labels.
    """
    if not packed.meta["labels"]:
        raise UsageError(f"{packed.path}: no labels, so that no classifier can be trained")
    device = choose_device(config.device)
    configure(config.threads)
    torch.manual_seed(derive_seed(config.seed, f"{kind.stream_name}-init"))
    network = kind(config, packed.meta).to(device)
    task = LabelTask(network, packed.split("train"), packed.split("valid"))
    code = [__name__, kind.__module__]
    dumped, data = config.model_dump(mode="json"), hash_path(packed.path)
    key = run_key("classifier", dumped, data, device.type, code=code)
    checkpoint = CHECKPOINTS / f"classifier-{key}.pt"
    training = TrainingConfig(
        epochs=config.epochs,
        batch=config.batch,
        threads=config.threads,
        validate_every=kind.validate_every,
    )
    result = train(task, training, checkpoint, title="classifier")
    network.load_state_dict(result.state)
    columns = accuracies(network, packed.split("test"))
    network.accuracy = {column: scores["accuracy"] for column, scores in columns.items()}
    metrics: dict[str, Any] = {
        "kind": packed.kind,
        "classifier": {
            "columns": columns,
            "accuracy": _mean(columns),
            "features": network.feature_size,
            "updates": result.updates,
        },
    }
    write_json(out / "metrics.json", metrics)
    write_model(out / JUDGE, *network.contents(packed))
    checkpoint.unlink(missing_ok=True)
    return metrics
