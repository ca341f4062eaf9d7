"""The published procedure in plain PyTorch: what the fast code is compared with, in the same run.

Padded batches through ``nn.GRU``, every position projected to the whole vocabulary; energies whose
spectral norm is frozen at every call, and Langevin steps by autograd; sentences written for as many
steps as the longest may have; 500 samples of a sentence encoded and decoded one by one. Written
from the equations (Yu et al. 2022, Pang and Wu 2021), after the procedure of their public code; no
code of theirs is used.

Shapes: B batch, L length, D latent dimension, V vocabulary, K classes, T levels, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.text import TextVAE
from ldebm.data.batches import TextBatch
from ldebm.nn.gru import PackedGRU
from ldebm.priors import DiffusionPrior, Pairs
from ldebm.priors.energy_net import EnergyNet, SpectralLinear
from ldebm.training.objectives import batch_information, masked_entropy

__all__ = ["EagerEnergy", "EagerLDEBM", "EagerVAE"]

SAMPLES_AT_ONCE = 100  # of the likelihood


class EagerVAE(nn.Module):
    """The text VAE on padded batches, with a copy of the parameters of ``model``.

    Args:
        model: whose parameters are copied.
    """

    def __init__(self, model: TextVAE) -> None:
        super().__init__()
        self.max_len, self.pad_id, self.eos_id = model.max_len, model.pad_id, model.eos_id
        self.bos_id, self.dropout = model.bos_id, model.dropout
        layers = [model.encoder_forward, model.encoder_backward]
        self.encoder = _copy(layers, layers[0].input_size)
        decoder = model.decoder
        self.decoder = _copy([decoder], decoder.input_size + decoder.row_size)
        self.encoder_words = nn.Parameter(model.encoder_embedding.detach().clone())
        self.decoder_words = nn.Parameter(model.decoder_embedding.detach().clone())
        self.mean, self.logvar = _linear(model.mean), _linear(model.logvar)
        self.initial = _linear(model.initial)

    def padded(self, batch: TextBatch) -> Tensor:
        """Tokens in the order asked for, padded to the longest length there may be, (L, B)."""
        padded = batch.tokens_N.new_full((self.max_len, len(batch)), self.pad_id)
        for step, tokens in enumerate(torch.split(batch.tokens_N, batch.batch_sizes)):
            padded[step, : len(tokens)] = tokens
        return batch.restore(padded, 1)

    def encode(self, tokens_LB: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, D).

        Args:
            tokens_LB: padded tokens.
            lengths_B: of the rows; without them padding is read, as published.
        """
        words = F.embedding(tokens_LB, self.encoder_words)
        if lengths_B is None:
            _, last = self.encoder(words)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(words, lengths_B, enforce_sorted=False)
            _, last = self.encoder(packed)
        state = F.leaky_relu(torch.cat([last[0], last[1]], -1), 0.01)
        return self.mean(state), self.logvar(state)

    def nll(self, tokens_LB: Tensor, z_BD: Tensor) -> Tensor:
        """-log p(x|z) with every position projected to the vocabulary, (B,)."""
        words = self._drop(F.embedding(tokens_LB[:-1], self.decoder_words))
        inputs = torch.cat([words, z_BD.expand(len(words), -1, -1)], -1)
        states, _ = self.decoder(inputs, self.initial(z_BD)[None])
        log_p = F.log_softmax(F.linear(self._drop(states), self.decoder_words), -1)
        nll = F.nll_loss(
            log_p.flatten(0, 1),
            tokens_LB[1:].flatten(),
            ignore_index=self.pad_id,
            reduction="none",
        )
        return nll.view(len(words), -1).sum(0)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    @torch.no_grad()
    def nll_samples(self, tokens_L: Tensor, noise_SD: Tensor) -> Tensor:
        """-log p(x|z) of one sentence at S posterior samples, (S,): encoded anew for each."""
        parts = []
        for noise in torch.split(noise_SD, SAMPLES_AT_ONCE):
            copies = tokens_L[:, None].repeat(1, len(noise))
            mu, logvar = self.encode(copies)
            parts.append(self.nll(copies, mu + (0.5 * logvar).exp() * noise))
        return torch.cat(parts)

    def features(self, batches: Iterable[Tensor]) -> Tensor:
        """Posterior means of padded batches, with the graph of autograd, as published."""
        return torch.cat([self.encode(tokens_LB)[0].detach() for tokens_LB in batches])

    @torch.no_grad()
    def write(self, z_BD: Tensor) -> list[list[int]]:
        """The most probable words: all of the vocabulary at every one of the steps there may be."""
        state = self.initial(z_BD)[None]
        word = torch.full((len(z_BD),), self.bos_id)
        columns = []
        for _ in range(self.max_len - 2):
            inputs = torch.cat([F.embedding(word, self.decoder_words), z_BD], -1)
            output, state = self.decoder(inputs[None], state)
            log_p = F.log_softmax(F.linear(output[0], self.decoder_words), -1)
            log_p[:, [self.pad_id, self.bos_id]] = -torch.inf
            word = log_p.argmax(-1)
            columns.append(word)
        rows = torch.stack(columns, 1).tolist()
        return [row[: row.index(self.eos_id)] if self.eos_id in row else row for row in rows]


class EagerEnergy(nn.Module):
    """f(z, t) of Table A1 of Yu et al. (2022), with a copy of the parameters of ``net``.

    Every linear layer has PyTorch's own spectral norm, which is computed at every call.

    Args:
        net: a residual network with leaky ReLU.
    """

    def __init__(self, net: EnergyNet) -> None:
        super().__init__()
        self.register_buffer("times_TH", net.time_TH.clone())
        self.times_TH: Tensor
        self.input = nn.Sequential(
            _spectral(net.input), nn.LeakyReLU(0.2), _spectral(net.input2), nn.LeakyReLU(0.2)
        )
        self.time = nn.Sequential(
            _spectral(net.time1), nn.LeakyReLU(0.2), _spectral(net.time2), nn.LeakyReLU(0.2)
        )
        self.merge = _spectral(net.merge)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.2), _spectral(block))
            for block in net.blocks
            if isinstance(block, SpectralLinear)
        )
        self.output = nn.Sequential(nn.LeakyReLU(0.2), _spectral(net.output))

    def forward(self, z_BD: Tensor, t_B: Tensor) -> Tensor:
        """Logits, (B, K)."""
        both = torch.cat([self.input(z_BD), self.time(self.times_TH[t_B])], -1)
        h = self.merge(both)
        for block in self.blocks:
            h = h + block(h)
        logits: Tensor = self.output(h)
        return logits

    def value(self, z_BD: Tensor, t_B: Tensor) -> Tensor:
        """F(z, t), (B,)."""
        return torch.logsumexp(self(z_BD, t_B), -1)


class EagerLDEBM:
    """VAE and diffusion prior with copies of their parameters; the published sampler and loss.

    Args:
        model: the VAE.
        prior: published density, sampler and choice of levels.
        mask: threshold of the entropy term; ``None``: none.
    """

    def __init__(self, model: TextVAE, prior: DiffusionPrior, mask: float | None = None) -> None:
        assert isinstance(prior.net, EnergyNet)
        self.vae, self.energy = EagerVAE(model), EagerEnergy(prior.net)
        self.mask = mask
        self.prior = prior  # of which schedules and pairs alone are asked

    def chain(self, u_BD: Tensor, t_B: Tensor, stream: torch.Generator) -> Tensor:
        """The unadjusted chains of u_t given u_{t+1} (eq. A2), by autograd, (B, D)."""
        prior = self.prior
        self.energy.requires_grad_(requires_grad=False)
        mean, variance = prior.base_kernel(u_BD, t_B)
        temperature = prior.temperature_T(of_sampler=True)[t_B]
        step2 = prior.step2_T()[t_B].unsqueeze(-1)
        x = u_BD.detach()
        for _ in range(self.prior.config.sampler.steps):
            x = x.detach().requires_grad_()
            log_density = self.energy.value(x, t_B) / temperature
            log_density = log_density - 0.5 * ((x - mean).square() / variance).sum(-1)
            (gradient,) = torch.autograd.grad(log_density.sum(), x)
            noise = torch.randn(x.shape, generator=stream)
            x = x + 0.5 * step2 * gradient + step2.sqrt() * noise
        self.energy.requires_grad_(requires_grad=True)
        return x.detach()

    def sample(self, count: int, stream: torch.Generator) -> Tensor:
        """Latents: chains of all levels, from the top down, (B, D)."""
        u = torch.randn(count, self.prior.latent, generator=stream)
        for t in reversed(range(self.prior.levels)):
            t_B = torch.full((count,), t)
            u = self.chain(u, t_B, stream) / float(self.prior.schedule.scale[t + 1])
        return u

    def loss(
        self,
        tokens_LB: Tensor,
        labels_B: Tensor,
        noise_BD: Tensor,
        stream: torch.Generator,
        lengths_B: Tensor | None = None,
    ) -> Tensor:
        """The loss of a joint update (Yu et al. 2022, A15 to A21), a scalar.

        Reconstruction, entropy and prior terms for the encoder, contrast for the prior, information
        and classes for both. A level below the top at random and the top have chains of their own.

        Args:
            tokens_LB: padded tokens.
            labels_B: classes.
            noise_BD: of the posterior sample.
            stream: source of all other noise.
            lengths_B: as in :meth:`EagerVAE.encode`.
        """
        mu, logvar = self.vae.encode(tokens_LB, lengths_B)
        z = mu + (0.5 * logvar).exp() * noise_BD
        nll = self.vae.nll(tokens_LB, z).mean()
        u0 = self.prior.level_zero(z, stream)
        pairs = self.prior.pairs(u0, stream)
        weight, t, v = pairs.weight_B, pairs.t_B, pairs.v_BD
        self.energy.requires_grad_(requires_grad=False)
        encoder = -_mean(weight * self.energy.value(v, t), len(z))
        self.energy.requires_grad_(requires_grad=True)
        top = (t == self.prior.levels - 1).to(v.dtype)
        variance = self.prior.kernel_tables()[1][-1]
        pull = _mean(0.5 * v.square().sum(-1) / variance * top * weight, len(z))
        negative = self.negative(pairs, len(z), stream)
        gap = self.energy.value(negative, t) - self.energy.value(v.detach(), t)
        contrast = _mean(weight * gap, len(z))
        logits = self.energy(self.prior.scale_zero() * u0, torch.zeros_like(labels_B))
        config = self.prior.config
        rate = masked_entropy(logvar, self.mask).mean() + pull + encoder
        total: Tensor = nll + config.kl_weight * (rate + contrast)
        total = total - config.mi_weight * batch_information(logits)
        return total + config.class_weight * F.cross_entropy(logits, labels_B)

    def negative(self, pairs: Pairs, batch: int, stream: torch.Generator) -> Tensor:
        """The chains of a batch: first of the levels at random, then of the top, (2 B, D)."""
        u, t = pairs.u_next_BD.detach(), pairs.t_B
        parts = (slice(0, batch), slice(batch, None))
        return torch.cat([self.chain(u[part], t[part], stream) for part in parts])


def _mean(value_R: Tensor, batch: int) -> Tensor:
    """Of one batch: a level at random and the top both count."""
    return value_R.sum() / batch


def _linear(layer: nn.Linear) -> nn.Linear:
    """A copy."""
    copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    copy.load_state_dict(layer.state_dict())
    return copy


@torch.no_grad()
def _spectral(layer: SpectralLinear) -> nn.Module:
    """A copy under PyTorch's spectral norm, with the same singular vectors."""
    copy = nn.Linear(layer.weight.shape[1], len(layer.weight))
    copy.weight.copy_(layer.weight)
    copy.bias.copy_(layer.bias)
    normed = nn.utils.spectral_norm(copy)
    for name, vector in (("weight_u", layer.u), ("weight_v", layer.v)):
        normed.get_buffer(name).copy_(vector)
    return normed


@torch.no_grad()
def _copy(layers: list[PackedGRU], inputs: int) -> nn.GRU:
    gru = nn.GRU(inputs, layers[0].hidden_size, bidirectional=len(layers) == 2)
    for layer, suffix in zip(layers, ("", "_reverse"), strict=False):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(gru, f"{name}_l0{suffix}").copy_(getattr(layer, name))
    return gru
