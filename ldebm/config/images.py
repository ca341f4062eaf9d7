"""Parameters of the hierarchical image models.

Sizes are pixels of a side; groups of latent variables are listed from the top.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ldebm.config.sections import Section

__all__ = [
    "HVAEConfig",
    "HierarchyConfig",
    "ImageModelConfig",
    "LayerConfig",
    "NVAEConfig",
    "PublishedConfig",
]


class LayerConfig(Section):
    """One group of latent variables: ``{dense: 16}``, or ``{conv: [channels, size]}``."""

    dense: int | None = Field(None, gt=0)
    """Variables of a dense group."""
    conv: tuple[int, int] | None = None
    """Channels and side of a convolutional group, as in [16, 8]."""

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
    """Likelihood of the pixels: Bernoulli, a mixture of discretised logistics, or normal."""
    mixtures: int = Field(10, gt=0)
    """Components per pixel of the logistic likelihood."""
    bits: int = Field(8, ge=1, le=8)
    """Bits of a pixel value; below 8 the images are quantised."""


class HVAEConfig(ImageModelConfig):
    """A hierarchical VAE of a few groups."""

    layers: list[LayerConfig] = Field(min_length=1)
    """Groups of latent variables, from the top."""
    widths: list[int] = Field(min_length=1)
    """Channels after one, two, ... halvings of the image."""
    hidden: int = Field(256, gt=0)
    """Hidden size of the dense part."""
    blocks: int = Field(1, ge=0)
    """Residual blocks per resolution, in encoder and decoder each."""
    free_nats: list[float] = []
    """KL of each group, in nats, that costs nothing, so that the group is used; empty: none."""

    @model_validator(mode="after")
    def _coherent(self) -> HVAEConfig:
        if self.free_nats and len(self.free_nats) != len(self.layers):
            raise ValueError(f"free_nats: expected {len(self.layers)} numbers, one per layer")
        return self


class PublishedConfig(Section):
    """A checkpoint of the public NVAE code, which takes the place of the initial weights."""

    path: str
    """Checkpoint file, relative to the project."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Its sha256, so that the model's lineage names its content."""


class NVAEConfig(ImageModelConfig):
    """NVAE (Vahdat and Kautz 2020) under the names of its Table 6."""

    channels: int = Field(128, gt=0)
    """Channels of the stem; doubled at every halving of the image."""
    scales: int = Field(1, gt=0)
    """Number of spatial sizes with latent variables."""
    groups: list[int] = Field(min_length=1)
    """Groups of latent variables at each scale, from the top."""
    latents: int = Field(20, gt=0)
    """Latent channels of a group."""
    flows: int = Field(0, ge=0)
    """Pairs of autoregressive flow cells in the posterior of each group; 0: none."""
    blocks: int = Field(1, ge=0)
    """Halvings of the image before the first scale, and doublings after the last."""
    cells: int = Field(2, gt=0)
    """Residual cells per such block."""
    cells_per_group: int = Field(2, gt=0)
    """Residual cells per group."""
    squeeze_excitation: bool = True
    """Squeeze-and-excitation layers in the residual cells."""
    residual_posterior: bool = True
    """Give the posterior of a group relative to its prior."""
    pad: int = Field(0, ge=0)
    """Pixels added on every side, so that the image can be halved often enough; 2 for MNIST as
    published.
    """
    spectral: float = Field(1e-2, ge=0)
    """Weight of the penalty on the spectral norms and batch-norm scales; 0: none."""
    spectral_init: float | None = Field(None, gt=0)
    """Weight of that penalty at the beginning, which goes to `spectral` as the KL weight rises;
    null: constant.
    """
    kl_start: float = Field(1e-4, ge=0, le=1)
    """KL weight at the beginning of its warm-up, as a share of the last one."""
    kl_balance: bool = True
    """Balance the KL over the groups during the warm-up."""
    bn_readjust: Literal["none", "prior", "data"] = "none"
    """Estimate the batch-norm statistics again after training, from samples of the prior or
    from training data.
    """
    bn_passes: int = Field(500, gt=0)
    """Batches for that estimate."""
    published: PublishedConfig | None = None
    """Start from a checkpoint of the public NVAE code; null: from random weights."""
    checkpointing: bool = False
    """Recompute cells in the backward pass: less memory, about a third slower."""

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
    """The energies of a prior on groups of latent variables, as in Cui and Han (2024), section 3.

    Dense groups have the network of section ``energy``, convolutional ones a network of their own,
    unless they have no more than ``flat`` variables.
    """

    added: ClassVar[frozenset[str]] = frozenset({"standardise_inputs", "network"})

    inputs: Literal["z", "context", "u"] = "z"
    """What the energy of group g reads: `z`, its own variables, as published; `context`, all
    groups down to g; `u`, the same in the coordinates in which the backbone's own prior is N(0,
    I).
    """
    standardise_inputs: bool = True
    """Standardise what the energies read, by draws of the aggregate posterior; false: as
    published.
    """
    network: Literal["residual", "plain"] = "residual"
    """Convolutional energies: residual blocks with the noise level in each, the public network
    for CIFAR-10, or plain convolutions, that for CelebA-HQ-256.
    """
    channels: int = Field(128, gt=0)
    """Channels of the convolutional energies."""
    flat: int = Field(0, ge=0)
    """Convolutional groups of at most this many variables get a dense energy."""
    label_groups: list[int] = []
    """Groups whose energy has one output per class of `cluster.column`; 0 is the top."""
    attributes: dict[str, list[int]] = {}
    """Label columns with two classes each, and the groups that each one is coupled to."""
    label_levels: Literal["zero", "all"] = "zero"
    """Noise levels at which labels are learnt: only level 0, as in Cui and Han (2024), section
    3.3, or all.
    """
    label_sampling: Literal["rejection", "langevin", "filtered"] = "rejection"
    """How a class is sampled: by rejection (exact), by Langevin chains of its energy, or by
    such chains whose draws are kept with probability p(y|u).
    """
    label_training: Literal["logits", "class"] = "logits"
    """What labelled rows train: the logits p(y|u), or the density p(u|y) of their class."""
    score_noise: float = Field(0.15, gt=0)
    """Noise of level 0 during score matching, as a share of the spread of u."""
    cached_draws: int = Field(0, ge=0)
    """Posterior draws per training row that are kept in memory; 0: fresh draws in every update."""
    nce_sampler: Literal["sir", "langevin"] = "sir"
    """How `kind: nce` is sampled: by resampling proposals, or by Langevin chains."""
    proposals: int = Field(200, gt=1)
    """Proposals per group and sample, for `nce_sampler: sir`."""

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
