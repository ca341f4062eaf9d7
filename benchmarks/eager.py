"""The same mathematics in plain PyTorch: what the fast code must equal, and how long that takes.

Padded batches through ``nn.GRU``, ``nn.Linear`` and cross entropy; Langevin steps by autograd with
the spectral norm folded at every step. Written from the equations, not from any public code.

Shapes: B batch, L length, D latent dimension, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.data.batches import TextBatch
from ldebm.nn.gru import PackedGRU
from ldebm.nn.text import TextVAE
from ldebm.priors import DiffusionPrior

__all__ = ["EagerVAE", "langevin"]


class EagerVAE(nn.Module):
    """The text VAE on padded batches, with the weights of ``model`` and without dropout.

    Args:
        model: whose parameters are copied.
    """

    def __init__(self, model: TextVAE) -> None:
        super().__init__()
        self.model, self.max_len = model, model.max_len
        layers = [model.encoder_forward, model.encoder_backward]
        self.encoder = _copy(layers, layers[0].input_size)
        decoder = model.decoder
        self.decoder = _copy([decoder], decoder.input_size + decoder.row_size)
        self.encoder_words = nn.Parameter(model.encoder_embedding.detach().clone())
        self.decoder_words = nn.Parameter(model.decoder_embedding.detach().clone())

    def encode(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance from a packed bidirectional ``nn.GRU``, each (B, D)."""
        tokens_LB = self.padded(batch)
        packed = nn.utils.rnn.pack_padded_sequence(
            F.embedding(tokens_LB, self.encoder_words), batch.lengths_B.cpu()
        )
        _, last = self.encoder(packed)
        state = F.leaky_relu(torch.cat([last[0], last[1]], -1), 0.01)
        state = batch.restore(state)
        mean: Tensor = self.model.mean(state)
        return mean, self.model.logvar(state)

    def reconstruction_nll(self, batch: TextBatch, z_BD: Tensor) -> Tensor:
        """-log p(x|z) with every position up to the longest allowed computed, (B,)."""
        tokens_LB = self.padded(batch)
        z = z_BD[batch.order_B]
        words = F.embedding(tokens_LB[:-1], self.decoder_words)
        inputs = torch.cat([words, z.expand(len(words), -1, -1)], -1)
        states, _ = self.decoder(inputs, self.model.initial(z)[None])
        logits = F.linear(states, self.decoder_words)
        nll = F.cross_entropy(
            logits.flatten(0, 1),
            tokens_LB[1:].flatten(),
            ignore_index=self.model.pad_id,
            reduction="none",
        )
        return batch.restore(nll.view(len(words), -1).sum(0))

    def padded(self, batch: TextBatch) -> Tensor:
        """Tokens of the sorted rows, padded to the longest length there may be, (L, B)."""
        padded = batch.tokens_N.new_full((self.max_len, len(batch)), self.model.pad_id)
        for step, tokens in enumerate(torch.split(batch.tokens_N, batch.batch_sizes)):
            padded[step, : len(tokens)] = tokens
        return padded


@torch.no_grad()
def _copy(layers: list[PackedGRU], inputs: int) -> nn.GRU:
    gru = nn.GRU(inputs, layers[0].hidden_size, bidirectional=len(layers) == 2)
    for layer, suffix in zip(layers, ("", "_reverse"), strict=False):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(gru, f"{name}_l0{suffix}").copy_(getattr(layer, name))
    return gru


def langevin(
    prior: DiffusionPrior, u_next_BD: Tensor, t_B: Tensor, generator: torch.Generator
) -> Tensor:
    """The unadjusted chain of ``prior``'s sampler, by autograd through the unfolded network."""
    mean, variance = prior.base_kernel(u_next_BD, t_B)
    temperature = prior.temperature_T(of_sampler=True)[t_B]
    step2 = prior.step2_T()[t_B].unsqueeze(-1)
    x = u_next_BD
    for _ in range(prior.config.sampler.steps):
        x = x.detach().requires_grad_()
        log_density = prior.negative_energy(x, t_B) / temperature
        log_density = log_density - 0.5 * ((x - mean).square() / variance).sum(-1)
        (gradient,) = torch.autograd.grad(log_density.sum(), x)
        noise = torch.randn(x.shape, generator=generator)
        x = x + 0.5 * step2 * gradient + step2.sqrt() * noise
    return x.detach()
