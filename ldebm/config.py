"""Typed parameters: what ``params.yaml`` may say, with defaults and limits.

An experiment has one section per pipeline stage (``backbone``, ``cluster``, ``prior``,
``evaluate``), so that DVC re-runs exactly the stages whose section changed. Presets are YAML
anchors with deltas merged over them. Unknown keys are errors that name the nearest known key.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ldebm.baselines.config import BaselineConfig
from ldebm.completion_config import CompletionConfig
from ldebm.errors import UsageError
from ldebm.image_config import HierarchyConfig, HVAEConfig, JudgeConfig, NVAEConfig
from ldebm.sections import Section
from ldebm.text_config import TextJudgeConfig
from ldebm.yaml_text import parse_yaml

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
    "GuardConfig",
    "JudgeConfig",
    "OptimiserConfig",
    "Params",
    "PriorConfig",
    "RetrainConfig",
    "RuleConfig",
    "RunConfig",
    "SamplerConfig",
    "load_params",
    "nearest",
    "parse",
]

OOD_TRANSFORMS = ("rotated", "inverted", "shuffled", "noise")


class DataConfig(Section):
    """One data set: where it comes from and how it is prepared and packed."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"full", "split_punctuation", "strict", "classifier"}
    )
    kind: Literal["points", "sentences", "dialogues", "documents", "images"]
    source: str  # a name of the source registry, or "file"
    path: str | None = None  # source "file": the user's file (or folder of images)
    sha256: str | None = None  # source "file": checked when given (of a folder: of its zip)
    checksums: dict[str, str] = {}  # file name to sha256, where the registry knows none
    full: bool = False  # also the files of the source that a mirror need not hold
    columns: dict[
        Literal["text", "label", "context", "x", "dialogue", "turn", "speaker"], str
    ] = {}  # source "file"
    seed: int = 0  # generators and random splits
    train: int | None = Field(None, gt=0)  # rows; None: all that the source has
    valid: int | None = Field(None, gt=0)
    test: int | None = Field(None, gt=0)
    labels: list[str] = []  # label columns to keep, of those that the source has
    lowercase: bool = False
    split_punctuation: bool = False  # words and runs of marks become words (MR 3.3)
    strict: bool = True  # dialogues: unequal numbers of turns and labels are an error
    tokenizer: Literal["word", "unigram", "bpe"] = "word"
    vocab_size: int = Field(10001, ge=8)  # with the four control tokens
    max_len: int = Field(40, ge=3)  # tokens with BOS and EOS; longer rows keep EOS (MR 3.2)
    context_turns: int = Field(0, ge=0)
    size: int | None = Field(None, ge=4, le=1024)  # images: pixels of a side; None: as they are
    channels: Literal[1, 3] | None = None  # images: grey or colour; None: as the first image is
    judge: JudgeConfig = JudgeConfig()  # images: the keys that differ from the section `judge`
    classifier: TextJudgeConfig | None = None  # text: train one of its labels, to score control


class OptimiserConfig(Section):
    """Adam with clipping, a schedule and (off by default) an average of the weights."""

    added: ClassVar[frozenset[str]] = frozenset({"name", "eps", "decay"})
    name: Literal["adam", "adamax"] = "adam"
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(None, gt=0)  # global L2 norm
    schedule: Literal["constant", "one_cycle", "linear", "cosine", "exponential"] = "constant"
    warmup: int = Field(0, ge=0)  # updates of linear warm-up
    hold: float = Field(0.5, ge=0, le=1)  # "linear": share of updates before the decay starts
    final: float = Field(0.02, ge=0, le=1)  # last learning rate over the largest
    decay: float = Field(0.9, gt=0, le=1)  # "exponential": factor after every epoch (MR 6.5)
    ema: float | None = Field(None, gt=0, lt=1)  # decay of the averaged weights that are kept


class TrainingConfig(Section):
    """What the one trainer needs to know."""

    epochs: float | None = Field(None, ge=0)  # 0: initial weights only
    updates: int | None = Field(None, ge=0)
    batch: int = Field(128, gt=0)
    threads: int = Field(1, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"  # of the backbone's products only
    device: Literal["auto", "cpu", "cuda"] = "auto"
    optimiser: OptimiserConfig = OptimiserConfig()
    checkpoint_seconds: float = Field(60.0, ge=0)
    validate_every: float | None = Field(1.0, gt=0)  # epochs between validations

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give exactly one of 'epochs' and 'updates'")
        return self


class ContextConfig(Section):
    """Encoder of the previous turns: a recurrent layer over words, one over turns (MR 3.4)."""

    utterance: int = Field(256, gt=0)  # hidden size of either direction over the words of a turn
    size: int = Field(512, gt=0)  # C, the hidden size over turns


class SupervisionConfig(Section):
    """Labels that the latent of the first stage has to tell: a linear classifier of z (MR 2.6).

    The joint training as published has the same term; in two stages the encoder is frozen when the
    energies see the labels.
    """

    column: str  # a label column of the data
    weight: float = Field(gt=0)  # lambda_3 of the first stage, against nats a row


class BackboneConfig(Section):
    """First stage: encoder, decoder and the variational objective against N(0, I)."""

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "hvae", "nvae", "cell", "encoder_hidden", "bidirectional", "tied", "context",
            "baseline", "supervision",
        }
    )  # fmt: skip
    arch: Literal["mlp", "gru", "rnn", "dialogue", "bow", "hvae", "nvae"]
    baseline: BaselineConfig | None = None  # of "gru" and "dialogue"
    latent: int = Field(default=None, gt=0, validate_default=True)  # hvae, nvae: left out
    hvae: HVAEConfig | None = None
    nvae: NVAEConfig | None = None
    hidden: int = Field(512, gt=0)
    cell: Literal["gru", "lstm"] = "gru"  # rnn, dialogue
    encoder_hidden: int | None = Field(None, gt=0)  # rnn, dialogue; None: as `hidden`
    bidirectional: bool = True  # rnn, dialogue: the encoder
    tied: bool = True  # rnn, dialogue: the output layer is the decoder's embedding
    context: ContextConfig | None = None  # dialogue; None: its defaults
    layers: int = Field(1, gt=0)  # hidden layers of the MLP encoder and decoder (bow: one more)
    embed: int = Field(512, gt=0)
    dropout: float = Field(0.3, ge=0, lt=1)  # decoder input and output (text)
    word_dropout: float = Field(0.0, ge=0, lt=1)
    posterior_activation: bool = True  # LeakyReLU(0.01) before the heads (L: yes, S: no)
    noise: float = Field(1.0, gt=0)  # standard deviation of the decoder of points
    init: Literal["default", "uniform"] = "default"  # "uniform": U(-0.1, 0.1) (MR 2.3)
    kl_weight: float = Field(1.0, ge=0)  # lambda_1 of the first stage
    kl_floor: float = Field(0.0, ge=0)  # nats: max(mean KL, floor), in `joint` as well
    kl_warmup: int = Field(0, ge=0)  # updates from weight 0 to kl_weight
    objective: Literal["kl", "entropy"] = "kl"  # "entropy": the masked entropy term of MR 2.6 (ii)
    entropy_mask: float | None = 1.0
    supervision: SupervisionConfig | None = None  # not of images and baselines
    training: TrainingConfig

    @field_validator("latent", mode="wrap")
    @classmethod
    def _latent_or_groups(
        cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> int:
        baseline = info.data.get("baseline")
        without = baseline is not None and not baseline.continuous
        if (info.data.get("arch") in ("hvae", "nvae") or without) and value in (None, 0):
            return 0
        if value is None:
            raise PydanticCustomError("missing", "Field required")
        return int(check(value))

    @model_validator(mode="after")
    def _own_section(self) -> BackboneConfig:
        for arch in ("hvae", "nvae"):
            if (getattr(self, arch) is not None) != (self.arch == arch):
                given = "is missing" if self.arch == arch else f"needs arch '{arch}'"
                raise ValueError(f"section '{arch}' {given} (arch is {self.arch!r})")
        if self.cell == "lstm" and self.arch not in ("rnn", "dialogue"):
            raise ValueError(f"cell 'lstm' needs arch 'rnn' or 'dialogue' (arch is {self.arch!r})")
        if self.supervision is not None and (self.baseline or self.arch in ("hvae", "nvae")):
            raise ValueError("section 'supervision' is not for images and baselines")
        if self.context is not None and self.arch != "dialogue":
            raise ValueError(f"section 'context' needs arch 'dialogue' (arch is {self.arch!r})")
        return self

    @model_validator(mode="after")
    def _coherent_baseline(self) -> BackboneConfig:
        baseline = self.baseline
        if baseline is None:
            return self
        if self.arch not in ("gru", "dialogue"):
            raise ValueError(
                f"section 'baseline' needs arch 'gru' or 'dialogue' (arch is {self.arch!r})"
            )
        if self.kl_floor or self.objective != "kl":
            raise ValueError("section 'baseline' needs kl_floor 0 and objective 'kl'")
        if not baseline.continuous and self.latent:
            raise ValueError(f"latent: baseline {baseline.kind!r} has no z; set it to null")
        if baseline.mixture and self.latent % baseline.variables:
            raise ValueError(
                f"latent {self.latent}: baseline {baseline.kind!r} needs a multiple of its "
                f"{baseline.variables} variables"
            )
        return self


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


class EvaluateConfig(Section):
    """What is measured, and with how many samples."""

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "chains", "inception", "ood", "ood_rows", "judge", "word_vectors", "completion",
            "control_draws",
        }
    )  # fmt: skip
    threads: int = Field(1, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    samples: int = Field(5000, gt=0)  # drawn from the prior
    rows: int | None = Field(None, gt=0)  # test rows of the likelihood, a random subset; None: all
    importance: int = Field(500, gt=1)  # trajectories per row
    inner: int = Field(64, gt=1)  # proposals per normaliser
    decode: Literal["greedy", "sample"] = "sample"
    reverse_lm: Literal["gru", "awd_lstm", "none"] = "gru"
    reverse_lm_epochs: int = Field(4, gt=0)
    label_column: list[str] = []  # clusters are compared with these; [] : all the data has
    per_label: int = Field(200, gt=0)  # samples per class for control accuracy
    completion: CompletionConfig | None = None  # text: fill masked words
    ood: list[str] = []  # images: data sets, or transforms of the test images (OOD_TRANSFORMS)
    ood_rows: int = Field(500, gt=1)  # test images, of either kind, that are told apart
    chains: int = Field(64, ge=0)  # images: Langevin chains that are followed; 0: none
    judge: str | None = None  # text: the data set whose classifier scores control
    control_draws: int = Field(1, gt=0)  # draws a sample, of which the model recognises one; 1: off
    word_vectors: str | None = None  # responses: GloVe file; None: vectors of the training text
    inception: str | None = None  # images: local file of Inception's weights; None: no FID


class ExperimentConfig(Section):
    """One experiment: a data set and a section per stage."""

    data: str
    description: str = ""
    backbone: BackboneConfig
    cluster: ClusterConfig = ClusterConfig()
    prior: PriorConfig
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _coherent(self) -> ExperimentConfig:
        attributes = self.prior.hierarchy is not None and self.prior.hierarchy.attributes
        if self.cluster.labels == "given" and self.cluster.column is None and not attributes:
            raise ValueError("cluster.labels 'given' needs cluster.column")
        if self.prior.scheme == "joint" and self.prior.standardise != "none":
            raise ValueError("prior.scheme 'joint' needs prior.standardise 'none'")
        if self.prior.energy_scale != "paper" and self.prior.sampler.method != "ula":
            raise ValueError(
                "prior.energy_scale other than 'paper' needs prior.sampler.method 'ula'"
            )
        levels = self.prior.sampler.level_steps
        if levels and (len(levels) != self.prior.levels or min(levels) < 1):
            raise ValueError(
                f"prior.sampler.level_steps {levels}: expected one number from 1 on for each of "
                f"the {self.prior.levels} levels"
            )
        if self.evaluate.control_draws > 1 and self.backbone.arch not in ("gru", "rnn"):
            raise ValueError(
                "evaluate.control_draws above 1 needs backbone.arch 'gru' or 'rnn' "
                f"(arch is {self.backbone.arch!r})"
            )
        self._coherent_labels()
        self._coherent_hierarchy()
        self._coherent_baseline()
        return self

    def _coherent_baseline(self) -> None:
        baseline, kind = self.backbone.baseline, self.prior.kind
        if kind == "own" and (baseline is None or self.prior.standardise != "none"):
            raise ValueError(
                "prior.kind 'own' needs a section backbone.baseline and prior.standardise 'none'"
            )
        if kind == "own" and self.prior.scheme != "two_stage":
            raise ValueError("prior.kind 'own' needs prior.scheme 'two_stage'")
        if baseline is not None and kind != "own" and baseline.kind not in ("ae", "vae"):
            raise ValueError(
                f"backbone.baseline {baseline.kind!r} has a prior of its own: "
                "set prior.kind to 'own'"
            )

    def _coherent_labels(self) -> None:
        cluster, prior = self.cluster, self.prior
        given = cluster.labels == "given"
        if cluster.per_class is not None and (not given or cluster.share != 1.0):
            raise ValueError("cluster.per_class needs cluster.labels 'given' and no cluster.share")
        if (prior.labelled_batch or prior.kind == "classifier") and not given:
            raise ValueError(
                "prior.labelled_batch and prior.kind 'classifier' need cluster.labels 'given'"
            )
        images = self.backbone.arch in ("hvae", "nvae")
        if images and (prior.labelled_batch or prior.kind == "classifier"):
            raise ValueError("prior.labelled_batch and prior.kind 'classifier' are not for images")
        if prior.classifier is not None and prior.kind != "classifier":
            raise ValueError("prior.classifier needs prior.kind 'classifier'")
        if prior.kind == "classifier" and prior.standardise != "none":
            raise ValueError("prior.kind 'classifier' needs prior.standardise 'none'")

    def _coherent_hierarchy(self) -> None:
        prior, images = self.prior, self.backbone.arch in ("hvae", "nvae")
        hierarchy = prior.hierarchy
        if not images:
            if hierarchy is not None or prior.kind == "nce":
                raise ValueError(
                    "prior.hierarchy and prior.kind 'nce' need backbone.arch 'hvae' or 'nvae'"
                )
            return
        if prior.scheme == "joint":
            raise ValueError("prior.scheme 'joint' is not for images: use 'two_stage'")
        if hierarchy is None:
            return
        if hierarchy.label_levels == "all" and prior.t_sampling == "published":
            raise ValueError("prior.hierarchy.label_levels 'all' needs prior.t_sampling 'uniform'")
        if hierarchy.attributes:
            wanted = 2 ** len(hierarchy.attributes)
            if prior.classes != wanted or self.cluster.labels != "given":
                raise ValueError(
                    f"prior.hierarchy.attributes: {len(hierarchy.attributes)} of them need "
                    f"prior.classes {wanted} and cluster.labels 'given'"
                )


class RunConfig(Section):
    """What ``dvc repro`` builds."""

    datasets: list[str]
    experiments: list[str]
    seeds: list[int]
    epochs: float | None = None  # overrides every training length that is given in epochs


class GuardConfig(Section):
    """A metric that a new model may not make worse by more than ``tolerance``."""

    direction: Literal["lower", "higher"]  # which way is better
    tolerance: float = Field(0.0, ge=0)


class RuleConfig(Section):
    """What a challenger has to show before it replaces the champion of an experiment."""

    metric: str = "nll"
    direction: Literal["lower", "higher"] = "lower"  # which way is better
    minimum: float = Field(0.0, ge=0)  # the whole interval of the improvement lies above this
    guards: dict[str, GuardConfig] = {}


class RetrainConfig(Section):
    """Scheduled retraining: what, over which seeds, and what makes a new champion."""

    experiments: list[str] = []  # [] : those of `run:`
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    stages: list[str] = Field(["champion"], min_length=1)  # registry stages; first: the champion's
    rule: RuleConfig = RuleConfig()  # of every experiment that `rules` does not name
    rules: dict[str, RuleConfig] = {}

    def rule_of(self, experiment: str) -> RuleConfig:
        """The rule of one experiment."""
        return self.rules.get(experiment, self.rule)

    @model_validator(mode="after")
    def _plain_stages(self) -> RetrainConfig:
        for stage in self.stages:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", stage):
                raise ValueError(f"stage {stage!r}: use letters, digits, '-' and '_' (git tags)")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each only once")
        return self


class Params(Section):
    """All of ``params.yaml``; ``presets`` only holds anchors, ``groups`` lists of experiments."""

    run: RunConfig
    data: dict[str, DataConfig]
    experiments: dict[str, ExperimentConfig]
    retrain: RetrainConfig = RetrainConfig()
    judge: JudgeConfig = JudgeConfig()
    presets: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}

    @model_validator(mode="after")
    def _plain_names(self) -> Params:
        for name in (*self.data, *self.experiments):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"name {name!r}: use letters, digits, '-' and '_' (DVC keys)")
        for name in (*self.retrain.experiments, *self.retrain.rules):
            if name not in self.experiments:
                raise ValueError(
                    f"retrain: {name!r} is not an experiment{nearest(name, self.experiments)}"
                )
        return self

    @model_validator(mode="after")
    def _known_ood(self) -> Params:
        known = [*self.data, *OOD_TRANSFORMS]
        for experiment, config in self.experiments.items():
            for name in config.evaluate.ood:
                if name not in known:
                    raise ValueError(
                        f"experiments.{experiment}.evaluate.ood: {name!r} is neither a data set "
                        f"nor a transform{nearest(name, known)}"
                    )
            judge = config.evaluate.judge
            if judge is not None and (judge not in self.data or not self.data[judge].classifier):
                fault = "has no section 'classifier'" if judge in self.data else "is no data set"
                raise ValueError(
                    f"experiments.{experiment}.evaluate.judge: {judge!r} {fault}"
                    f"{nearest(judge, self.data)}"
                )
        return self

    def datasets_of(self, experiment: str) -> list[str]:
        """The data sets that an experiment reads: its own, and what ``evaluate`` names."""
        config = self.experiment(experiment)
        others = [name for name in config.evaluate.ood if name not in OOD_TRANSFORMS]
        others += [config.evaluate.judge] if config.evaluate.judge else []
        return list(dict.fromkeys([config.data, *others]))

    def judge_of(self, data: str) -> JudgeConfig:
        """The judge of one data set: the section ``judge`` with the data set's own keys over it."""
        own = self.dataset(data).judge
        return self.judge.model_copy(
            update={name: getattr(own, name) for name in own.model_fields_set}
        )

    def experiment(self, name: str) -> ExperimentConfig:
        """The experiment called ``name``.

        Raises:
            UsageError: there is none.
        """
        if name not in self.experiments:
            raise UsageError(
                f"experiment {name!r} is not in params.yaml{nearest(name, self.experiments)}"
            )
        return self.experiments[name]

    def dataset(self, name: str) -> DataConfig:
        """The data set called ``name``.

        Raises:
            UsageError: there is none.
        """
        if name not in self.data:
            raise UsageError(f"data set {name!r} is not in params.yaml{nearest(name, self.data)}")
        return self.data[name]


def nearest(name: str, known: Any) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``known``, else the list of them."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


SectionT = TypeVar("SectionT", bound=Section)


def parse(section: type[SectionT], content: Any, where: str) -> SectionT:
    """Checks ``content`` against ``section``.

    Raises:
        UsageError: with one line that names the key, the value and what was expected.
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        errors = error.errors()  # a mistyped key is the cause of the missing one: it comes first
        first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
        path = [str(part) for part in first["loc"]]
        key = ".".join([where, *path]) if where else ".".join(path)
        if first["type"] == "extra_forbidden":
            known = _known_keys(section, path[:-1])
            hint = nearest(path[-1], known) if known else ""
            raise UsageError(f"params.yaml: unknown key {key!r}{hint}") from None
        if first["type"] == "missing":
            raise UsageError(f"params.yaml: {key!r} is missing") from None
        message = first["msg"].removeprefix("Value error, ")
        value = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise UsageError(f"params.yaml: {key + ': ' if key else ''}{message}{value}") from None


def _known_keys(section: type[Section], path: list[str]) -> list[str]:
    """The field names of the section that ``path`` leads to."""
    current: Any = section
    for part in path:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else current
        arguments = getattr(annotation, "__args__", ())
        models = [
            item for item in arguments if isinstance(item, type) and issubclass(item, Section)
        ]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            current = annotation
        elif models:
            current = models[0]
    return list(getattr(current, "model_fields", {}))


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads and checks a parameter file (YAML, or JSON where no YAML reader is installed).

    Raises:
        UsageError: the file is missing, cannot be parsed or does not check.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; run the command in the project's folder") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error})") from None
    try:
        content = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except Exception as error:
        detail = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be parsed: {detail}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a mapping at the top, got {type(content).__name__}")
    return parse(Params, content, "")
