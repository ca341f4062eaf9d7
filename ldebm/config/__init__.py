"""Typed parameters: what ``params.yaml`` may say, with defaults and limits.

An experiment has one section per pipeline stage (``backbone``, ``cluster``, ``prior``,
``evaluate``), so that DVC re-runs exactly the stages whose section changed. A mistake is one line
that names the key, what was expected and the nearest known key (``checking``).
"""

from ldebm.config.backbone import BackboneConfig, ContextConfig, SupervisionConfig
from ldebm.config.baseline import BaselineConfig
from ldebm.config.checking import nearest, parse
from ldebm.config.classifiers import ImageClassifierConfig, TextClassifierConfig
from ldebm.config.data import DataConfig
from ldebm.config.evaluate import OOD_TRANSFORMS, CompletionConfig, EvaluateConfig
from ldebm.config.experiment import ExperimentConfig
from ldebm.config.images import (
    HierarchyConfig,
    HVAEConfig,
    ImageModelConfig,
    LayerConfig,
    NVAEConfig,
    PublishedConfig,
)
from ldebm.config.params import Params, RunConfig, load_params
from ldebm.config.prior import (
    ClassifierConfig,
    ClusterConfig,
    EnergyConfig,
    FlowConfig,
    MixtureConfig,
    PriorConfig,
    RefinementConfig,
    SamplerConfig,
)
from ldebm.config.resources import ResourcesConfig
from ldebm.config.retrain import GuardConfig, RetrainConfig, RuleConfig
from ldebm.config.training import OptimiserConfig, TrainingConfig

__all__ = [
    "OOD_TRANSFORMS",
    "BackboneConfig",
    "BaselineConfig",
    "ClassifierConfig",
    "ClusterConfig",
    "CompletionConfig",
    "ContextConfig",
    "DataConfig",
    "EnergyConfig",
    "EvaluateConfig",
    "ExperimentConfig",
    "FlowConfig",
    "GuardConfig",
    "HVAEConfig",
    "HierarchyConfig",
    "ImageClassifierConfig",
    "ImageModelConfig",
    "LayerConfig",
    "MixtureConfig",
    "NVAEConfig",
    "OptimiserConfig",
    "Params",
    "PriorConfig",
    "PublishedConfig",
    "RefinementConfig",
    "ResourcesConfig",
    "RetrainConfig",
    "RuleConfig",
    "RunConfig",
    "SamplerConfig",
    "SupervisionConfig",
    "TextClassifierConfig",
    "TrainingConfig",
    "load_params",
    "nearest",
    "parse",
]
