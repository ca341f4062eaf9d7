"""One encoder and decoder for all baselines: a VAE with a code, a vector, both or neither.

Of sentences it is the GRU VAE, of responses the VAE given the turns before.

A latent is [log-probabilities of the code's values; z]. The encoder gives log q(c|x) and the mean
of z, so that the most probable code of a sentence, its classes and its latent are one array; a
drawn code has log-probability 0 for its values. The decoder reads one-hot codes (mixtures: z).

Shapes: B rows, M variables, k values, D dimensions of z, R of what the decoder reads, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldebm.backbones.dialogue import DialogueVAE
from ldebm.backbones.sentences import LOGVAR_LIMIT, SentenceVAE
from ldebm.backbones.text import TextVAE
from ldebm.baselines.codes import FLOOR, of_variables
from ldebm.config import BackboneConfig, BaselineConfig
from ldebm.data.batches import TextBatch

__all__ = ["Baseline", "CodePosterior", "DialogueBaseline", "TextBaseline"]


@dataclass(frozen=True)
class CodePosterior:
    """What the encoder says of a batch.

    Attributes:
        log_q_BMK: log q(c|x); ``None`` without code.
        mu_BD: mean of q(z|x); ``None`` without z.
        logvar_BD: its log-variance.
    """

    log_q_BMK: Tensor | None
    mu_BD: Tensor | None
    logvar_BD: Tensor | None


class Baseline(SentenceVAE):
    """What makes a baseline (docs/method.md, section 7) of a model of sentences.

    Mixed in before its class.

    Args:
        config: the model's, with a section ``baseline``.
        meta: of the packed data.
        generator: initial weights.

    Attributes:
        baseline: its section of the parameters.
        latent: size of a latent: M k for the code and D for z; 1 where there is neither.
        code_size: M k, or 0.
        vector_size: D, or 0.
        mixture_mean_MKD: means of the Gaussians of every value (mixtures).
        mixture_logvar_MKD: their log-variances.
    """

    decoder_embedding: nn.Parameter

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, meta, generator)  # type: ignore[call-arg]  # of the other class
        baseline = _section(config)
        self.baseline, self.code_size = baseline, _code_size(baseline)
        self.vector_size = config.latent
        self.latent = max(1, self.code_size + config.latent)
        if baseline.mixture:
            with torch.no_grad():
                self.mixture_mean_MKD.normal_(generator=generator)
                self.mixture_logvar_MKD.normal_(generator=generator)

    def read_size(self, config: BackboneConfig) -> int:
        baseline = _section(config)
        return max(1, config.latent + (0 if baseline.mixture else _code_size(baseline)))

    def _add_heads(self, features: int, config: BackboneConfig) -> None:
        baseline = _section(config)
        if baseline.continuous:
            self.mean = nn.Linear(features, config.latent)
        if baseline.continuous and baseline.form.variational:
            self.logvar = nn.Linear(features, config.latent)
        if baseline.coded:
            size = baseline.variables * baseline.values
            self.code: nn.Module = nn.Linear(features, size)
            if baseline.mixture:  # as published
                hidden = nn.Linear(features, features)
                self.code = nn.Sequential(hidden, nn.LeakyReLU(0.01), self.code)
        if baseline.mixture:
            shape = (baseline.variables, baseline.values, config.latent // baseline.variables)
            self.mixture_mean_MKD = nn.Parameter(torch.empty(shape))
            self.mixture_logvar_MKD = nn.Parameter(torch.empty(shape))

    # Encoder

    def posterior(self, batch: TextBatch) -> CodePosterior:
        """q(c|x) and q(z|x) of a batch."""
        baseline = self.baseline
        if not baseline.encodes:
            return CodePosterior(None, None, None)
        state = self.encoder_state(batch)
        log_q = mu = logvar = None
        if baseline.coded:
            logits = of_variables(self.code(state), baseline.variables, baseline.values)
            log_q = torch.log_softmax(logits, -1)
        if baseline.continuous:
            mu = self.mean(state)
            logvar = torch.full_like(mu, -LOGVAR_LIMIT)
            if baseline.form.variational:
                logvar = self.logvar(state).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
        return CodePosterior(log_q, mu, logvar)

    def encode(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """The latent [log q(c|x); mean of z] and log-variances (of the code the least)."""
        posterior = self.posterior(batch)
        means, logvars = [], []
        if posterior.log_q_BMK is not None:
            means.append(posterior.log_q_BMK.flatten(1).clamp(min=FLOOR))
            logvars.append(torch.full_like(means[0], -LOGVAR_LIMIT))
        if posterior.mu_BD is not None and posterior.logvar_BD is not None:
            means.append(posterior.mu_BD)
            logvars.append(posterior.logvar_BD)
        if not means:
            zeros = self.decoder_embedding.new_zeros(len(batch), 1)
            return zeros, zeros - LOGVAR_LIMIT
        return torch.cat(means, -1), torch.cat(logvars, -1)

    @contextmanager
    def tables(self, *, bfloat16: bool = False) -> Iterator[None]:
        """As of ``TextVAE``; without an encoder there is nothing to look up."""
        with super().tables(bfloat16=bfloat16) if self.baseline.encodes else nullcontext():
            yield

    # Decoder

    def read(self, latent: Tensor) -> Tensor:
        """What the decoder reads of latents: the most probable code, and z; (..., R)."""
        if self.baseline.mixture or not self.baseline.coded:
            return latent[..., self.code_size :]
        values, code = self.baseline.values, latent[..., : self.code_size]
        best = of_variables(code, self.baseline.variables, values).argmax(-1)
        one_hot = nn.functional.one_hot(best, values).to(latent.dtype).flatten(-2)
        return torch.cat([one_hot, latent[..., self.code_size :]], -1)


class TextBaseline(Baseline, TextVAE):
    """A baseline of sentences alone."""

    def _add_encoder(self, config: BackboneConfig, vocabulary: int) -> None:
        if _section(config).encodes:
            super()._add_encoder(config, vocabulary)


class DialogueBaseline(Baseline, DialogueVAE):
    """A baseline of responses: encoder and decoder of the other models of responses.

    docs/method.md, sections 6.4 and 7.

    Code and vector are of the response and its context, and the decoder reads both and the context.
    """

    def _add_encoder(self, config: BackboneConfig, vocabulary: int) -> None:
        if _section(config).encodes:
            super()._add_encoder(config, vocabulary)
        else:  # which still reads contexts
            self.encoder_embedding = nn.Parameter(torch.empty(vocabulary, config.embed))


def _section(config: BackboneConfig) -> BaselineConfig:
    if config.baseline is None:
        raise ValueError("a baseline needs its section of the parameters")
    return config.baseline


def _code_size(baseline: BaselineConfig) -> int:
    return baseline.variables * baseline.values if baseline.coded else 0
