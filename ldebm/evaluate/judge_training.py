"""Training the judge of a data set, with the one trainer.

Shapes: B batch, C channels, H height, W width, K classes of a column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import JudgeConfig, TrainingConfig
from ldebm.data.batches import make_batch
from ldebm.data.packed import JUDGE, Packed, Split
from ldebm.devices import choose_device
from ldebm.evaluate.judge import Judge, judge_images
from ldebm.evaluate.label_task import LabelTask, column_labels
from ldebm.files import hash_path, write_json, write_model
from ldebm.seeding import configure, derive_seed, generator
from ldebm.training.runs import CHECKPOINTS, run_key
from ldebm.training.trainer import train

__all__ = ["JudgeTask", "build_judge", "moved"]


class JudgeTask(LabelTask):
    """Cross-entropy of every label column, on images that are moved and mirrored at random."""

    def __init__(
        self, judge: Judge, train: Split, valid: Split, config: JudgeConfig, device: torch.device
    ) -> None:
        super().__init__(judge, train, judge.columns, config, config.smoothing)
        self.judge, self.valid_split = judge, valid
        self.config, self.device = config, device

    def logits(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        x_BCHW = make_batch(self.train_split, rows, self.device)
        stream = generator(self.config.seed, "judge", step)
        x_BCHW = moved(x_BCHW, self.config.shift, self.config.flip, stream)
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            features_BF = self.judge.features(x_BCHW)
        return self.judge.heads(features_BF.float())

    def validate(self, step: int) -> dict[str, float]:
        columns = accuracies(self.judge, self.valid_split, self.device)
        return {"accuracy": float(np.mean([found["accuracy"] for found in columns.values()]))}


def moved(x_BCHW: Tensor, shift: int, flip: bool, stream: torch.Generator) -> Tensor:
    """Images moved by up to ``shift`` pixels, edges repeated, and half of them mirrored.

    Args:
        x_BCHW: images.
        shift: largest move along either axis; 0: none.
        flip: whether to mirror.
        stream: CPU generator of the moves.

    Returns:
        Images of the same shape, with channels last in memory.
    """
    images, _, height, width = x_BCHW.shape
    device = x_BCHW.device

    def source(size: int) -> Tensor:
        move_B1 = torch.randint(-shift, shift + 1, (images, 1), generator=stream)
        return (torch.arange(size) + move_B1).clamp_(0, size - 1)

    row_BH, column_BW = source(height), source(width)
    if flip:
        mirrored_B1 = torch.rand(images, 1, generator=stream) < 0.5
        column_BW = torch.where(mirrored_B1, column_BW.flip(1), column_BW)
    row_BH1, column_B1W = row_BH[:, :, None].to(device), column_BW[:, None, :].to(device)
    image_B11 = torch.arange(images, device=device)[:, None, None]
    return x_BCHW.permute(0, 2, 3, 1)[image_B11, row_BH1, column_B1W].permute(0, 3, 1, 2)


def accuracies(judge: Judge, split: Split, device: torch.device) -> dict[str, dict[str, float]]:
    """How well a judge knows the labels of a split.

    Returns:
        By column: ``accuracy``; ``balanced_accuracy``, the mean over the classes that occur; and
        ``majority``, the accuracy of always naming the most frequent class.
    """
    judge.eval()
    probabilities = judge_images(judge, split.x, device=device).probabilities
    found = {}
    for column, p_BK in probabilities.items():
        label_B = column_labels(split, column)
        known_B = label_B >= 0
        label_B, right_B = label_B[known_B], p_BK.argmax(1)[known_B] == label_B[known_B]
        if not label_B.size:
            continue
        shares = [right_B[label_B == k].mean() for k in np.unique(label_B)]
        found[column] = {
            "accuracy": float(right_B.mean()),
            "balanced_accuracy": float(np.mean(shares)),
            "majority": float(np.bincount(label_B).max() / label_B.size),
        }
    return found


def build_judge(config: JudgeConfig, packed: Packed, out: Path) -> dict[str, Any]:
    """Trains the judge of a data set and writes ``out/{judge.safetensors, metrics.json}``.

    Returns:
        The content of ``metrics.json``.
    """
    device = choose_device(config.device)
    configure(config.threads)
    torch.manual_seed(derive_seed(config.seed, "judge-init"))
    judge = Judge(config, packed.meta).to(device)
    task = JudgeTask(judge, packed.split("train"), packed.split("valid"), config, device)
    dumped, data = config.model_dump(mode="json"), hash_path(packed.path)
    key = run_key("judge", dumped, data, device.type, code=[__name__])
    checkpoint = CHECKPOINTS / f"judge-{key}.pt"
    training = TrainingConfig(
        epochs=config.epochs, batch=config.batch, threads=config.threads, validate_every=None
    )
    result = train(task, training, checkpoint, title="judge")
    judge.load_state_dict(result.state)
    columns = accuracies(judge, packed.split("test"), device)
    metrics: dict[str, Any] = {
        "kind": packed.kind,
        "judge": {
            "columns": columns,
            "accuracy": float(np.mean([found["accuracy"] for found in columns.values()])),
            "features": judge.head.in_features,
            "updates": result.updates,
        },
    }
    write_json(out / "metrics.json", metrics)
    header = {"config": config.model_dump(mode="json"), "meta": packed.meta}
    write_model(out / JUDGE, result.state, header)
    checkpoint.unlink(missing_ok=True)
    return metrics
