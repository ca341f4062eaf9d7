"""The section ``backbone``: the first stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ldebm.config.baseline import BaselineConfig
from ldebm.config.images import HVAEConfig, NVAEConfig
from ldebm.config.plugged import Plugged
from ldebm.config.sections import Section
from ldebm.config.training import TrainingConfig

__all__ = ["BackboneConfig", "ContextConfig", "SupervisionConfig"]


class ContextConfig(Section):
    """Encoder of the previous turns: a recurrent layer over words, one over turns."""

    former: ClassVar[Mapping[str, str]] = {"size": "hidden"}
    utterance: int = Field(256, gt=0)
    """Hidden size, in each direction, of the bidirectional GRU over the words of one turn."""
    hidden: int = Field(512, gt=0)
    """Hidden size C of the GRU over turns: the size of the context vector."""


class SupervisionConfig(Section):
    """Labels that the latent of the first stage has to tell: a linear classifier of z.

    The joint training as published has the same term; in two stages the encoder is frozen when the
    energies see the labels.
    """

    column: str
    """Label column of the data set."""
    weight: float = Field(gt=0)
    """Weight of the cross-entropy of the labels, beside nats per row."""


ONLY_OF = {  # keys with the architectures that read them; a section of an arch is needed by it
    "hvae": ("hvae",),
    "nvae": ("nvae",),
    "cell": ("rnn", "dialogue"),
    "context": ("dialogue",),
    "baseline": ("gru", "dialogue"),
}


def _or_none(schema: dict[str, Any]) -> None:
    """A latent that there is none of is 0 or null."""
    del schema["exclusiveMinimum"]
    schema |= {"type": ["integer", "null"], "minimum": 0}


class CycleConfig(Section):
    """Cycles of the weight of the prior terms: zero, a linear rise, then full weight."""

    cycles: int = Field(10, gt=0)
    """Number of equally long cycles of the training."""
    zero: float = Field(0.5, ge=0, lt=1)
    """Share of a cycle at weight 0, where the model is a plain auto-encoder."""
    rise: float = Field(0.25, ge=0, le=1)
    """Share of a cycle over which the weight then rises to 1."""

    @model_validator(mode="after")
    def _fits_in_a_cycle(self) -> CycleConfig:
        if self.zero + self.rise > 1:
            raise ValueError(f"zero {self.zero} and rise {self.rise} are more than one cycle")
        return self

    def factor(self, place: float) -> float:
        """The factor at a place of the training, 0 (its start) to 1.

        Example:
            >>> cycle = CycleConfig(cycles=2, zero=0.5, rise=0.25)
            >>> [cycle.factor(place) for place in (0.1, 0.3125, 0.45, 0.6)]
            [0.0, 0.5, 1.0, 0.0]
        """
        inside = place * self.cycles % 1
        if inside < self.zero:
            return 0.0
        return 1.0 if self.rise == 0 else min(1.0, (inside - self.zero) / self.rise)


class BackboneConfig(Section):
    """First stage: encoder, decoder and the variational objective against N(0, I)."""

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "hvae", "nvae", "cell", "encoder_hidden", "bidirectional", "tied", "context",
            "baseline", "supervision", "options", "kl_cycle",
        }
    )  # fmt: skip
    unlisted: ClassVar[frozenset[str]] = frozenset({"options"})
    arch: Annotated[
        Literal["mlp", "gru", "rnn", "dialogue", "bow", "hvae", "nvae", "linear"] | str,
        Plugged("backbones"),
    ]
    """Network: `mlp` for points; `gru` (the text VAE) or `rnn` (choice of cell and sizes) for
    sentences; `dialogue` for responses to a context; `bow` for documents as word counts; `hvae`
    or `nvae` for images; `linear`, principal coordinates, for the vectors of `ldebm.fit_prior`;
    or a network of yours (docs/extending.md).
    """
    options: dict[str, Any] = {}
    """Settings of a network of yours."""
    baseline: BaselineConfig | None = None
    """Makes this a baseline of Yu et al. (2022), appendix B.2, instead of a plain VAE; needs
    `arch` gru or dialogue.
    """
    latent: int = Field(default=None, gt=0, validate_default=True, json_schema_extra=_or_none)
    """Dimension D of the latent vector z. Leave it out for `hvae` and `nvae`, whose groups give
    it, and for baselines without z.
    """
    hvae: HVAEConfig | None = None
    """Sizes of the hierarchical VAE; needed with `arch: hvae`."""
    nvae: NVAEConfig | None = None
    """Sizes of the NVAE; needed with `arch: nvae`."""
    hidden: int = Field(512, gt=0)
    """Hidden size of the decoder and, unless `encoder_hidden` says otherwise, of the encoder."""
    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell, for `arch` rnn and dialogue."""
    encoder_hidden: int | None = Field(None, gt=0)
    """Hidden size of the encoder, for `arch` rnn and dialogue; null: the same as `hidden`."""
    bidirectional: bool = True
    """Read the text in both directions in the encoder, for `arch` rnn and dialogue."""
    tied: bool = True
    """Use the decoder's word embedding as its output layer as well, for `arch` rnn and
    dialogue.
    """
    context: ContextConfig | None = None
    """Sizes of the context encoder, for `arch: dialogue`; null: its defaults."""
    layers: int = Field(1, gt=0)
    """Hidden layers of encoder and decoder, for `arch` mlp and bow; the decoder of bow has one
    more.
    """
    embed: int = Field(512, gt=0)
    """Size of the word embeddings."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout rate on the decoder's inputs and outputs, for text; between the layers of bow."""
    word_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the decoder's input words that training hides, so that the decoder has to use z."""
    posterior_activation: bool = True
    """Apply LeakyReLU(0.01) to the encoder features before the linear layers of mean and
    log-variance. The public code of Yu et al. (2022) does, that of Pang and Wu (2021) does not.
    """
    noise: float = Field(1.0, gt=0)
    """Standard deviation of the Gaussian likelihood of points."""
    init: Literal["default", "uniform"] = "default"
    """Initial weights of text models: the layers' own defaults, or `uniform` between -0.1 and
    0.1 for every parameter, as in the public code.
    """
    kl_weight: float = Field(1.0, ge=0)
    """Weight of the KL term in the first stage (lambda_1 of Yu et al. (2022), table A2)."""
    kl_floor: float = Field(0.0, ge=0)
    """The mean KL of a batch costs nothing below this many nats (free bits), in `scheme: joint`
    too; 0: off.
    """
    kl_warmup: int = Field(0, ge=0)
    """Updates over which the KL weight rises linearly from 0 to `kl_weight`."""
    kl_cycle: CycleConfig | None = None
    """Cyclical weight of the prior terms in `scheme: joint`, as in the public code of Pang and Wu
    (2021), instead of `kl_warmup`; null: off.
    """
    objective: Literal["kl", "entropy"] = "kl"
    """Rate term of the first stage: the KL to N(0, I), or the masked entropy term of the public
    code of Yu et al. (2022), which acts only on dimensions with a narrow posterior.
    """
    entropy_mask: float | None = 1.0
    """Threshold of the masked entropy term: a dimension counts while -(1 + log-variance) / 2 is
    above it; null: all dimensions count.
    """
    supervision: SupervisionConfig | None = None
    """Train a linear classifier of z together with the first stage, so that z holds the label;
    null: no labels. Not for images or baselines.
    """
    training: TrainingConfig
    """Length, batches and optimiser of the first stage."""

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

    @property
    def grouped(self) -> bool:
        """Whether it has a section that lists groups of latents, instead of ``latent``."""
        return self.hvae is not None or self.nvae is not None

    @model_validator(mode="after")
    def _own_section(self) -> BackboneConfig:
        for key, architectures in ONLY_OF.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                if self.arch not in architectures:
                    wanted = " or ".join(map(repr, architectures))
                    raise ValueError(f"{key!r} needs arch {wanted} (arch is {self.arch!r})")
            elif self.arch == key:
                raise ValueError(f"section {key!r} is missing (arch is {self.arch!r})")
        if self.supervision is not None and (self.baseline or self.grouped):
            raise ValueError("section 'supervision' is not for images and baselines")
        return self

    @model_validator(mode="after")
    def _coherent_baseline(self) -> BackboneConfig:
        baseline = self.baseline
        if baseline is None:
            return self
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
