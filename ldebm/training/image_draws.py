"""Draws of a frozen hierarchical encoder, of which the priors of images learn.

The latents of all images may be too many to store, so every batch is encoded anew, or a few draws
of every training image are kept in memory (``hierarchy.cached_draws``).

Shapes: N or B rows, D latent dimension, R draws of each training image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import MixtureConfig
from ldebm.data.batches import make_batch
from ldebm.data.packed import Split
from ldebm.seeding import generator

__all__ = ["EncoderDraws", "draws_to_fit", "encoder_draws", "several_draws"]

FIT_VALUES = 2**25  # of latents that the standardisation is fitted to
FIT_ROWS = 20_000
ENCODE_ROWS = 250


@torch.no_grad()
def encoder_draws(
    backbone: HierarchicalBackbone,
    split: Split,
    rows: np.ndarray,
    stream: torch.Generator,
    device: torch.device,
) -> Tensor:
    """One draw of q(u|x) for each row, shape (len(rows), D)."""
    noise = torch.randn(len(rows), backbone.latent, generator=stream, device=device)
    return backbone.draws(make_batch(split, rows, device), [noise])[0]


def draws_to_fit(
    backbone: HierarchicalBackbone, split: Split, seed: int, device: torch.device
) -> Tensor:
    """Draws for the standardisation: of random training rows, as many as fit the memory."""
    count = min(FIT_ROWS, max(64, FIT_VALUES // backbone.latent))
    return _all_draws(backbone, split, _some(split, count, seed), seed, [0], device)[0]


def several_draws(
    backbone: HierarchicalBackbone,
    split: Split,
    settings: MixtureConfig,
    seed: int,
    device: torch.device,
) -> Tensor:
    """Several draws of every row, or of as many as the settings allow, (N, D)."""
    each = settings.draws_of_images(split.n)
    rows = _some(split, max(1, settings.rows // each), seed)
    return torch.cat(_all_draws(backbone, split, rows, seed, range(each), device))


def _some(split: Split, count: int, seed: int) -> np.ndarray:
    """Random rows, at most ``count``, in their order."""
    order = torch.randperm(split.n, generator=generator(seed, "fit-draws"))
    return order[:count].sort().values.numpy()


@torch.no_grad()
def _all_draws(
    backbone: HierarchicalBackbone,
    split: Split,
    rows: np.ndarray,
    seed: int,
    numbers: Sequence[int],
    device: torch.device,
) -> list[Tensor]:
    """For each of ``numbers`` one draw of every row, (rows, D); images are encoded in parts."""
    backbone.eval()
    parts: list[list[Tensor]] = [[] for _ in numbers]
    for start in range(0, len(rows), ENCODE_ROWS):
        part = rows[start : start + ENCODE_ROWS]
        noises = []
        for number in numbers:
            stream = generator(seed, "posterior-draws", number, start, device=device)
            shape = len(part), backbone.latent
            noises.append(torch.randn(shape, generator=stream, device=device))
        images = make_batch(split, part, device)
        for draws, u_BD in zip(parts, backbone.draws(images, noises), strict=True):
            draws.append(u_BD)
    return [torch.cat(draws) for draws in parts]


class EncoderDraws:
    """Draws of q(u|x) of training images, in the backbone's coordinates.

    Args:
        backbone: whose encoder draws them.
        split: the images.
        kept: how many of every image are kept in memory and chosen from; 0: every one is new.
        seed: of those that are kept.
        device: where to keep them.
    """

    def __init__(
        self,
        backbone: HierarchicalBackbone,
        split: Split,
        kept: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.backbone, self.split, self.device = backbone, split, device
        self.kept_RnD: list[Tensor] = []
        if kept:
            every, numbers = np.arange(split.n), range(1, kept + 1)
            self.kept_RnD = _all_draws(backbone, split, every, seed, numbers, device)

    def __call__(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        """One draw for each row, shape (len(rows), D)."""
        if not self.kept_RnD:
            return encoder_draws(self.backbone, self.split, rows, stream, self.device)
        kept = len(self.kept_RnD)
        which = int(torch.randint(kept, (1,), generator=stream, device=self.device))
        return self.kept_RnD[which][torch.from_numpy(rows).to(self.device)]
