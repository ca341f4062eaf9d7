"""One encoder and decoder for all baselines: the GRU VAE with a code, a vector, both or neither.

A latent is [log-probabilities of the code's values; z]. The encoder gives log q(c|x) and the mean
of z, so that the most probable code of a sentence, its classes and its latent are one array; a
drawn code has log-probability 0 for its values. The decoder reads one-hot codes (mixtures: z).

Shapes: B rows, M variables, k values, D dimensions of z, R of what the decoder reads, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ldebm.baselines.codes import FLOOR
from ldebm.config import BackboneConfig, BaselineConfig
from ldebm.data.batches import TextBatch
from ldebm.nn.sentences import LOGVAR_LIMIT
from ldebm.nn.text import TextVAE

__all__ = ["Posterior", "TextBaseline"]


@dataclass(frozen=True)
class Posterior:
    """What the encoder says of a batch.

    Attributes:
        log_q_BMK: log q(c|x); ``None`` without code.
        mu_BD: mean of q(z|x); ``None`` without z.
        logvar_BD: its log-variance.
    """

    log_q_BMK: Tensor | None
    mu_BD: Tensor | None
    logvar_BD: Tensor | None


class TextBaseline(TextVAE):
    """A baseline of MR 7; arguments as :class:`ldebm.nn.text.TextVAE`.

    Attributes:
        baseline: its section of the parameters.
        latent: size of a latent: M k for the code and D for z; 1 where there is neither.
        code_size: M k, or 0.
        mixture_mean_MKD: means of the Gaussians of every value (mixtures).
        mixture_logvar_MKD: their log-variances.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        baseline = config.baseline
        if baseline is None:
            raise ValueError("a baseline needs its section of the parameters")
        code = baseline.variables * baseline.values if baseline.coded else 0
        read = config.latent + (0 if baseline.mixture else code)
        super().__init__(config, meta, generator, read=max(1, read))
        self.baseline: BaselineConfig = baseline
        self.code_size, self.vector_size = code, config.latent
        self.latent = max(1, code + config.latent)
        if baseline.mixture:
            with torch.no_grad():
                self.mixture_mean_MKD.normal_(generator=generator)
                self.mixture_logvar_MKD.normal_(generator=generator)

    def _add_encoder(self, config: BackboneConfig, vocabulary: int) -> None:
        if config.baseline is not None and config.baseline.kind != "rnnlm":
            super()._add_encoder(config, vocabulary)

    def _add_heads(self, config: BackboneConfig) -> None:
        baseline, width = config.baseline, 2 * config.hidden
        assert baseline is not None
        if baseline.continuous:
            self.mean = nn.Linear(width, config.latent)
        if baseline.continuous and baseline.kind != "ae":
            self.logvar = nn.Linear(width, config.latent)
        if baseline.coded:
            size = baseline.variables * baseline.values
            self.code: nn.Module = nn.Linear(width, size)
            if baseline.mixture:  # as published
                hidden = nn.Linear(width, width)
                self.code = nn.Sequential(hidden, nn.LeakyReLU(0.01), self.code)
        if baseline.mixture:
            shape = (baseline.variables, baseline.values, config.latent // baseline.variables)
            self.mixture_mean_MKD = nn.Parameter(torch.empty(shape))
            self.mixture_logvar_MKD = nn.Parameter(torch.empty(shape))

    # Encoder

    def posterior(self, batch: TextBatch) -> Posterior:
        """q(c|x) and q(z|x) of a batch."""
        baseline = self.baseline
        if baseline.kind == "rnnlm":
            return Posterior(None, None, None)
        state = self.encoder_state(batch)
        log_q = mu = logvar = None
        if baseline.coded:
            shape = (len(state), baseline.variables, baseline.values)
            log_q = torch.log_softmax(self.code(state).reshape(shape), -1)
        if baseline.continuous:
            mu = self.mean(state)
            logvar = torch.full_like(mu, -LOGVAR_LIMIT)
            if baseline.kind != "ae":
                logvar = self.logvar(state).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
        return Posterior(log_q, mu, logvar)

    def encode(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """The latent [log q(c|x); mean of z] and log-variances (of the code the least)."""
        found = self.posterior(batch)
        means, logvars = [], []
        if found.log_q_BMK is not None:
            means.append(found.log_q_BMK.flatten(1).clamp(min=FLOOR))
            logvars.append(torch.full_like(means[0], -LOGVAR_LIMIT))
        if found.mu_BD is not None and found.logvar_BD is not None:
            means.append(found.mu_BD)
            logvars.append(found.logvar_BD)
        if not means:
            zeros = self.decoder_embedding.new_zeros(len(batch), 1)
            return zeros, zeros - LOGVAR_LIMIT
        return torch.cat(means, -1), torch.cat(logvars, -1)

    @contextmanager
    def tables(self, *, bfloat16: bool = False) -> Iterator[None]:
        """As of :class:`ldebm.nn.text.TextVAE`; without an encoder there is nothing to look up."""
        if self.baseline.kind == "rnnlm":
            yield
        else:
            with super().tables(bfloat16=bfloat16):
                yield

    def code_log_probability(self, latent: Tensor) -> Tensor:
        """The code's part of latents, (..., M, k)."""
        shape = (*latent.shape[:-1], self.baseline.variables, self.baseline.values)
        return latent[..., : self.code_size].reshape(shape)

    # Decoder

    def read(self, latent: Tensor) -> Tensor:
        """What the decoder reads of latents: the most probable code, and z; (..., R)."""
        if self.baseline.mixture or not self.baseline.coded:
            return latent[..., self.code_size :]
        best = self.code_log_probability(latent).argmax(-1)
        one_hot = nn.functional.one_hot(best, self.baseline.values).to(latent.dtype).flatten(-2)
        return torch.cat([one_hot, latent[..., self.code_size :]], -1)

    def nll_of_read(self, batch: TextBatch, read_BR: Tensor) -> Tensor:
        """-log p(x) per row for what the decoder reads, such as relaxed codes, shape (B,)."""
        return super().reconstruction_nll(batch, read_BR)

    def reconstruction_nll(self, batch: TextBatch, z_BD: Tensor) -> Tensor:
        """-log p(x|latent) in nats per row, shape (B,)."""
        return self.nll_of_read(batch, self.read(z_BD))

    @torch.no_grad()
    def nll_matrix(self, batch: TextBatch, z_SBD: Tensor, *, bfloat16: bool = False) -> Tensor:
        """-log p(x_b | latent_sb), shape (S, B)."""
        return super().nll_matrix(batch, self.read(z_SBD), bfloat16=bfloat16)

    @torch.no_grad()
    def decode(
        self,
        z_BD: Tensor,
        mode: Literal["greedy", "sample"] = "greedy",
        generator: torch.Generator | None = None,
        max_len: int | None = None,
    ) -> list[list[int]]:
        """Writes one sentence per latent; arguments as of :class:`ldebm.nn.text.TextVAE`."""
        return super().decode(self.read(z_BD), mode, generator, max_len)
