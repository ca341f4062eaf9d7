"""The sections ``cluster`` and ``prior``: classes, and the second stage."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ldebm.config.images import HierarchyConfig
from ldebm.config.plugged import Plugged
from ldebm.config.sections import Section
from ldebm.config.training import TrainingConfig

__all__ = [
    "ClassifierConfig",
    "ClusterConfig",
    "EnergyConfig",
    "FlowConfig",
    "MixtureConfig",
    "PriorConfig",
    "RefinementConfig",
    "SamplerConfig",
]


class ClusterConfig(Section):
    """Where the class labels of the prior come from: geometric clustering, the data, or nowhere."""

    added: ClassVar[frozenset[str]] = frozenset({"per_class", "pool_seed"})

    labels: Literal["gc", "given", "none"] = "none"
    """Classes from geometric clustering of the posterior means (`gc`), from a label column
    (`given`), or none.
    """
    column: str | None = None
    """Label column; needed with `labels: given`."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the training labels that are shown, with `labels: given`."""
    per_class: int | None = Field(None, gt=0)
    """Training labels that are shown of every class, with `labels: given`; null: as `share`
    says.
    """
    pool_seed: int | Literal["run", "first"] = "run"
    """Which labels `per_class` shows: random ones by the run's seed (`run`) or by a fixed seed,
    or the first rows of the file (`first`).
    """
    dims: int = Field(3, gt=0)
    """Principal components kept in the whitening before k-means."""
    iterations: int = Field(20, gt=0)
    """Largest number of k-means iterations."""
    restarts: int = Field(1, gt=0)
    """Random starts of k-means, of which the best is kept."""
    refresh: int = Field(1, ge=0)
    """Epochs between rounds of clustering, for `prior.scheme` joint and refined; 0: only at the
    beginning.
    """
    sampler: Literal["natural", "balanced", "legacy"] = "natural"
    """Rows of an epoch: each once, every class equally often, or as in the public code, which
    means to balance and does not.
    """

    @property
    def whole(self) -> bool:
        """Whether all labels of the column are shown, with `labels: given`."""
        return self.labels == "given" and self.share == 1 and self.per_class is None


class EnergyConfig(Section):
    """The network f(z, t) of Yu et al. (2022), table A1, or the plain MLP of SVEBM."""

    arch: Literal["residual", "mlp"] = "residual"
    """Residual network of Yu et al. (2022), table A1, or a plain MLP as in the public code of
    Pang and Wu (2021).
    """
    hidden: int = Field(200, gt=0)
    """Hidden size of the network."""
    blocks: int = Field(12, gt=0)
    """Residual blocks, or hidden layers of the MLP. Yu et al. (2022), table A1: 12."""
    activation: Literal["leaky_relu", "silu", "gelu"] = "leaky_relu"
    """Activation function. Yu et al. (2022), table A1: LeakyReLU with slope 0.2."""
    spectral_norm: bool = True
    """Spectral normalisation of all linear layers, as in Yu et al. (2022), appendix B.1."""
    init: Literal["default", "uniform", "orthogonal"] = "default"
    """Initial weights: as PyTorch sets them, uniform between -0.1 and 0.1, or orthogonal."""
    gain: float = Field(1.6, gt=0)
    """Gain of the input layers, for `init: orthogonal`."""


class SamplerConfig(Section):
    """Langevin dynamics."""

    added: ClassVar[frozenset[str]] = frozenset({"training_start"})
    method: Literal["mala", "pcnl", "ula"] = "mala"
    """Chain: Metropolis-adjusted Langevin (`mala`), preconditioned Crank-Nicolson Langevin
    (`pcnl`), or unadjusted Langevin as published (`ula`).
    """
    steps: int = Field(12, gt=0)
    """Moves per level and sample."""
    level_steps: list[int] = []
    """Moves of each level, from level 0 up, when the whole prior is sampled; empty: `steps` at
    every level.
    """
    step: float = Field(0.5, gt=0)
    """Squared step size over the variance of the level's Gaussian kernel; where `adapt` is on,
    the first one.
    """
    rule: Literal["kernel", "published"] = "kernel"
    """Step size: `step` times the kernel variance, or that of the public code, from `delta`."""
    delta: float = Field(2e-3, gt=0)
    """Scale of the squared step sizes of `rule: published`, and of `energy_scale` code and
    consistent.
    """
    adapt: bool = True
    """Adapt the step size of each level towards the acceptance `target` in training; not for
    `ula`.
    """
    target: float = Field(0.6, gt=0, lt=1)
    """Acceptance rate towards which the step size is adapted."""
    minimum_acceptance: float = Field(0.2, ge=0, lt=1)
    """Training stops with an error when the acceptance rate stays below this."""
    start: Literal["base", "previous", "noise"] = "base"
    """Where chains start: at a draw of the level's Gaussian kernel (`base`), at the state of
    the level above (`previous`), or at N(0, I) (`noise`).
    """
    training_start: Literal["same", "data"] = "same"
    """Where chains start in training: as `start` says, or at the data (contrastive divergence)."""
    persistent: bool = False
    """Keep the chains from one update to the next, for `kind: svebm`, as in algorithm 1 of Pang
    and Wu (2021).
    """
    graph: bool = True
    """On a GPU, replay the chain as one CUDA graph."""

    def moves(self, levels: int) -> list[int]:
        """How many moves a sample of the whole prior makes at each level, from t = 0 up."""
        return list(self.level_steps) or [self.steps] * levels


class ClassifierConfig(Section):
    """A classifier p(y|z) on the encoder, trained on the labelled rows: what the EBMs must beat."""

    hidden: int = Field(200, gt=0)
    """Hidden size of the classifier."""
    rounds: int = Field(0, ge=0)
    """Rounds of self-training after the first, supervised one; 0: none."""
    threshold: float = Field(0.95, gt=0, le=1)
    """Probability from which a prediction becomes a label in self-training."""


class MixtureConfig(Section):
    """A Gaussian mixture with full covariances, fitted to draws of the aggregate posterior."""

    components: list[int] = Field([5, 10, 20, 40, 80, 160], min_length=1)
    """Numbers of components that are tried, ascending, until the validation rows become less
    likely; the best is kept.
    """
    draws: int = Field(4, gt=0)
    """Draws of every training row's posterior."""
    rows: int = Field(40000, gt=0)
    """Draws that are fitted at most; beyond, rows are chosen at random."""

    def draws_of_images(self, images: int) -> int:
        """Draws of each of so many images: up to 16 where they are few, `draws` at least.

        With 4 of each digit a mixture is much too weak.
        """
        return max(self.draws, min(16, self.rows // images))

    @field_validator("components")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)) or value[0] < 1:
            raise ValueError(f"expected numbers from 1 up, ascending, each only once, got {value}")
        return value


class FlowConfig(Section):
    """A neural spline flow (Durkan et al. 2019)."""

    transforms: int = Field(3, gt=0)
    """Autoregressive transformations, one after the other."""
    hidden: int = Field(128, gt=0)
    """Hidden size of the network of each."""
    layers: int = Field(2, gt=0)
    """Hidden layers of the network of each."""
    bins: int = Field(8, gt=1)
    """Pieces of every spline."""


class RefinementConfig(Section):
    """All parameters together, from where the two stages have ended."""

    backbone_lr: float = Field(1e-4, gt=0)
    """Learning rate of encoder and decoder; that of the prior is in `training`."""
    warmup: int = Field(200, ge=0)
    """Updates over which the prior's pull on the encoder grows from nothing."""
    training: TrainingConfig
    """Length, batches and optimiser."""


class PriorConfig(Section):
    """Second stage: the density of z, and what is trained with it."""

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "hierarchy",
            "labelled_batch",
            "classifier",
            "options",
            "base_measure",
            "mixture",
            "flow",
            "refinement",
        }
    )
    unlisted: ClassVar[frozenset[str]] = frozenset({"options"})
    kind: Annotated[
        Literal["gaussian", "mixture", "flow", "svebm", "diffusion", "nce", "classifier", "own"]
        | str,
        Plugged("priors"),
    ] = "diffusion"
    """Prior of z: a Gaussian (fitted unless `standardise` is none); `mixture`, a fitted mixture
    of Gaussians; `flow`, a neural spline flow; `svebm`, one energy with a symbol vector (Pang and
    Wu 2021); `diffusion`, one energy per noise level (Yu et al. 2022); `nce`, noise-contrastive,
    for images; `classifier`, only p(y|z); the own prior of a baseline; or a prior of
    yours (docs/extending.md).
    """
    options: dict[str, Any] = {}
    """Settings of a prior of yours."""
    scheme: Literal["two_stage", "joint", "refined"] = "two_stage"
    """Train the prior on the frozen first stage (`two_stage`); all parameters together, as in the
    papers (`joint`); or the prior on the frozen first stage and then all together (`refined`).
    """
    classes: int = Field(20, gt=0)
    """Number K of classes (Yu et al. (2022), table A2)."""
    levels: int = Field(6, ge=2)
    """Number T of noise levels; of no effect for `kind: svebm`."""
    energy: EnergyConfig = EnergyConfig()
    """Network f(z, t) of the energy."""
    energy_scale: Literal["paper", "code", "consistent"] = "paper"
    """Temperature: 1 everywhere (`paper`); the energy over the squared step size in the sampler
    only, as in the public code (`code`); or everywhere (`consistent`).
    """
    sampler: SamplerConfig = SamplerConfig()
    """Langevin dynamics."""
    base: bool = True
    """Add a quadratic term under which a constant network is exactly N(0, I); false: the
    density of Yu et al. (2022), equation A2.
    """
    base_measure: Literal["normal", "mixture"] = "normal"
    """What the energies tilt, with `base: true`: N(0, I), or a fitted mixture of Gaussians,
    whose noised densities and reverse conditionals are known.
    """
    mixture: MixtureConfig | None = None
    """Sizes of the mixture, for `kind: mixture` and `base_measure: mixture`; null: its defaults."""
    flow: FlowConfig | None = None
    """Sizes of the flow, for `kind: flow`; null: its defaults."""
    standardise: Literal["none", "diagonal", "full"] = "full"
    """Coordinates of the prior: z itself, or z standardised by the fitted Gaussian, per
    dimension or with its full covariance. With `scheme: joint` only none, with
    `scheme: refined` not full.
    """
    level_noise: bool = True
    """The prior models z with the small noise of level 0 of the schedule, as in the public
    code; false: z itself.
    """
    log_normaliser: bool = True
    """In `scheme` joint and refined, give the encoder the gradient of the log-normaliser, which
    the public code leaves out.
    """
    t_sampling: Literal["uniform", "published"] = "uniform"
    """Levels of an update: uniform, or one below the top at random and the top for every row,
    as in the public code.
    """
    t_weight: Literal["one", "published", "step"] = "one"
    """Weight of a level in the loss: 1, that of the public code of Yu et al. (2022), or 1 over
    the squared step size (`step`), as in that of Cui and Han (2024).
    """
    score_matching: float = Field(0.0, ge=0, lt=1)
    """Share of the updates that first fit the energies by denoising score matching."""
    rollback_acceptance: float = Field(0.3, ge=0, lt=1)
    """When the acceptance rate falls below this, training goes back to the averaged weights."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight of the prior terms in `scheme` joint and refined (lambda_1 of Yu et al. (2022),
    table A2).
    """
    mi_weight: float = Field(0.05, ge=0)
    """Weight of the mutual information I(z; y), the information bottleneck (lambda_2 of Yu et
    al. (2022), table A2); 0: without it.
    """
    class_weight: float = Field(0.05, ge=0)
    """Weight of the cross-entropy of the classes (lambda_3 of Yu et al. (2022), table A2)."""
    labelled_batch: int = Field(0, ge=0)
    """Labelled rows that every update draws in addition; 0: none."""
    classifier: ClassifierConfig | None = None
    """Sizes of the classifier, for `kind: classifier`; null: its defaults."""
    hierarchy: HierarchyConfig | None = None
    """Energies of a prior on the groups of an image model; null: its defaults."""
    training: TrainingConfig
    """Length, batches and optimiser of the second stage."""
    refinement: RefinementConfig | None = None
    """The second part of `scheme: refined`."""
