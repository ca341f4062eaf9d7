"""Energies f_g(z_g, t) of convolutional groups, as in the public code of Cui and Han (2024).

``residual`` is that for CIFAR-10: the maps are halved to 2 x 2 by residual blocks into which time
goes. ``plain`` is that for CelebA-HQ-256: convolutions halve them to 4 x 4, and time goes into the
layers after them only. All layers are without bias (docs/method.md, section 2.5).

Shapes: B batch, T levels, C channels, H height, W width, D flat size, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.config import EnergyConfig
from ldebm.nn.functional import silu
from ldebm.priors.energy_net import SpectralLinear
from ldebm.priors.frozen import Energies, Frozen

__all__ = ["ConvEnergy", "PlainConvEnergy", "ResidualConvEnergy", "by_autograd", "maps"]

TIME = 128  # size of the time embedding
SMALLEST = 3  # side up to which the maps are halved: a group of powers of two ends at 2 x 2
SMALLEST_PLAIN = 4


class _Conv(SpectralLinear):
    """A convolution without bias; its spectral norm is that of the weights as a matrix."""

    def __init__(self, inputs: int, outputs: int, kernel: int, spectral: bool) -> None:
        super().__init__(inputs * kernel * kernel, outputs, spectral)
        self.register_parameter("bias", None)
        self.kernel_shape = (outputs, inputs, kernel, kernel)

    def kernel(self) -> Tensor:
        return self.effective_weight().reshape(self.kernel_shape)


class _Plain(SpectralLinear):
    """A linear layer without bias."""

    def __init__(self, inputs: int, outputs: int, spectral: bool) -> None:
        super().__init__(inputs, outputs, spectral)
        self.register_parameter("bias", None)


class ConvEnergy(Energies):
    """f_g(z_g, t) of a convolutional group: maps that are halved, then two residual layers.

    Args:
        shape: (C, H, W) of its input.
        classes: number of logits.
        levels: T.
        channels: of the maps.
        config: ``spectral_norm`` and ``init``.
        generator: initial weights.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        levels: int,
        channels: int,
        config: EnergyConfig,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spectral = config.spectral_norm
        self.register_buffer("time_TE", _cosines(levels, TIME), persistent=False)
        self.time_TE: Tensor
        size = self._add_maps(shape, channels)
        self.layers = nn.ModuleList()
        for _ in range(2):
            after = size // 2
            sizes = [(size, after), (after, after), (size, after), (TIME, after)]
            self.layers.append(nn.ModuleList(self._plain(*pair) for pair in sizes))
            size = after
        self.output = self._plain(size, classes)
        self._initialise(config.init, generator)
        self.power_iterate(rounds=30)

    def _add_maps(self, shape: Sequence[int], channels: int) -> int:
        """Adds what comes before the residual layers; returns the size of its output."""
        raise NotImplementedError

    def _plain(self, inputs: int, outputs: int) -> _Plain:
        return _Plain(inputs, outputs, self.spectral)

    @torch.no_grad()
    def _initialise(self, init: str, generator: torch.Generator | None) -> None:
        """As :class:`EnergyNet`; orthogonal weights with a tenth of it at the output."""
        for module in self.modules():
            if isinstance(module, SpectralLinear):
                if init == "orthogonal":
                    gain = 0.1 if module is self.output else 1.0
                    nn.init.orthogonal_(module.weight, gain, generator=generator)
                else:
                    bound = 0.1 if init == "uniform" else module.weight.shape[1] ** -0.5
                    module.weight.uniform_(-bound, bound, generator=generator)
                module.draw_vectors(generator)

    def power_iterate(self, rounds: int = 1) -> None:
        for module in self.modules():
            if isinstance(module, SpectralLinear):
                module.power_iterate(rounds)


class ResidualConvEnergy(ConvEnergy):
    """Residual blocks with time down to 2 x 2: the public network for CIFAR-10."""

    def _add_maps(self, shape: Sequence[int], channels: int) -> int:
        before, side, spectral = shape[0], shape[1], self.spectral
        self.shift = nn.ModuleList([self._plain(TIME, before), self._plain(before, before)])
        self.time = nn.ModuleList([self._plain(TIME, TIME), self._plain(TIME, TIME)])
        self.blocks = nn.ModuleList()
        while side > SMALLEST or not len(self.blocks):
            main = [_Conv(before, channels, 4, spectral), _Conv(channels, channels, 3, spectral)]
            skip = _Conv(before, channels, 4, spectral)
            self.blocks.append(nn.ModuleList([*main, skip, self._plain(TIME, channels)]))
            before, side = channels, side // 2
        return channels * side * side

    def freeze(self) -> _FoldedResidual:
        return _FoldedResidual(self)


class PlainConvEnergy(ConvEnergy):
    """Convolutions down to 4 x 4, without time: the public network for CelebA-HQ-256."""

    def _add_maps(self, shape: Sequence[int], channels: int) -> int:
        before, side = shape[0], shape[1]
        self.time = nn.ModuleList([self._plain(TIME, TIME), self._plain(TIME, TIME)])
        self.blocks = nn.ModuleList()
        while side > SMALLEST_PLAIN or not len(self.blocks):
            self.blocks.append(_Conv(before, channels, 4, self.spectral))
            before, side = channels, side // 2
        return channels * side * side

    def freeze(self) -> _FoldedPlain:
        return _FoldedPlain(self)


class _Folded(Frozen):
    """The effective weights of a :class:`ConvEnergy`, and what time adds at every level."""

    def __init__(self, net: ConvEnergy) -> None:
        time = _weights(net.time)  # type: ignore[arg-type]
        self.e_TE = silu(F.linear(silu(F.linear(net.time_TE, time[0])), time[1]))
        self.layers = []
        for layer in net.layers:
            first, second, skip, added = _weights(layer)
            self.layers.append((first, second, skip, F.linear(self.e_TE, added)))
        self.output = net.output.effective_weight()

    def _after_maps(self, h: Tensor, t_B: Tensor | int) -> Tensor:
        """What the residual layers make of flat maps, (B, D)."""
        for first, second, skip, added in self.layers:
            main = F.linear(silu(h), first) + added[t_B]
            h = F.linear(silu(main), second) + F.linear(silu(h), skip)
        return h

    def logits(self, x_BCHW: Tensor, t_B: Tensor | int) -> Tensor:
        """f_g(z_g, t), shape (B, K)."""
        raise NotImplementedError

    def value_and_gradient(self, z_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        """F_g and its gradient, as the networks of all groups give them."""
        return by_autograd(self.logits, z_BD, t_B)


class _FoldedResidual(_Folded):
    def __init__(self, net: ResidualConvEnergy) -> None:
        shift = _weights(net.shift)
        self.shift_TC = F.linear(silu(F.linear(net.time_TE, shift[0])), shift[1])
        super().__init__(net)
        self.blocks = []
        for block in net.blocks:
            *convolutions, moment = block.children()
            first, second, skip = (conv.kernel() for conv in convolutions)  # type: ignore[operator]
            added_TC = F.linear(self.e_TE, moment.effective_weight())  # type: ignore[operator]
            self.blocks.append((first, second, skip, added_TC))

    def logits(self, x_BCHW: Tensor, t_B: Tensor | int) -> Tensor:
        h = x_BCHW + maps(self.shift_TC[t_B])
        for index, (first, second, skip, added) in enumerate(self.blocks):
            main = F.conv2d(h if index == 0 else silu(h), first, stride=2, padding=1)
            main = main + maps(added[t_B])
            past = F.conv2d(h if index == 0 else silu(h), skip, stride=2, padding=1)
            h = F.conv2d(silu(main), second, padding=1) + past
        return F.linear(silu(self._after_maps(h.flatten(1), t_B)), self.output)


class _FoldedPlain(_Folded):
    def __init__(self, net: PlainConvEnergy) -> None:
        super().__init__(net)
        self.kernels = [block.kernel() for block in net.blocks]  # type: ignore[operator]

    def logits(self, x_BCHW: Tensor, t_B: Tensor | int) -> Tensor:
        h = x_BCHW
        for index, kernel in enumerate(self.kernels):
            h = F.conv2d(silu(h) if index else h, kernel, stride=2, padding=1)
        return F.linear(self._after_maps(h.flatten(1), t_B), self.output)


def by_autograd(
    logits: Callable[[Tensor, Tensor | int], Tensor], z_BD: Tensor, t_B: Tensor | int
) -> tuple[Tensor, Tensor]:
    """The logsumexp of logits and its gradient; differentiable where gradients are on."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = z_BD if keep and z_BD.requires_grad else z_BD.detach().requires_grad_()
        value = torch.logsumexp(logits(x, t_B), -1)  # F-hat of Cui and Han (2024), eq. 18
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=keep)
    return (value if keep else value.detach()), gradient


def maps(value_C: Tensor) -> Tensor:
    """(C,) or (B, C) as it is added to maps."""
    return value_C[..., None, None]


def _weights(layers: nn.Module) -> list[Tensor]:
    return [layer.effective_weight() for layer in layers.children()]  # type: ignore[operator]


def _cosines(levels: int, size: int) -> Tensor:
    """The time embedding: cosines, then sines, of t 10000^(-2i/size), shape (T, size)."""
    half = size // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(levels, dtype=torch.float64).unsqueeze(1) * frequency
    return torch.cat([angle.cos(), angle.sin()], 1).float()
