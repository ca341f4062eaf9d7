"""A hierarchical VAE of a few groups, dense or convolutional.

The 3-layer backbone of Cui and Han (2024), figure 8, of which no architecture is given.

The encoder halves the image and keeps its features at every size. The decoder goes back from the
smallest size to half the image, takes in a group of latent variables where the configuration has
one, and a last convolution writes four pixels for each place. Priors and posteriors are NVAE's:
p(z_g | z_<g) from the decoder's state, q(z_g | x, z_<g) relative to it. No layer normalises, so
that an image's latents do not depend on its batch.

Shapes: B batch, G groups, W channels of a size, N hidden units of the dense part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.backbones.hierarchical import Gaussian, Group, HierarchicalBackbone, Pick, full
from ldebm.config import BackboneConfig, LayerConfig
from ldebm.errors import UsageError
from ldebm.nn.convolution import Convolution
from ldebm.nn.functional import silu
from ldebm.nn.logistic import build_likelihood

__all__ = ["HVAE"]

PRIOR_LIMIT = 3.0  # of log sigma_g: T stays invertible in float32
POSTERIOR_LIMIT = 6.0


class HVAE(HierarchicalBackbone):
    """A hierarchical VAE.

    Args:
        config: with section ``hvae``.
        meta: the images' ``size`` and ``channels``.
        generator: initial weights.

    Raises:
        UsageError: a group's size is none that the image is halved to, or groups are out of order.
    """

    def __init__(
        self,
        config: BackboneConfig,
        meta: Mapping[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        section = config.hvae
        assert section is not None
        size, colours = int(meta["size"]), int(meta["channels"])
        self.likelihood = build_likelihood(section, colours)
        self.sizes = _sizes(size, len(section.widths))
        self.groups, self.levels = _groups(section.layers, self.sizes)
        self.latent = sum(group.size for group in self.groups)
        self.kl_free = torch.tensor(section.free_nats) if section.free_nats else None
        widths, hidden = section.widths, section.hidden
        self.dense = sum(level is None for level in self.levels)
        self.encoder = _Encoder(colours, widths, section.blocks)
        smallest = (widths[-1], self.sizes[-1], self.sizes[-1])
        start = (hidden,) if self.dense else smallest
        self.start = nn.Parameter(torch.zeros(start))
        self.cells = nn.ModuleList(
            _Cell(group, hidden if level is None else widths[level], top=g == 0)
            for g, (group, level) in enumerate(zip(self.groups, self.levels, strict=True))
        )
        flat = math.prod(smallest)
        self.fold = nn.Linear(flat, hidden) if self.dense else None
        self.unfold = nn.Linear(hidden, flat) if self.dense else None
        self.smallest = smallest
        # Stages of the decoder, smallest size first: blocks, then the way to the next size.
        order = list(reversed(range(len(widths))))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Block(widths[k]) for _ in range(section.blocks))) for k in order
        )
        self.rise = nn.ModuleList(Convolution(widths[k], widths[k - 1], 1) for k in order[:-1])
        self.head = Convolution(widths[0], 4 * self.likelihood.channels, 3, padding=1)
        _initialise(self, generator)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        maps = self.encoder(x_BCHW)
        vector = maps[-1] if self.fold is None else self.fold(silu(maps[-1]).flatten(1))
        return [vector if level is None else maps[level] for level in self.levels]

    def descend(self, pick: Pick, rows: int, *, finish: bool) -> Tensor:
        state: Tensor = self.start.expand(rows, *self.start.shape)
        last = len(self.groups) - 1
        for g in range(self.dense):
            z = pick(g, self._cell(g).prior(state), state)
            if g == last and not finish:
                return state
            state = self._cell(g)(state, z)
        if self.unfold is not None:
            state = self.unfold(silu(state)).reshape(rows, *self.smallest)
        count = len(self.sizes)
        for stage, blocks in enumerate(self.blocks):
            level = count - 1 - stage
            state = blocks(state)
            for g in range(self.dense, last + 1):
                if self.levels[g] == level:
                    z = pick(g, self._cell(g).prior(state), state)
                    if g == last and not finish:
                        return state
                    state = self._cell(g)(state, z)
            if level:
                wide = self.rise[stage](state)
                state = F.interpolate(wide, size=self.sizes[level - 1], mode="nearest")
        return state

    def _cell(self, g: int) -> _Cell:
        cell = self.cells[g]
        assert isinstance(cell, _Cell)
        return cell

    def posterior_of(
        self, g: int, feature: Tensor, prior: Gaussian, state: Tensor
    ) -> tuple[Gaussian, Tensor]:
        return self._cell(g).posterior(feature, state, prior), feature

    def pixels(self, state: Tensor) -> Tensor:
        return F.pixel_shuffle(self.head(silu(state)), 2)


class _Encoder(nn.Module):
    """Features of the image at every halved size, largest first."""

    def __init__(self, colours: int, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.halve = nn.ModuleList(
            Convolution(before, after, 4 if k == 0 else 3, stride=2, padding=1)
            for k, (before, after) in enumerate(pairwise([colours, *widths]))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Block(width) for _ in range(blocks))) for width in widths
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for k, (halve, blocks) in enumerate(zip(self.halve, self.blocks, strict=True)):
            x = blocks(halve(x if k == 0 else silu(x)))
            maps.append(x)
        return maps


class _Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Convolution(width, width, 3, padding=1)
        self.second = Convolution(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(silu(self.first(silu(x))))
        return x + added


class _Cell(nn.Module):
    """One group: its prior, its posterior, and how the decoder takes it in."""

    def __init__(self, group: Group, width: int, *, top: bool) -> None:
        super().__init__()
        dense = len(group.shape) == 1
        variables = group.shape[0]
        self.is_dense = dense

        def layer(inputs: int, outputs: int, kernel: int = 1) -> nn.Module:
            if dense:
                return nn.Linear(inputs, outputs)
            return Convolution(inputs, outputs, kernel, padding=kernel // 2)

        self.shape = group.shape
        self.to_prior = None if top else layer(width, 2 * variables)
        self.look = layer(2 * width, width, 3)
        self.to_posterior = layer(width, 2 * variables)
        self.take = layer(variables, width, 3)
        self.mix = layer(width, width)
        self.out = layer(width, width)

    def prior(self, state: Tensor) -> Gaussian:
        """p(z_g | z_<g): N(0, I) at the top."""
        if self.to_prior is None:
            zeros = state.new_zeros(len(state), *self.shape)
            return Gaussian(zeros, torch.ones_like(zeros))
        mu, log_sigma = full(self.to_prior(silu(state))).chunk(2, dim=1)
        return Gaussian(mu, (PRIOR_LIMIT * torch.tanh(log_sigma / PRIOR_LIMIT)).exp())

    def posterior(self, feature: Tensor, state: Tensor, prior: Gaussian) -> Gaussian:
        """q(z_g | x, z_<g): the prior, moved and scaled."""
        seen = self.look(silu(torch.cat([feature, state], dim=1)))
        shift, log_ratio = full(self.to_posterior(silu(seen))).chunk(2, dim=1)
        ratio = (POSTERIOR_LIMIT * torch.tanh(log_ratio / POSTERIOR_LIMIT)).exp()
        return Gaussian(prior.mu + shift, prior.sigma * ratio)

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        state = state + self.take(z)
        taken: Tensor = state + self.out(silu(self.mix(silu(state))))
        return taken


def _sizes(size: int, count: int) -> list[int]:
    """Sides of the image after one, two, ... halvings."""
    if size % 2:
        raise UsageError(f"images of {size} pixels: hvae needs an even side; set side of the data")
    sizes = [size // 2]
    for _ in range(count - 1):
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _groups(
    layers: list[LayerConfig], sizes: list[int]
) -> tuple[tuple[Group, ...], list[int | None]]:
    """The groups, and for each the index of its size, ``None`` for dense ones."""
    groups: list[Group] = []
    levels: list[int | None] = []
    for layer in layers:
        if layer.dense is not None:
            groups.append(Group((layer.dense,)))
            levels.append(None)
            continue
        assert layer.conv is not None
        channels, size = layer.conv
        if size not in sizes:
            known = ", ".join(map(str, sizes))
            raise UsageError(f"hvae.layers: conv size {size}: the image is halved to {known}")
        groups.append(Group((channels, size, size)))
        levels.append(sizes.index(size))
    order = [len(sizes) if level is None else level for level in levels]
    if order != sorted(order, reverse=True) or order[0] < len(sizes) - 1:
        raise UsageError(
            "hvae.layers: expected dense groups first, then growing sizes; the top one dense or of "
            f"size {sizes[-1]}"
        )
    return tuple(groups), levels


def _initialise(model: HVAE, generator: torch.Generator | None) -> None:
    """Uniform weights of variance 1/(3 fan-in); the last layer of every residual branch at 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.start, generator=generator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _Block):
                module.second.weight.zero_()
            if isinstance(module, _Cell):
                for layer in (module.to_prior, module.out):
                    if layer is not None:
                        layer.weight.zero_()  # type: ignore[operator]
