"""Training the judge of a text data set, with the one trainer.

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import TextJudgeConfig, TrainingConfig
from ldebm.data.batches import collate
from ldebm.data.packed import JUDGE, Packed, Split
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.evaluate.label_task import LabelTask
from ldebm.evaluate.text_judge import TextJudge, labels_of
from ldebm.files import hash_path, write_json, write_model
from ldebm.seeding import configure, derive_seed, generator
from ldebm.training.runs import CHECKPOINTS, run_key
from ldebm.training.trainer import train

__all__ = ["TextJudgeTask", "build_text_judge"]


class TextJudgeTask(LabelTask):
    """Cross-entropy of every label column."""

    def __init__(
        self, judge: TextJudge, train: Split, valid: Split, config: TextJudgeConfig,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(judge, train, list(judge.classes), config)
        self.judge, self.valid_split, self.device = judge, valid, device

    def logits(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        self.judge.stream = generator(self.seed, "text-judge", step, device=self.device)
        found: dict[str, Tensor] = self.judge(collate(self.train_split, rows, self.device))
        return found

    def validate(self, step: int) -> dict[str, float]:
        columns = accuracies(self.judge, self.valid_split)
        accuracy = float(np.mean(list(columns.values())))
        return {"accuracy": accuracy, "score": 1 - accuracy}


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
    key = run_key("text-judge", dumped, hash_path(packed.path), device.type, code=[__name__])
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
