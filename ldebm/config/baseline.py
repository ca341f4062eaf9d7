"""The section ``backbone.baseline``: which baseline, and its code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ldebm.config.sections import Section

__all__ = ["BaselineConfig"]

Kind = Literal["rnnlm", "ae", "vae", "dae", "dvae", "divae", "semivae", "gmvae", "dgmvae"]
DISPERSION = {"gmvae": 1.0, "dgmvae": 0.2}  # beta, as published (dgmvae: on PTB)


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
    def coded(self) -> bool:
        """Whether there is a code."""
        return self.kind not in ("rnnlm", "ae", "vae")

    @property
    def continuous(self) -> bool:
        """Whether there is a z."""
        return self.kind not in ("rnnlm", "dae", "dvae", "divae")

    @property
    def mixture(self) -> bool:
        """Whether z has a Gaussian for every value of every variable, and the decoder reads z."""
        return self.kind in DISPERSION

    @property
    def beta(self) -> float:
        """Weight of the dispersion term."""
        return DISPERSION[self.kind] if self.dispersion is None else self.dispersion

    @model_validator(mode="after")
    def _own_keys(self) -> BaselineConfig:
        if self.information and self.kind not in ("semivae", "gmvae", "dgmvae"):
            raise ValueError(
                f"information: kind {self.kind!r} has no such term; "
                "expected semivae, gmvae or dgmvae"
            )
        if self.dispersion is not None and self.kind != "dgmvae":
            raise ValueError(f"dispersion: expected kind 'dgmvae', got {self.kind!r}")
        return self
