"""The evaluation classifier of images: a small residual network.

Its features are what the Frechet and kernel distances compare, its classes what control is scored
by. Those distances are named ``fid_classifier`` and so on: they are not the published FID.

Shapes: B images, C channels, H height, W width, F features, K classes of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.config import ImageClassifierConfig
from ldebm.data.batches import make_batch
from ldebm.data.packed import Split
from ldebm.errors import UsageError
from ldebm.evaluate.classifier import EvaluationClassifier
from ldebm.seeding import generator

__all__ = ["ClassifiedImages", "ImageClassifier", "moved"]

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


@dataclass(frozen=True)
class ClassifiedImages:
    """What the classifier makes of some images.

    Attributes:
        features: float32 (B, F).
        probabilities: by label column, float32 (B, K).
    """

    features: np.ndarray
    probabilities: dict[str, np.ndarray]


class ImageClassifier(EvaluationClassifier):
    """One convolutional network with a linear head for every label column."""

    reads = "images"
    settings = ImageClassifierConfig
    stream_name = "judge"
    config: ImageClassifierConfig

    def __init__(self, config: ImageClassifierConfig, meta: Mapping[str, Any]) -> None:
        super().__init__(config, meta)
        self.smoothing = config.smoothing
        self.channels, size = int(meta["channels"]), int(meta["size"])
        stride = 2 if size >= LARGE else 1
        width, size = config.width, size // stride
        layers: list[nn.Module] = [_convolution(self.channels, width, stride), nn.ReLU()]
        while size > SMALLEST:
            layers += [_convolution(width, 2 * width, 2), nn.ReLU()]
            layers += [_Residual(2 * width) for _ in range(config.blocks)]
            width, size = 2 * width, (size + 1) // 2
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, sum(map(len, self.classes.values())))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # is there

    @property
    def feature_size(self) -> int:
        return self.head.in_features

    def features(self, x_BCHW: Tensor) -> Tensor:
        """What the heads read, float32 (B, F), of images in [-1, 1].

        Raises:
            UsageError: another number of channels than the classifier was trained with.
        """
        if x_BCHW.shape[1] != self.channels:
            raise UsageError(
                f"classifier: images of {x_BCHW.shape[1]} channels; it was trained on "
                f"{self.channels}"
            )
        x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
        mean: Tensor = self.body(x_BCHW).mean((2, 3))
        return mean

    def heads(self, features_BF: Tensor) -> dict[str, Tensor]:
        """The logits (B, K) of every column."""
        parts = self.head(features_BF).split([len(names) for names in self.classes.values()], dim=1)
        return dict(zip(self.classes, parts, strict=True))

    def logits(self, x_BCHW: Tensor, column: str) -> Tensor:
        """The logits of one label column, (B, K), of images in [-1, 1].

        Raises:
            UsageError: there is no such column.
        """
        self.require(column)
        return self.heads(self.features(x_BCHW))[column]

    def training_logits(self, split: Split, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        x_BCHW = make_batch(split, rows, self.device)
        stream = generator(self.config.seed, self.stream_name, step)
        x_BCHW = moved(x_BCHW, self.config.shift, self.config.flip, stream)
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            features_BF = self.features(x_BCHW)
        return self.heads(features_BF.float())

    def predict(self, split: Split) -> dict[str, np.ndarray]:
        probabilities = self.classify(split.x).probabilities
        return {column: p_BK.argmax(1) for column, p_BK in probabilities.items()}

    @torch.no_grad()
    def classify(self, pixels: np.ndarray, batch: int = 500) -> ClassifiedImages:
        """Features and class probabilities of images, some at a time.

        Args:
            pixels: uint8 (B, C, H, W), as packed or as ``decode`` gives them.
            batch: images at a time.
        """
        features: list[np.ndarray] = []
        probabilities: dict[str, list[np.ndarray]] = {column: [] for column in self.columns}
        for start in range(0, len(pixels), batch):
            part = torch.from_numpy(np.array(pixels[start : start + batch])).to(self.device)
            features_BF = self.features(part.float() / 127.5 - 1)
            features.append(features_BF.cpu().numpy())
            for column, logits_BK in self.heads(features_BF).items():
                probabilities[column].append(logits_BK.softmax(1).cpu().numpy())
        return ClassifiedImages(
            np.concatenate(features),
            {column: np.concatenate(parts) for column, parts in probabilities.items()},
        )


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
