"""The section ``backbone.baseline``: which baseline, and its code."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from ldebm.config.sections import Section

__all__ = ["BaselineConfig"]

Kind = Literal["rnnlm", "ae", "vae", "dae", "dvae", "divae", "semivae", "gmvae", "dgmvae"]


class Form(NamedTuple):
    """What a baseline is made of: its row of ``FORMS``."""

    coded: bool = False
    """Whether there is a code."""
    continuous: bool = False
    """Whether there is a z."""
    variational: bool = True
    """Whether z is drawn, and not the encoder's mean alone."""
    density: bool = True
    """Whether a density is trained."""
    dispersion: float | None = None
    """beta of a mixture as published (dgmvae: on PTB); None: z has no mixture."""


FORMS: dict[Kind, Form] = {
    "rnnlm": Form(),
    "ae": Form(continuous=True, variational=False, density=False),
    "vae": Form(continuous=True),
    "dae": Form(coded=True, density=False),
    "dvae": Form(coded=True),
    "divae": Form(coded=True),
    "semivae": Form(coded=True, continuous=True),
    "gmvae": Form(coded=True, continuous=True, dispersion=1.0),
    "dgmvae": Form(coded=True, continuous=True, dispersion=0.2),
}


class BaselineConfig(Section):
    """A baseline of Yu et al. (2022), appendix B.2.

    Its code c has M variables of k values; its vector z has ``backbone.latent`` dimensions. The
    weights of I(x, c) and of the KL of z rise with the updates: ``backbone.kl_warmup``.
    """

    kind: Kind
    """Which baseline: RNN language model, autoencoder, VAE, their forms with a discrete code
    (dae, dvae, divae), or both code and vector (semivae, gmvae, dgmvae).
    """
    variables: int = Field(20, gt=0)
    """Number M of discrete variables in the code."""
    values: int = Field(5, ge=2)
    """Number k of values of each discrete variable."""
    information: bool = False
    """The "+ I(x, y)" form of Yu et al. (2022), appendix B.2: I(x, c) is left out of the KL, so
    that the code may hold more. For semivae, gmvae and dgmvae.
    """
    dispersion: float | None = Field(None, ge=0)
    """Weight beta of the dispersion term, for dgmvae; null: 0.2."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the Gumbel softmax in training."""

    @property
    def form(self) -> Form:
        """What it is made of."""
        return FORMS[self.kind]

    @property
    def coded(self) -> bool:
        """Whether there is a code."""
        return self.form.coded

    @property
    def continuous(self) -> bool:
        """Whether there is a z."""
        return self.form.continuous

    @property
    def encodes(self) -> bool:
        """Whether there is anything to encode, and so an encoder."""
        return self.coded or self.continuous

    @property
    def mixture(self) -> bool:
        """Whether z has a Gaussian for every value of every variable, and the decoder reads z."""
        return self.form.dispersion is not None

    @property
    def beta(self) -> float:
        """Weight of the dispersion term."""
        return (self.form.dispersion or 0.0) if self.dispersion is None else self.dispersion

    @model_validator(mode="after")
    def _own_keys(self) -> BaselineConfig:
        if self.information and not (self.coded and self.continuous):
            raise ValueError(
                f"information: kind {self.kind!r} has no such term; "
                "expected semivae, gmvae or dgmvae"
            )
        if self.dispersion is not None and self.kind != "dgmvae":
            raise ValueError(f"dispersion: expected kind 'dgmvae', got {self.kind!r}")
        return self
