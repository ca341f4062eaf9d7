"""Untrained image models, and a classifier that looks at brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.assembly import build_model, build_prior
from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import ExperimentConfig, ImageClassifierConfig
from ldebm.evaluate.image_classifier import ImageClassifier
from ldebm.model import Model
from ldebm.seeding import generator, numpy_generator
from tests.unit.image_worlds import HVAE, tiny_hvae

META: dict[str, Any] = {
    "kind": "images",
    "size": 8,
    "channels": 1,
    "labels": {"bright": ["0", "1"], "digit": ["nought", "one", "two"], "wide": ["0", "1"]},
}
LAYERS = [{"dense": 3}, {"conv": [2, 2]}, {"conv": [2, 4]}]
PRIOR: dict[str, Any] = {
    "classes": 1,
    "levels": 3,
    "standardise": "none",
    "energy": {"hidden": 16, "blocks": 1, "spectral_norm": False, "activation": "silu"},
    "sampler": {"steps": 3},
    "hierarchy": {"channels": 4},
    "training": {"updates": 1},
}


def image_model(
    kind: str = "diffusion", backbone: HierarchicalBackbone | None = None, **prior: Any
) -> Model:
    """A model of 8 x 8 grey images with three groups; keys of ``prior`` replace the section's."""
    cluster = prior.pop("cluster", {})
    content = {
        "data": "pictures",
        "backbone": {"arch": "hvae", "hvae": HVAE | {"layers": LAYERS}, "training": {"updates": 1}},
        "cluster": cluster,
        "prior": {**PRIOR, "kind": kind, **prior},
    }
    config = ExperimentConfig.model_validate(content)
    backbone = backbone or tiny_hvae(LAYERS)
    built = build_prior(backbone, config.prior, generator(2, "prior"))
    return build_model(config, META, backbone, built, None, "pictures-hvae", 0)


class Brightness(ImageClassifier):
    """Two columns: ``bright`` by the mean of the upper half, ``wide`` by that of the lower."""

    def __init__(self) -> None:
        labels = {"bright": ["no", "yes"], "wide": ["no", "yes"]}
        meta = {"channels": 1, "size": 8, "labels": labels}
        super().__init__(ImageClassifierConfig(width=1), meta)
        self.eval()

    def features(self, x_BCHW: Tensor) -> Tensor:
        half = x_BCHW.shape[2] // 2
        upper, lower = x_BCHW[:, :, :half], x_BCHW[:, :, half:]
        return torch.stack([upper.mean((1, 2, 3)), lower.mean((1, 2, 3))], 1)

    def heads(self, features_BF: Tensor) -> dict[str, Tensor]:
        pairs = torch.stack([-20 * features_BF, 20 * features_BF], 2)
        return {"bright": pairs[:, 0], "wide": pairs[:, 1]}


def pictures(n: int, name: str = "pictures") -> np.ndarray:
    """Grey pictures of 8 x 8, bright or dark in either half, uint8 (n, 1, 8, 8)."""
    stream = numpy_generator(0, name)
    halves = stream.integers(0, 2, (n, 1, 2, 1)).repeat(4, 2) * 150
    return (halves + stream.integers(0, 100, (n, 1, 8, 8))).astype(np.uint8)
