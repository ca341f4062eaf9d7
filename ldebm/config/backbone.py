"""The section ``backbone``: the first stage."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

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
from ldebm.config.sections import Section
from ldebm.config.training import TrainingConfig

__all__ = ["BackboneConfig", "ContextConfig", "SupervisionConfig"]


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
