"""The judge: a small residual classifier of a data set's labels, by which images are measured.

The pipeline trains one for every data set of images that has labels (``stages.judge``). Its
features are what the Frechet and kernel distances compare, its classes what control is scored by.
Those distances are named ``fid_classifier`` and so on: they are not the published FID.

Shapes: B images, C channels, H height, W width, F features, K classes of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.config import JudgeConfig
from ldebm.data.packed import JUDGE
from ldebm.errors import REBUILD, UsageError
from ldebm.files import read_model

__all__ = ["Judge", "Judgement", "judge_images", "load_judge"]

SMALLEST = 4  # pixels of a side at which halving ends
LARGE = 17  # pixels of a side from which the stem halves as well


class _Residual(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))) of He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return functional.relu(x_BCHW + self.second(functional.relu(self.first(x_BCHW))))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Judge(nn.Module):
    """One network with a softmax head for every label column.

    Args:
        config: width and depth.
        meta: of the packed data set: channels, size and labels.
    """

    def __init__(self, config: JudgeConfig, meta: Mapping[str, Any]) -> None:
        super().__init__()
        self.channels, size = int(meta["channels"]), int(meta["size"])
        self.classes = {name: len(names) for name, names in sorted(meta["labels"].items())}
        stride = 2 if size >= LARGE else 1
        width, size = config.width, size // stride
        layers: list[nn.Module] = [_convolution(self.channels, width, stride), nn.ReLU()]
        while size > SMALLEST:
            layers += [_convolution(width, 2 * width, 2), nn.ReLU()]
            layers += [_Residual(2 * width) for _ in range(config.blocks)]
            width, size = 2 * width, (size + 1) // 2
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, sum(self.classes.values()))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # is there

    @property
    def columns(self) -> list[str]:
        """The label columns, in the order of the heads."""
        return list(self.classes)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """What the heads read, float32 (B, F), of images in [-1, 1].

        Raises:
            UsageError: another number of channels than the judge was trained with.
        """
        if x_BCHW.shape[1] != self.channels:
            raise UsageError(
                f"judge: images of {x_BCHW.shape[1]} channels; it was trained on {self.channels}"
            )
        x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
        mean: Tensor = self.body(x_BCHW).mean((2, 3))
        return mean

    def heads(self, features_BF: Tensor) -> dict[str, Tensor]:
        """The logits (B, K) of every column."""
        parts = self.head(features_BF).split(list(self.classes.values()), dim=1)
        return dict(zip(self.classes, parts, strict=True))

    def logits(self, x_BCHW: Tensor, column: str) -> Tensor:
        """The logits of one label column, (B, K), of images in [-1, 1].

        Raises:
            UsageError: the judge knows no such column.
        """
        if column not in self.classes:
            raise UsageError(f"judge: no column {column!r}; it knows {', '.join(self.classes)}")
        return self.heads(self.features(x_BCHW))[column]


@dataclass(frozen=True)
class Judgement:
    """What a judge makes of some images.

    Attributes:
        features: float32 (B, F).
        probabilities: by label column, float32 (B, K).
    """

    features: np.ndarray
    probabilities: dict[str, np.ndarray]


@torch.no_grad()
def judge_images(
    judge: Judge, pixels: np.ndarray, batch: int = 500, device: torch.device | str = "cpu"
) -> Judgement:
    """Features and class probabilities of images, some at a time.

    Args:
        judge: in evaluation mode.
        pixels: uint8 (B, C, H, W), as packed or as ``decode`` gives them.
        batch: images at a time.
        device: where the judge is.
    """
    features: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {column: [] for column in judge.columns}
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.array(pixels[start : start + batch])).to(device)
        features_BF = judge.features(part.float() / 127.5 - 1)
        features.append(features_BF.cpu().numpy())
        for column, logits_BK in judge.heads(features_BF).items():
            found[column].append(logits_BK.softmax(1).cpu().numpy())
    return Judgement(
        np.concatenate(features),
        {column: np.concatenate(parts) for column, parts in found.items()},
    )


def load_judge(path: str | Path) -> Judge:
    """The judge of ``data/judge/D`` (or the file in it), in evaluation mode.

    Raises:
        UsageError: there is none, since the data set has no labels or is not of images; or the
            file is damaged.
    """
    path = Path(path)
    file = path / JUDGE if path.is_dir() else path
    if path.is_dir() and not file.is_file() and (path / "metrics.json").is_file():
        raise UsageError(f"{path}: no judge: the data set is not of images, or has no labels")
    tensors, header = read_model(file)
    try:
        judge = Judge(JudgeConfig.model_validate(header["config"]), header["meta"])
        judge.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{file}: not a judge ({reason}); {REBUILD}") from None
    return judge.eval()
