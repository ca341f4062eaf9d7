"""Training the judge of a text data set, with the one trainer.

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.config import OptimiserConfig, TrainingConfig
from ldebm.data.batches import batch_rows, collate, steps_per_epoch
from ldebm.data.packed import JUDGE, Packed, Split
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.evaluate.text_judge import TextJudge, labels_of
from ldebm.files import hash_path, write_json, write_model
from ldebm.objectives import Terms
from ldebm.runs import CHECKPOINTS, run_key
from ldebm.seeding import configure, derive_seed, generator
from ldebm.text_config import TextJudgeConfig
from ldebm.trainer import Group, train

__all__ = ["TextJudgeTask", "build_text_judge"]


class TextJudgeTask:
    """Cross-entropy of every label column."""

    def __init__(
        self, judge: TextJudge, train: Split, valid: Split, config: TextJudgeConfig,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.module: nn.Module = judge
        self.judge, self.train_split, self.valid_split = judge, train, valid
        self.config, self.device = config, device
        self.steps_per_epoch = steps_per_epoch(train.n, config.batch)

    def groups(self) -> list[Group]:
        optimiser = OptimiserConfig(lr=self.config.lr, schedule="one_cycle", final=0.0, clip=1.0)
        return [Group("judge", list(self.judge.parameters()), optimiser)]

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def loss(self, step: int) -> Terms:
        """The mean over columns of the cross-entropy of the rows that have the label."""
        rows = batch_rows(self.train_split.n, self.config.batch, self.config.seed, step)
        self.judge.stream = generator(self.config.seed, "text-judge", step, device=self.device)
        losses = []
        for name, logits_BK in self.judge(collate(self.train_split, rows, self.device)).items():
            label = np.array(self.train_split.labels(name)[rows], dtype=np.int64)
            label_B = torch.from_numpy(label).to(self.device)
            total = functional.cross_entropy(logits_BK, label_B, ignore_index=-1, reduction="sum")
            losses.append(total / (label_B >= 0).sum().clamp_min(1))
        loss = torch.stack(losses).mean()
        return Terms(loss, {"cross_entropy": loss.detach()})

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    def validate(self, step: int) -> dict[str, float]:
        columns = accuracies(self.judge, self.valid_split)
        accuracy = float(np.mean(list(columns.values())))
        return {"accuracy": accuracy, "score": 1 - accuracy}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""


def accuracies(judge: TextJudge, split: Split) -> dict[str, float]:
    """Share of right answers by column, over the rows of a split that have the label."""
    rows = [split.row(i).tolist() for i in range(split.n)]
    found = {}
    for column in judge.classes:
        label = np.asarray(split.labels(column))
        known = label >= 0
        if known.any():
            guess = np.array(labels_of(judge, rows, column))
            found[column] = float((guess == label)[known].mean())
    return found


def build_text_judge(config: TextJudgeConfig, packed: Packed, out: Path) -> dict[str, Any]:
    """Trains the judge and writes ``out/{judge.safetensors, metrics.json}``.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UsageError: the data set has no labels.
    """
    if not packed.meta["labels"]:
        raise UsageError(f"{packed.path}: no labels, so that no classifier can be trained")
    device = choose_device(config.device)
    configure(config.threads)
    torch.manual_seed(derive_seed(config.seed, "text-judge-init"))
    judge = TextJudge(config, packed.meta).to(device)
    task = TextJudgeTask(judge, packed.split("train"), packed.split("valid"), config, device)
    dumped = config.model_dump(mode="json")
    key = run_key("text-judge", dumped, hash_path(packed.path), device.type)
    checkpoint = CHECKPOINTS / f"judge-{key}.pt"
    training = TrainingConfig(
        epochs=config.epochs, batch=config.batch, threads=config.threads, validate_every=1
    )
    result = train(task, training, checkpoint, title="judge")
    judge.load_state_dict(result.state)
    columns = accuracies(judge, packed.split("test"))
    metrics: dict[str, Any] = {
        "kind": packed.kind,
        "judge": {
            "columns": {name: {"accuracy": value} for name, value in columns.items()},
            "accuracy": float(np.mean(list(columns.values()))),
            "updates": result.updates,
        },
    }
    write_json(out / "metrics.json", metrics)
    tokens = torch.tensor(list(packed.tokenizer.to_bytes()), dtype=torch.uint8)
    header = {"config": dumped, "meta": packed.meta, "columns": columns}
    write_model(out / JUDGE, {**result.state, "tokenizer": tokens}, header)
    checkpoint.unlink(missing_ok=True)
    return metrics
