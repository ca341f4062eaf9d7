"""Second stage of image models: energies on draws of a frozen hierarchical encoder.

The latents of all images may be too many to store, so every batch is encoded anew, or a few draws
of every training image are kept in memory (``hierarchy.cached_draws``).

Shapes: B batch, D latent dimension, n training images, R draws of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import ExperimentConfig, HierarchyConfig, MixtureConfig
from ldebm.data.batches import make_batch
from ldebm.data.packed import Split
from ldebm.priors import EnergyPrior
from ldebm.priors.hierarchical import OnGroups
from ldebm.seeding import generator
from ldebm.training.inputs import PriorInputs
from ldebm.training.objectives import Terms
from ldebm.training.prior_tasks import FrozenTask
from ldebm.training.score_matching import noised_score_terms

__all__ = ["ImagePriorTask", "draws_to_fit", "encoder_draws"]

FIT_VALUES = 2**25  # of latents that the standardisation is fitted to
FIT_ROWS = 20_000
ENCODE_ROWS = 250
MIXTURE_DRAWS = 16  # of every image, where the images are few: with 4 a mixture is much too weak


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


def _mixture_draws(
    backbone: HierarchicalBackbone,
    split: Split,
    settings: MixtureConfig,
    seed: int,
    device: torch.device,
) -> Tensor:
    """Several draws of every row, or of as many as the settings allow, (N, D)."""
    each = max(settings.draws, min(MIXTURE_DRAWS, settings.rows // split.n))
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


class ImagePriorTask(FrozenTask):
    """Second stage of a hierarchical image model: Cui and Han (2024), algorithm 1.

    Args:
        prior: the energies, of :mod:`ldebm.priors.hierarchical`; their standardisation is fitted
            here.
        split: the training images.
        labels: class of every image or -1; ``None`` without labels.
        config: the experiment.
        seed: of the run.
        device: where to train.
    """

    def __init__(
        self,
        prior: EnergyPrior,
        split: Split,
        labels: np.ndarray | None,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(prior, split.n, labels, config, seed, device)
        assert isinstance(prior, OnGroups)
        self.split, self.backbone = split, prior.backbone
        self.section = config.prior.hierarchy or HierarchyConfig()
        prior.fit_draws(draws_to_fit(self.backbone, split, seed, device))
        every, kept = np.arange(split.n), range(1, self.section.cached_draws + 1)
        self.cached_RnD: list[Tensor] = []
        if kept:
            self.cached_RnD = _all_draws(self.backbone, split, every, seed, kept, device)

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        assert inputs.prior.energies is not None
        common = inputs.labels, inputs.config, inputs.seed, inputs.device
        task = cls(inputs.prior.energies, inputs.train, *common)
        if inputs.config.prior.base_measure == "mixture":
            settings = inputs.config.prior.mixture or MixtureConfig()
            draws, others = (
                _mixture_draws(task.backbone, split, settings, inputs.seed, inputs.device)
                for split in (inputs.train, inputs.packed.split("valid"))
            )
            task.prior.fit_mixture(draws, others, inputs.seed)
        return task

    def latents(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        """Draws in the backbone's coordinates."""
        if not self.cached_RnD:
            return encoder_draws(self.backbone, self.split, rows, stream, self.device)
        kept = len(self.cached_RnD)
        which = int(torch.randint(kept, (1,), generator=stream, device=self.device))
        return self.cached_RnD[which][torch.from_numpy(rows).to(self.device)]

    def draw(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        return self.prior.to_standard(self.latents(rows, stream))

    def warm_up(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        u = self.draw(rows, stream)
        rounded = self.config.training.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
            return noised_score_terms(self.prior, u, labels, self.section.score_noise, stream)
