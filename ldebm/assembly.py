"""Which class models what: the one file that knows all kinds of backbones, priors and tasks.

Whoever adds a kind writes it where its like are and names it here, or adds it from outside as a
plugin (docs/extending.md); nothing else asks what kind of thing it holds. Only what is asked for is
imported.

Shapes: D latent dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ldebm.backbones.base import Backbone
from ldebm.config import BackboneConfig, DataConfig, ExperimentConfig, PriorConfig
from ldebm.config.plugged import is_plugin, plugin_of
from ldebm.data.tokenizer import Tokenizer
from ldebm.errors import UsageError
from ldebm.model import Model
from ldebm.plugins import find
from ldebm.priors.base import Prior

__all__ = [
    "architecture",
    "build_backbone",
    "build_model",
    "build_prior",
    "first_stage_task",
    "modality",
    "prior_task",
    "refinement_task",
]


def architecture(config: BackboneConfig, kind: str) -> type[Backbone]:
    """The class of backbones of (config, a packed set's meta, generator) for data of ``kind``.

    Only the module that is asked for is imported.

    Raises:
        UsageError: the architecture cannot model this kind of data.
    """
    if (plugin := plugin_of(config, "arch", "backbone")) is not None:
        if kind in plugin.kinds:
            backbone: type[Backbone] = plugin.build
            return backbone
        wanted = " or ".join(plugin.kinds)
        raise UsageError(f"backbone.arch {config.arch!r} does not model {kind}: it is for {wanted}")
    if config.arch == "mlp" and kind == "points":
        from ldebm.backbones.points import PointVAE

        return PointVAE
    if config.arch == "linear" and kind == "vectors":
        from ldebm.backbones.linear import LinearBackbone

        return LinearBackbone
    if config.arch == "gru" and kind in ("sentences", "dialogues"):
        if config.baseline is not None:
            from ldebm.baselines.model import TextBaseline

            return TextBaseline
        from ldebm.backbones.text import TextVAE

        return TextVAE
    if config.arch == "rnn" and kind in ("sentences", "dialogues"):
        from ldebm.backbones.recurrent import RecurrentVAE

        return RecurrentVAE
    if config.arch == "dialogue" and kind == "dialogues":
        if config.baseline is not None:
            from ldebm.baselines.model import DialogueBaseline

            return DialogueBaseline
        from ldebm.backbones.dialogue import DialogueVAE

        return DialogueVAE
    if config.arch == "bow" and kind == "documents":
        from ldebm.backbones.documents import BagVAE

        return BagVAE
    if config.arch == "hvae" and kind == "images":
        from ldebm.backbones.hvae import HVAE

        return HVAE
    if config.arch == "nvae" and kind == "images":
        from ldebm.backbones.nvae import NVAE

        return NVAE
    wanted = {
        "points": "'mlp'", "images": "'hvae' or 'nvae'", "documents": "'bow'", "vectors": "'linear'"
    }.get(kind, "'gru' or 'rnn'")  # fmt: skip
    if kind == "dialogues":
        wanted += " (or 'dialogue')"
    raise UsageError(f"backbone.arch {config.arch!r} does not model {kind}: set it to {wanted}")


def build_backbone(
    config: BackboneConfig, meta: Mapping[str, Any], generator: torch.Generator | None = None
) -> Backbone:
    """The backbone that ``config.arch`` names, for data described by a packed set's ``meta``.

    Raises:
        UsageError: the architecture cannot model this kind of data.
    """
    return architecture(config, str(meta["kind"]))(config, meta, generator)


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
    plugin = plugin_of(config, "kind", "prior")
    if not isinstance(backbone, int) and backbone.hierarchical:
        if plugin is not None:
            raise UsageError(f"prior.kind {config.kind!r}: a plugin has no groups of latents")
        return _on_groups(backbone, config, generator)
    if config.kind == "own":
        return _of_baseline(backbone, config, generator)
    latent, context = backbone, 0
    if not isinstance(backbone, int):
        latent, context = backbone.latent, backbone.context_size
    assert isinstance(latent, int)
    if plugin is not None:
        prior: Prior = plugin.build(latent, config, generator)
        return prior
    if config.kind == "gaussian":
        from ldebm.priors.base import GaussianPrior

        return GaussianPrior(latent, config)
    if config.kind == "mixture":
        from ldebm.priors.mixture import MixturePrior

        return MixturePrior(latent, config)
    if config.kind == "flow":
        from ldebm.priors.flow import FlowPrior

        return FlowPrior(latent, config, generator)
    if config.kind == "classifier":
        from ldebm.priors.classifier import ClassifierPrior

        return ClassifierPrior(latent, config, generator)
    if config.kind == "svebm":
        from ldebm.priors.svebm import SymbolPrior

        return SymbolPrior(latent, config, generator, context)
    from ldebm.priors.diffusion import DiffusionPrior

    return DiffusionPrior(latent, config, generator, context)


def _of_baseline(
    backbone: Backbone | int, config: PriorConfig, generator: torch.Generator | None
) -> Prior:
    from ldebm.baselines.model import Baseline
    from ldebm.baselines.policy import PolicyPrior
    from ldebm.baselines.prior import BaselinePrior

    if not isinstance(backbone, Baseline):
        raise UsageError("prior.kind 'own': the backbone is no baseline; use another prior")
    if backbone.context_size and backbone.baseline.coded:
        return PolicyPrior(backbone, config, generator)
    return BaselinePrior(backbone, config)


def _on_groups(backbone: Backbone, config: PriorConfig, generator: torch.Generator | None) -> Prior:
    """The prior on the latents of a hierarchical backbone."""
    from ldebm.backbones.hierarchical import HierarchicalBackbone
    from ldebm.priors import hierarchical

    assert isinstance(backbone, HierarchicalBackbone)
    if config.kind == "gaussian":
        return hierarchical.GroupGaussianPrior(backbone, config)
    if config.kind == "flow":
        return hierarchical.GroupFlowPrior(backbone, config, generator)
    if config.kind == "nce":
        from ldebm.priors.contrastive import ContrastivePrior

        return ContrastivePrior(backbone, config, generator)
    if config.kind == "svebm":
        return hierarchical.GroupSymbolPrior(backbone, config, generator)
    return hierarchical.GroupDiffusionPrior(backbone, config, generator)


def first_stage_task(config: ExperimentConfig, backbone: type[Backbone]) -> Any:
    """The class of the task that trains backbones of a class."""
    if (plugin := plugin_of(config.backbone, "arch", "backbone")) and plugin.task is not None:
        return plugin.task
    if backbone.hierarchical:
        from ldebm.training.image_first_stage import ImageTask

        return ImageTask
    if config.backbone.baseline is not None:
        from ldebm.baselines.training import BaselineTask

        return BaselineTask
    from ldebm.training.backbone_task import BackboneTask

    return BackboneTask


def prior_task(config: ExperimentConfig, prior: Prior, backbone: Backbone) -> Any:
    """What trains a prior: the class of its task, whose ``of`` takes the stage's inputs.

    None: it is only fitted to the aggregate posterior.

    Raises:
        UsageError: ``scheme: joint`` with a prior that has no energies.
    """
    if (plugin := plugin_of(config.prior, "kind", "prior")) is not None:
        if config.prior.scheme == "two_stage":
            return plugin.task
        if prior.energies is None:
            raise UsageError(f"prior.scheme 'joint': prior {config.prior.kind!r} has no energies")
    if config.prior.kind == "own" and prior.contextual:
        from ldebm.baselines.policy import PolicyTask

        return PolicyTask
    if config.prior.kind == "classifier":
        from ldebm.training.classifier import ClassifierTask

        return ClassifierTask
    if config.prior.kind == "flow" and backbone.hierarchical:
        from ldebm.training.image_prior_task import ImageDensityTask

        return ImageDensityTask
    if config.prior.kind == "flow":
        from ldebm.training.density import DensityTask

        return DensityTask
    if config.prior.kind in ("gaussian", "mixture", "own"):
        return None
    if config.prior.scheme == "joint":
        from ldebm.training.joint_task import JointTask

        return JointTask
    if backbone.hierarchical:
        if config.prior.kind == "nce":
            from ldebm.training.contrastive import ContrastiveTask

            return ContrastiveTask
        from ldebm.training.image_prior_task import ImagePriorTask

        return ImagePriorTask
    from ldebm.training.prior_tasks import PriorTask

    return PriorTask


def refinement_task(config: ExperimentConfig) -> Any:
    """What trains prior and backbone together after the second stage; ``None``: nothing does."""
    if config.prior.scheme != "refined":
        return None
    from ldebm.training.refinement import RefinementTask

    return RefinementTask


def modality(backbone: Backbone, kind: str) -> type[Model]:
    """The class of models of data of ``kind``."""
    if kind == "vectors":  # of Python alone: no data set is of this kind
        from ldebm.modalities.vectors import VectorPrior

        return VectorPrior
    if is_plugin(DataConfig, "kind", kind):
        model: type[Model] = find("kinds", kind).model()
        return model
    if kind == "points":
        from ldebm.modalities.points import PointModel

        return PointModel
    if kind == "images":
        from ldebm.modalities.images import ImageModel

        return ImageModel
    if kind == "documents":
        from ldebm.modalities.documents import DocumentModel

        return DocumentModel
    if backbone.context_size:
        from ldebm.modalities.dialogues import ResponseModel

        return ResponseModel
    from ldebm.modalities.sentences import TextModel

    return TextModel


def build_model(
    config: ExperimentConfig,
    meta: Mapping[str, Any],
    backbone: Backbone,
    prior: Prior,
    tokenizer: Tokenizer | None,
    experiment: str,
    seed: int,
) -> Any:
    """The model of a backbone and a prior, of the class of its kind of data."""
    kind = modality(backbone, str(meta["kind"]))
    return kind(config, meta, backbone, prior, tokenizer, experiment, seed)
