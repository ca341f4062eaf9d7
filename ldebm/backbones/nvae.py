"""NVAE: a deep hierarchical VAE with convolutional groups (Vahdat and Kautz 2020).

docs/method.md, sections 2.6 and 6.7.

The encoder runs bottom-up through residual cells and keeps its features at every group. The
decoder starts from a learned map and runs top-down: cells, prior of the group from its state, group
taken in, and twice the size after every scale. The posterior is relative to the prior, from the
encoder's features and the decoder's state; flows may follow it.

Shapes: B batch, C channels, G groups, g = 0 at the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.hierarchical import Gaussian, Group, HierarchicalBackbone, Pick, full
from ldebm.backbones.nvae_cells import Cell, NormConv, run_cell
from ldebm.backbones.nvae_flow import FlowPair
from ldebm.backbones.nvae_spectral import SpectralPenalty
from ldebm.config import BackboneConfig
from ldebm.errors import UsageError
from ldebm.nn.logistic import build_likelihood

__all__ = ["NVAE"]

CLAMP = 5.0
MIN_SIGMA = 1e-2  # added to every sigma: that of the top group's prior is 1.01
DECODER_EXPANSION, LAST_EXPANSION = 6, 3


@dataclass(frozen=True)
class SoftGaussian(Gaussian):
    """A Gaussian whose raw mean and log sigma were softly clamped to [-5, 5].

    Attributes:
        raw: (B, 2 Z, H, W), to which a residual posterior adds.
    """

    raw: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> SoftGaussian:
        """mu = 5 tanh(m / 5), sigma = exp(5 tanh(r / 5)) + 0.01."""
        mu, log_sigma = (CLAMP * torch.tanh(raw / CLAMP)).chunk(2, dim=1)
        return cls(mu, log_sigma.exp() + MIN_SIGMA, raw)


class NVAE(HierarchicalBackbone):
    """NVAE.

    Args:
        config: with section ``nvae``.
        meta: the images' ``size`` and ``channels``.
        generator: initial weights.

    Raises:
        UsageError: the image cannot be halved so often, or channels are too few.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        section = config.nvae
        assert section is not None
        self.section = section
        size, colours = int(meta["size"]) + 2 * section.pad, int(meta["channels"])
        self.likelihood = build_likelihood(section, colours)
        scales = section.scales
        halvings = section.blocks + scales - 1
        if size % 2**halvings:
            raise UsageError(
                f"images of {meta['size']} pixels: nvae with {section.blocks} block(s) and "
                f"{scales} scale(s) halves them {halvings} times; set nvae.pad or size of the data"
            )
        # Channels and size of the maps of every scale, top first.
        width = [section.channels * 2 ** (halvings - s) for s in range(scales)]
        side = [size // 2 ** (halvings - s) for s in range(scales)]
        self.scale_of = [s for s, count in enumerate(section.groups) for _ in range(count)]
        self.groups = tuple(Group((section.latents, side[s], side[s])) for s in self.scale_of)
        self.latent = sum(group.size for group in self.groups)
        self.has_flows = section.flows > 0
        self.kl_start = section.kl_start
        self.kl_share = _kl_share(section.groups) if section.kl_balance else None
        self._build_encoder(colours, width)
        self._build_decoder(width, side[0])
        self._build_distributions(width)
        self.spectral = SpectralPenalty(self.modules())
        self._initialise(generator)
        # Depthwise convolutions on CPU take a little over half the time in this layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _cells(
        self, count: int, channels: int, expansion: int | None, *directions: str
    ) -> nn.ModuleList:
        squeeze = self.section.squeeze_excitation
        steps: list[Any] = [*directions] or ["same"] * count
        cells = []
        for direction in steps:
            cells.append(Cell(channels, direction, expansion, squeeze=squeeze))
            channels = {"same": channels, "down": 2 * channels, "up": channels // 2}[direction]
        return nn.ModuleList(cells)

    def _build_encoder(self, colours: int, width: list[int]) -> None:
        section = self.section
        self.stem = NormConv(colours, section.channels, 3)
        down = [*["same"] * (section.cells - 1), "down"] * section.blocks
        self.pre = self._cells(0, section.channels, None, *down) if down else nn.ModuleList()
        per_group = section.cells_per_group
        self.encoder = nn.ModuleList(self._cells(per_group, width[s], None) for s in self.scale_of)
        # From a scale to the next one above it, in the order of the scales, top first.
        self.shrink = nn.ModuleList(
            self._cells(1, width[s], None, "down")[0] for s in range(1, section.scales)
        )
        self.top = NormConv(width[0], width[0])

    def _build_decoder(self, width: list[int], side: int) -> None:
        section = self.section
        self.start = nn.Parameter(torch.zeros(width[0], side, side))
        per_group = section.cells_per_group
        self.decoder = nn.ModuleList(
            self._cells(per_group, width[s], DECODER_EXPANSION) for s in self.scale_of[1:]
        )
        self.take = nn.ModuleList(
            NormConv(width[s] + section.latents, width[s]) for s in self.scale_of
        )
        self.grow = nn.ModuleList(
            self._cells(1, width[s], DECODER_EXPANSION, "up")[0] for s in range(section.scales - 1)
        )
        up = ["up", *["same"] * (section.cells - 1)] * section.blocks
        self.post = self._cells(0, width[-1], LAST_EXPANSION, *up) if up else nn.ModuleList()
        self.head = NormConv(section.channels, self.likelihood.channels, 3)

    def _build_distributions(self, width: list[int]) -> None:
        latents, scale_of = self.section.latents, self.scale_of
        self.look = nn.ModuleList(NormConv(width[s], width[s]) for s in scale_of[1:])
        self.to_posterior = nn.ModuleList(NormConv(width[s], 2 * latents, 3) for s in scale_of)
        self.to_prior = nn.ModuleList(NormConv(width[s], 2 * latents) for s in scale_of[1:])
        self.flows = nn.ModuleList(
            nn.ModuleList(FlowPair(latents) for _ in range(self.section.flows)) for _ in scale_of
        )

    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in (module.weight, module.bias):
                    if parameter is not None:
                        nn.init.uniform_(parameter, -bound, bound, generator=generator)
        nn.init.uniform_(self.start, generator=generator)
        for module in self.modules():
            if isinstance(module, NormConv):
                module.reset_norm()
        for module in self.modules():
            if isinstance(module, FlowPair):
                module.reset_norm()

    def _run(self, cell: nn.Module, x: Tensor) -> Tensor:
        return run_cell(cell, x, recompute=self.section.checkpointing)

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        pad = self.section.pad
        x = F.pad(x_BCHW, (pad, pad, pad, pad), value=-1.0) if pad else x_BCHW
        state = self.stem(x)
        for cell in self.pre:
            state = self._run(cell, state)
        states: list[Tensor] = []
        for g in reversed(range(len(self.groups))):
            cells = self.encoder[g]
            assert isinstance(cells, nn.ModuleList)
            for cell in cells:
                state = self._run(cell, state)
            states.append(state)
            if g and self.scale_of[g - 1] < self.scale_of[g]:
                state = self._run(self.shrink[self.scale_of[g] - 1], state)
        states[-1] = F.elu(self.top(F.elu(states[-1])))
        return states[::-1]

    def descend(self, pick: Pick, rows: int, *, finish: bool) -> Tensor:
        state = self.start.expand(rows, *self.start.shape)
        last = len(self.groups) - 1
        for g, scale in enumerate(self.scale_of):
            if g:
                if self.scale_of[g - 1] < scale:
                    state = self._run(self.grow[scale - 1], state)
                cells = self.decoder[g - 1]
                assert isinstance(cells, nn.ModuleList)
                for cell in cells:
                    state = self._run(cell, state)
            z = pick(g, self._prior(g, state), state)
            if g == last and not finish:
                return state
            state = self.take[g](torch.cat([state, z], dim=1))
        return state

    def _prior(self, g: int, state: Tensor) -> SoftGaussian:
        if g == 0:
            shape = (len(state), 2 * self.section.latents, *state.shape[2:])
            return SoftGaussian.of(state.new_zeros(shape))
        return SoftGaussian.of(full(self.to_prior[g - 1](F.elu(state))))

    def posterior_of(
        self, g: int, feature: Tensor, prior: Gaussian, state: Tensor
    ) -> tuple[Gaussian, Tensor]:
        assert isinstance(prior, SoftGaussian)
        seen = feature if g == 0 else feature + self.look[g - 1](state)
        raw = full(self.to_posterior[g](seen))
        residual = self.section.residual_posterior
        return SoftGaussian.of(prior.raw + raw if residual else raw), seen

    def flow(self, g: int, z: Tensor, feature: Tensor) -> Tensor:
        pairs = self.flows[g]
        assert isinstance(pairs, nn.ModuleList)
        for pair in pairs:
            z = full(self._run(pair, z))
        return z

    def pixels(self, state: Tensor) -> Tensor:
        for cell in self.post:
            state = self._run(cell, state)
        parameters: Tensor = self.head(F.elu(state))
        pad = self.section.pad
        return parameters[:, :, pad:-pad, pad:-pad] if pad else parameters

    def load_initial(self) -> None:
        if self.section.published is not None:
            from ldebm.backbones.nvae_keys import load_published

            load_published(self, self.section.published, self.section)

    def penalty(self, progress: float) -> Tensor | None:
        section = self.section
        if not section.spectral:
            return None
        weight = section.spectral
        if section.spectral_init is not None:
            weight *= (section.spectral_init / section.spectral) ** (1 - progress)
        return weight * self.spectral()

    def training_state(self) -> dict[str, Tensor]:
        return dict(self.spectral.vectors)

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.spectral.vectors = dict(state)

    @torch.no_grad()
    def settle(self, batch: Callable[[int], Tensor], noise: Callable[[int], Tensor]) -> None:
        """Estimates the statistics of batch norms anew, with the weights that are kept.

        The published way runs the prior only (``bn_readjust: prior``): it settles
        the decoder. ``data`` runs encoder and decoder on training images.
        """
        way = self.section.bn_readjust
        if way == "none":
            return
        self.train()
        for step in range(self.section.bn_passes):
            if way == "prior":
                self.pixel_parameters(noise(step))
            else:
                x = batch(step)
                self.draw_and_nll(x, noise(step)[: len(x)])
        self.eval()


def _kl_share(groups: list[int]) -> Tensor:
    """alpha_g of the balance: proportional to a group's area over the groups of its scale."""
    share = [4.0**s / count for s, count in enumerate(groups) for _ in range(count)]
    return torch.tensor(share) / min(share)
