"""Parameters of the hierarchical image models (section 6 of MR, NVAE's Table 6) and of the judge.

Sizes are pixels of a side; groups of latent variables are listed from the top.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ldebm.config.sections import Section

__all__ = [
    "HVAEConfig",
    "HierarchyConfig",
    "ImageModelConfig",
    "JudgeConfig",
    "LayerConfig",
    "NVAEConfig",
    "PublishedConfig",
]


class LayerConfig(Section):
    """One group of latent variables: ``{dense: 16}``, or ``{conv: [channels, size]}``."""

    dense: int | None = Field(None, gt=0)
    conv: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> LayerConfig:
        if (self.dense is None) == (self.conv is None):
            raise ValueError("give exactly one of 'dense' and 'conv'")
        if self.conv is not None and min(self.conv) < 1:
            raise ValueError("conv: expected [channels, size], both at least 1")
        return self


class ImageModelConfig(Section):
    """What both hierarchical backbones have: the likelihood of the pixels."""

    likelihood: Literal["bernoulli", "logistic", "normal"] = "logistic"
    mixtures: int = Field(10, gt=0)  # "logistic": components of a pixel
    bits: int = Field(8, ge=1, le=8)  # of a pixel's value; below 8 the images are quantised


class HVAEConfig(ImageModelConfig):
    """A hierarchical VAE of a few groups (MR 6.9, 10.23)."""

    layers: list[LayerConfig] = Field(min_length=1)  # groups, top first
    widths: list[int] = Field(min_length=1)  # channels after one, two, ... halvings of the image
    hidden: int = Field(256, gt=0)  # of the dense part
    blocks: int = Field(1, ge=0)  # residual blocks per resolution, on either side
    free_nats: list[float] = []  # per group: KL that costs nothing, so that the group is used

    @model_validator(mode="after")
    def _coherent(self) -> HVAEConfig:
        if self.free_nats and len(self.free_nats) != len(self.layers):
            raise ValueError(f"free_nats: expected {len(self.layers)} numbers, one per layer")
        return self


class PublishedConfig(Section):
    """A checkpoint of the public NVAE code, which takes the place of the initial weights."""

    path: str  # relative to the project
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")  # so that the model's lineage holds its content


class NVAEConfig(ImageModelConfig):
    """NVAE (Vahdat and Kautz 2020) under the names of its Table 6."""

    channels: int = Field(128, gt=0)  # of the stem; doubled at every halving
    scales: int = Field(1, gt=0)  # spatial sizes with latent variables
    groups: list[int] = Field(min_length=1)  # groups of every scale, top first
    latents: int = Field(20, gt=0)  # channels of a group
    flows: int = Field(0, ge=0)  # pairs of autoregressive cells in every posterior
    blocks: int = Field(1, ge=0)  # halvings before the first scale, and doublings after the last
    cells: int = Field(2, gt=0)  # residual cells per such block
    cells_per_group: int = Field(2, gt=0)
    squeeze_excitation: bool = True
    residual_posterior: bool = True
    pad: int = Field(0, ge=0)  # pixels added on every side (MNIST: 2, as published)
    spectral: float = Field(1e-2, ge=0)  # weight of the spectral and BN-scale regularisation
    spectral_init: float | None = Field(None, gt=0)  # annealed from here with the KL's weight
    kl_start: float = Field(1e-4, ge=0, le=1)  # weight of the KL at the beginning of its warm-up
    kl_balance: bool = True  # while the KL's weight is below its last value
    bn_readjust: Literal["none", "prior", "data"] = "none"  # statistics after training, from
    bn_passes: int = Field(500, gt=0)  # so many batches
    published: PublishedConfig | None = None
    checkpointing: bool = False  # recompute cells in the backward pass: a third slower, less memory

    @model_validator(mode="after")
    def _coherent(self) -> NVAEConfig:
        if len(self.groups) != self.scales:
            raise ValueError(f"groups: expected {self.scales} numbers, one per scale, top first")
        if min(self.groups) < 1:
            raise ValueError("groups: every scale needs at least one")
        if sum(self.groups) < 2:
            raise ValueError("groups: expected two or more in all")
        return self


class HierarchyConfig(Section):
    """The energies of a prior on the groups of a hierarchical model (004 section 3; MR 6.4, 6.8).

    Dense groups have the network of section ``energy``, convolutional ones that of MR 6.4 unless
    they have no more than ``flat`` variables.
    """

    inputs: Literal["z", "context", "u"] = "z"  # of F_g: z_g (published), z_<=g, or u_<=g
    channels: int = Field(128, gt=0)  # of the convolutional energies
    flat: int = Field(0, ge=0)  # convolutional groups of at most so many variables are read flat
    label_groups: list[int] = []  # groups with a logit per class of cluster.column
    attributes: dict[str, list[int]] = {}  # label columns of two classes, each with its groups
    label_levels: Literal["zero", "all"] = "zero"  # levels t where labels are learnt
    label_sampling: Literal["rejection", "langevin", "filtered"] = "rejection"  # of p(u|y)
    label_training: Literal["logits", "class"] = "logits"  # "class": labelled rows train p(u|y)
    score_noise: float = Field(0.15, gt=0)  # score matching: noise of level 0, as of u's spread
    cached_draws: int = Field(0, ge=0)  # posterior draws per training row kept in memory; 0: fresh
    nce_sampler: Literal["sir", "langevin"] = "sir"  # kind "nce"
    proposals: int = Field(200, gt=1)  # "sir": candidates per group and sample

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> HierarchyConfig:
        if self.label_groups and self.attributes:
            raise ValueError("give at most one of 'label_groups' and 'attributes'")
        for groups in (self.label_groups, *self.attributes.values()):
            if len(set(groups)) < len(groups) or min(groups, default=0) < 0:
                raise ValueError("groups of a label: expected different numbers from 0 (the top)")
        if not all(self.attributes.values()):
            raise ValueError("attributes: every column needs at least one group")
        if self.label_training == "class" and self.label_levels != "all":
            raise ValueError("label_training 'class' needs label_levels 'all'")
        return self


class JudgeConfig(Section):
    """The classifier that measures images: its features give distances, its classes control.

    The section ``judge`` holds for all data sets; ``data.<name>.judge`` changes some of its keys.
    """

    width: int = Field(16, gt=0)  # channels of the stem; doubled at every halving
    blocks: int = Field(1, ge=0)  # residual blocks after every halving
    epochs: float = Field(8, gt=0)
    batch: int = Field(128, gt=1)
    lr: float = Field(5e-3, gt=0)
    smoothing: float = Field(0.05, ge=0, lt=1)  # of the labels
    shift: int = Field(2, ge=0)  # training images are moved by up to so many pixels
    flip: bool = False  # and mirrored
    threads: int = Field(2, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"  # of the convolutions while training
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
