"""The prior that an experiment names."""

from __future__ import annotations

import torch

from ldebm.config import PriorConfig
from ldebm.errors import UsageError
from ldebm.nn.backbone import Backbone
from ldebm.priors.base import GaussianPrior, Prior
from ldebm.priors.diffusion import DiffusionPrior
from ldebm.priors.svebm import SymbolPrior

__all__ = ["build_prior"]


def build_prior(
    backbone: Backbone | int, config: PriorConfig, generator: torch.Generator | None = None
) -> Prior:
    """The prior that ``config.kind`` names, with initial weights from ``generator``.

    Args:
        backbone: whose latents they are, or only their dimension D. A hierarchical one is held by
            its prior, frozen.
        config: the experiment's prior section.
        generator: initial weights.
    """
    from ldebm.nn.hierarchy import HierarchicalBackbone

    if isinstance(backbone, HierarchicalBackbone):
        from ldebm.priors.hierarchical import build_hierarchical

        return build_hierarchical(backbone, config, generator)
    if config.kind == "own":
        return _own_prior(backbone, config, generator)
    latent, context = backbone, 0
    if not isinstance(backbone, int):
        latent, context = backbone.latent, backbone.context_size
    assert isinstance(latent, int)
    if config.kind == "gaussian":
        return GaussianPrior(latent, config)
    if config.kind == "classifier":
        from ldebm.training.classifier import ClassifierPrior

        return ClassifierPrior(latent, config, generator)
    if config.kind == "svebm":
        return SymbolPrior(latent, config, generator, context)
    return DiffusionPrior(latent, config, generator, context)


def _own_prior(
    backbone: Backbone | int, config: PriorConfig, generator: torch.Generator | None
) -> Prior:
    from ldebm.baselines.model import Baseline
    from ldebm.baselines.policy import PolicyPrior
    from ldebm.baselines.prior import OwnPrior

    if not isinstance(backbone, Baseline):
        raise UsageError("prior.kind 'own': the backbone is no baseline; use another prior")
    if backbone.context_size and backbone.baseline.coded:
        return PolicyPrior(backbone, config, generator)
    return OwnPrior(backbone, config)
