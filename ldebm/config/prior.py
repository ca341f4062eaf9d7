"""The sections ``cluster`` and ``prior``: classes, and the second stage."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ldebm.config.images import HierarchyConfig
from ldebm.config.sections import Section
from ldebm.config.training import TrainingConfig

__all__ = ["ClassifierConfig", "ClusterConfig", "EnergyConfig", "PriorConfig", "SamplerConfig"]


class ClusterConfig(Section):
    """Where the class labels of the prior come from: geometric clustering, the data, or nowhere."""

    added: ClassVar[frozenset[str]] = frozenset({"per_class", "pool_seed"})

    labels: Literal["gc", "given", "none"] = "none"
    column: str | None = None  # "given": the label column
    share: float = Field(1.0, gt=0, le=1)  # "given": share of the training labels shown
    per_class: int | None = Field(None, gt=0)  # "given": training labels shown of every class
    pool_seed: int | Literal["run", "first"] = "run"  # which: random by a seed, or the first
    dims: int = Field(3, gt=0)  # PCA dimensions after whitening (MR 2.8)
    iterations: int = Field(20, gt=0)
    restarts: int = Field(1, gt=0)
    refresh: int = Field(1, ge=0)  # joint scheme: epochs between rounds; 0: never again
    sampler: Literal["natural", "balanced", "legacy"] = "natural"


class EnergyConfig(Section):
    """The network f(z, t) of Table A1, or the plain MLP of SVEBM."""

    arch: Literal["residual", "mlp"] = "residual"
    hidden: int = Field(200, gt=0)
    blocks: int = Field(12, gt=0)  # residual blocks, or hidden layers of "mlp"
    activation: Literal["leaky_relu", "silu", "gelu"] = "leaky_relu"
    spectral_norm: bool = True
    init: Literal["default", "uniform", "orthogonal"] = "default"
    gain: float = Field(1.6, gt=0)  # "orthogonal": gain of the input layers


class SamplerConfig(Section):
    """Langevin dynamics."""

    added: ClassVar[frozenset[str]] = frozenset({"training_start"})
    method: Literal["mala", "pcnl", "ula"] = "mala"
    steps: int = Field(12, gt=0)  # per level and sample
    level_steps: list[int] = []  # instead, when sampling the whole prior: one number a level
    step: float = Field(0.5, gt=0)  # squared step size over the level's kernel variance
    rule: Literal["kernel", "published"] = "kernel"  # "published": MR 2.4, with delta
    delta: float = Field(2e-3, gt=0)
    adapt: bool = True  # MALA: adapt the step of each level to `target` while training
    target: float = Field(0.6, gt=0, lt=1)
    minimum_acceptance: float = Field(0.2, ge=0, lt=1)
    start: Literal["base", "previous", "noise"] = "base"
    training_start: Literal["same", "data"] = "same"  # "data": at the positive examples (CD)
    persistent: bool = False  # SVEBM: keep the chains between updates
    graph: bool = True  # CUDA: replay the chain as one graph

    def moves(self, levels: int) -> list[int]:
        """How many moves a sample of the whole prior makes at each level, from t = 0 up."""
        return list(self.level_steps) or [self.steps] * levels


class ClassifierConfig(Section):
    """A classifier p(y|z) on the encoder, trained on the labelled rows: what the EBMs must beat."""

    hidden: int = Field(200, gt=0)
    rounds: int = Field(0, ge=0)  # of self-training after the first, supervised one
    threshold: float = Field(0.95, gt=0, le=1)  # probability from which a prediction is a label


class PriorConfig(Section):
    """Second stage: the density of z, and what is trained with it."""

    added: ClassVar[frozenset[str]] = frozenset({"hierarchy", "labelled_batch", "classifier"})
    kind: Literal["gaussian", "svebm", "diffusion", "nce", "classifier", "own"] = "diffusion"
    scheme: Literal["two_stage", "joint"] = "two_stage"
    classes: int = Field(20, gt=0)
    levels: int = Field(6, ge=2)  # T
    energy: EnergyConfig = EnergyConfig()
    energy_scale: Literal["paper", "code", "consistent"] = "paper"
    sampler: SamplerConfig = SamplerConfig()
    base: bool = True  # add the energy under which a constant network is exactly N(0, I)
    standardise: Literal["none", "diagonal", "full"] = "full"  # two_stage: by the fitted Gaussian
    level_noise: bool = True  # the prior models z_0 = abar_0 z + sbar_0 eps (MR 10.2)
    log_normaliser: bool = True  # joint: the term of MR 2.7
    t_sampling: Literal["uniform", "published"] = "uniform"
    t_weight: Literal["one", "published", "step"] = "one"  # "step": 1 / s_t^2 (images; MR 10.19)
    score_matching: float = Field(0.0, ge=0, lt=1)  # share of the updates that warm up by it
    rollback_acceptance: float = Field(0.3, ge=0, lt=1)  # below: back to the averaged weights
    kl_weight: float = Field(1.0, ge=0)  # lambda_1 (joint)
    mi_weight: float = Field(0.05, ge=0)  # lambda_2: the information bottleneck; 0: without IB
    class_weight: float = Field(0.05, ge=0)  # lambda_3
    labelled_batch: int = Field(0, ge=0)  # labelled rows of their own in every update; 0: none
    classifier: ClassifierConfig | None = None  # kind "classifier"; None: its defaults
    hierarchy: HierarchyConfig | None = None  # of hierarchical backbones; None: its defaults
    training: TrainingConfig
