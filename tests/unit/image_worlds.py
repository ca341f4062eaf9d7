"""Small image worlds for tests: packed pictures, a tiny HVAE, a generator that is known exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.assembly import build_backbone
from ldebm.backbones.hierarchical import Gaussian, Group, HierarchicalBackbone, Pick
from ldebm.config import BackboneConfig, HVAEConfig
from ldebm.data.packed import Packed, open_packed
from ldebm.nn.logistic import build_likelihood
from ldebm.seeding import generator

HVAE = {"widths": [4, 6], "hidden": 8, "likelihood": "bernoulli"}
ENERGY = {
    "hidden": 16,
    "blocks": 2,
    "activation": "silu",
    "spectral_norm": False,
    "init": "orthogonal",
}
EVERY_LEVEL = {"inputs": "context", "label_groups": [0, 1], "label_levels": "all",
               "label_sampling": "langevin", "cached_draws": 4}  # fmt: skip


def packed_images(
    path: Path, images: np.ndarray, labels: dict[str, np.ndarray] | None = None
) -> Packed:
    """A packed set whose three splits hold the same images, uint8 (n, C, S, S)."""
    path.mkdir(parents=True, exist_ok=True)
    labels = labels or {}
    meta = {
        "kind": "images",
        "size": images.shape[2],
        "channels": images.shape[1],
        "labels": {k: [str(i) for i in range(int(v.max()) + 1)] for k, v in labels.items()},
    }
    (path / "meta.json").write_text(json.dumps(meta))
    for split in ("train", "valid", "test"):
        np.save(path / f"{split}.x.npy", images)
        np.save(path / f"{split}.id.npy", np.arange(len(images)))
        columns = [labels[name].astype(np.int16) for name in sorted(labels)]
        np.save(path / f"{split}.labels.npy", np.stack(columns) if columns else np.zeros((0, 0)))
    return open_packed(path)


def tiny_hvae(layers: list[dict[str, Any]] | None = None) -> HierarchicalBackbone:
    """An HVAE of 8x8 grey images with weights away from their initial symmetry."""
    layers = layers or [{"dense": 3}, {"conv": [2, 2]}, {"conv": [2, 4]}]
    content = {"arch": "hvae", "hvae": HVAE | {"layers": layers}, "training": {"updates": 1}}
    meta = {"kind": "images", "size": 8, "channels": 1}
    config = BackboneConfig.model_validate(content)
    backbone = build_backbone(config, meta, generator(0, "tiny"))
    assert isinstance(backbone, HierarchicalBackbone)
    stream = generator(1, "tiny")
    for parameter in backbone.parameters():
        noise = torch.randn(parameter.shape, generator=stream)
        parameter.data += 0.3 * noise / max(1.0, parameter[0].numel() ** 0.5)
    return backbone.eval()


class LinearGaussian(HierarchicalBackbone):
    """z_1 ~ N(0, 1), z_2 ~ N(slope z_1, spread^2), x = (z_1, z_2) / 4 + noise; q is exact.

    Images are of one colour and 1 x 2 pixels, so every posterior is a Gaussian in closed form.
    """

    slope, spread, noise = 0.8, 0.6, 0.12

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.latent = (Group((1,)), Group((1,))), 2
        self.likelihood = build_likelihood(HVAEConfig(layers=[{"dense": 1}], widths=[1]), 1)

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        return [x_BCHW.flatten(1), x_BCHW.flatten(1)]

    def descend(self, pick: Pick, rows: int, *, finish: bool) -> Tensor:
        one = torch.ones(rows, 1)
        z_1 = pick(0, Gaussian(0 * one, one), 0 * one)
        return pick(1, Gaussian(self.slope * z_1, self.spread * one), z_1)

    def posterior_of(
        self, g: int, feature: Tensor, prior: Gaussian, state: Tensor
    ) -> tuple[Gaussian, Tensor]:
        x_1, x_2 = 4 * feature[:, :1], 4 * feature[:, 1:]
        own = (4 * self.noise) ** 2
        if g == 1:  # q(z_2 | x, z_1)
            precision = 1 / self.spread**2 + 1 / own
            mean = (self.slope * state / self.spread**2 + x_2 / own) / precision
        else:  # z_2 integrated out: x_2 ~ N(slope z_1, spread^2 + own)
            wide = self.spread**2 + own
            precision = 1 + 1 / own + self.slope**2 / wide
            mean = (x_1 / own + self.slope * x_2 / wide) / precision
        return Gaussian(mean, torch.full_like(mean, precision**-0.5)), feature

    def pixels(self, state: Tensor) -> Tensor:
        raise NotImplementedError

    def aggregate_log_density(self, u_N2: Tensor, images: np.ndarray) -> Tensor:
        """log (1/n) sum_i q(u | x_i), shape (N,): exact."""
        x = torch.from_numpy(images).float().div(127.5).sub(1).flatten(1)
        z_1 = u_N2[:, :1]
        z_2 = self.slope * z_1 + self.spread * u_N2[:, 1:]
        rows = []
        for row in x:
            feature = row.expand(len(u_N2), 2)
            flat = Gaussian(0 * z_1, 1 + 0 * z_1)
            first, _ = self.posterior_of(0, feature, flat, z_1)
            second, _ = self.posterior_of(1, feature, flat, z_1)
            rows.append(first.log_density(z_1) + second.log_density(z_2))
        mixture: Tensor = torch.logsumexp(torch.stack(rows), 0) - math.log(len(x))
        return mixture + math.log(self.spread)
