"""Second stage of image models: priors on draws of a frozen hierarchical encoder.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from ldebm.config import ExperimentConfig, HierarchyConfig, MixtureConfig
from ldebm.data.packed import Split
from ldebm.priors import EnergyPrior
from ldebm.priors.hierarchical import GroupFlowPrior, OnGroups
from ldebm.training.density import DensityTask
from ldebm.training.image_draws import EncoderDraws, draws_to_fit, several_draws
from ldebm.training.inputs import PriorInputs
from ldebm.training.objectives import Terms
from ldebm.training.prior_tasks import FrozenTask
from ldebm.training.score_matching import noised_score_terms

__all__ = ["ImageDensityTask", "ImagePriorTask"]


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
        self.backbone = prior.backbone
        self.section = config.prior.hierarchy or HierarchyConfig()
        prior.fit_draws(draws_to_fit(self.backbone, split, seed, device))
        self.latents = EncoderDraws(self.backbone, split, self.section.cached_draws, seed, device)

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        assert inputs.prior.energies is not None
        common = inputs.labels, inputs.config, inputs.seed, inputs.device
        task = cls(inputs.prior.energies, inputs.train, *common)
        if inputs.config.prior.base_measure == "mixture":
            settings = inputs.config.prior.mixture or MixtureConfig()
            draws, others = (
                several_draws(task.backbone, split, settings, inputs.seed, inputs.device)
                for split in (inputs.train, inputs.packed.split("valid"))
            )
            task.prior.fit_mixture(draws, others, inputs.seed)
        return task

    def draw(self, rows: np.ndarray, stream: torch.Generator) -> Tensor:
        return self.prior.to_standard(self.latents(rows, stream))

    def warm_up(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        u = self.draw(rows, stream)
        rounded = self.config.training.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
            return noised_score_terms(self.prior, u, labels, self.section.score_noise, stream)


class ImageDensityTask(DensityTask):
    """-log p(u) of draws of the encoder, for a prior on u whose density is exact."""

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        prior = cast(GroupFlowPrior, inputs.prior)  # the table gives this task to no other
        backbone, seed, device = prior.backbone, inputs.seed, inputs.device
        prior.fit_draws(draws_to_fit(backbone, inputs.train, seed, device))
        draw = EncoderDraws(backbone, inputs.train, prior.section.cached_draws, seed, device)
        valid = inputs.packed.split("valid")
        held_out = several_draws(backbone, valid, MixtureConfig(), seed, device)
        return cls(prior, inputs.train.n, draw, held_out, inputs.config, seed, device)
