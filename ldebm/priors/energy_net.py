"""The network f(z, t) whose logits give the energies.

Yu et al. (2022), table A1; Pang and Wu (2021), section 2.1; docs/method.md, section 2.5.

F(z, t) = logsumexp_k f_k(z, t) is the negative energy. The spectral norm is computed once per
update (:meth:`EnergyNet.power_iterate`) and the weights are frozen once (:meth:`EnergyNet.fold`)
before a chain, whose steps then use the analytic gradient of F with respect to z.

Shapes: B batch, D latent dimension, H hidden size, K classes, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.config import EnergyConfig
from ldebm.nn.functional import silu
from ldebm.priors.frozen import Energies, Frozen, TiltedEnergy
from ldebm.priors.packed_energy_net import SLOPE, PackedEnergy

__all__ = [
    "ConditionedEnergy",
    "EnergyNet",
    "FrozenEnergy",
    "SpectralLinear",
    "activation_of",
    "rows_of",
    "value_of_class",
]


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name."""
    if name == "leaky_relu":
        return lambda x: functional.leaky_relu(x, SLOPE)
    return silu if name == "silu" else functional.gelu


def _derivative(name: str, x: Tensor) -> Tensor:
    """Derivative of the activation at x."""
    if name == "leaky_relu":
        return (x > 0).to(x.dtype) * (1 - SLOPE) + SLOPE
    if name == "silu":
        s = torch.sigmoid(x)
        return s * (1 + x * (1 - s))
    cdf = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return cdf + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


class SpectralLinear(nn.Module):
    """A linear layer whose weight is divided by its largest singular value (Miyato et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, spectral: bool) -> None:
        super().__init__()
        self.spectral = spectral
        layer = nn.Linear(inputs, outputs)
        self.weight, self.bias = layer.weight, layer.bias
        if spectral:
            self.register_buffer("u", functional.normalize(torch.randn(outputs), dim=0))
            self.register_buffer("v", functional.normalize(torch.randn(inputs), dim=0))
            self.u: Tensor
            self.v: Tensor

    @torch.no_grad()
    def draw_vectors(self, generator: torch.Generator | None) -> None:
        """Starts the singular vectors anew, at random unit vectors."""
        if not self.spectral:
            return
        for vector in (self.u, self.v):
            vector.normal_(generator=generator)
            vector.div_(vector.norm())

    @torch.no_grad()
    def power_iterate(self, rounds: int) -> None:
        """Moves the singular vectors by ``rounds`` power iterations."""
        if not self.spectral:
            return
        u, v = self.u, self.v
        for _ in range(rounds):
            v = functional.normalize(self.weight.t() @ u, dim=0)
            u = functional.normalize(self.weight @ v, dim=0)
        self.u.copy_(u)
        self.v.copy_(v)

    def effective_weight(self) -> Tensor:
        """W / sigma(W), differentiable in W with the singular vectors held."""
        if not self.spectral:
            return self.weight
        sigma = torch.dot(self.u.clone(), self.weight @ self.v.clone())
        return self.weight / sigma

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.effective_weight(), self.bias)


@dataclass(frozen=True)
class FrozenEnergy(Frozen):
    """Plain weights of an :class:`EnergyNet` at one moment, for chains.

    Attributes:
        activation: name of the activation.
        layers: (weight, bias) of input-1, input-2, the residual blocks (or hidden layers), output.
        merge: weight on the z half of the merge layer (``None`` without time).
        time_TH: what time adds before the first block, per level (``None`` without time).
        residual: whether the inner layers are residual blocks.
        context_BH: what contexts add before the first block; row i has context i modulo B.
    """

    activation: str
    layers: tuple[tuple[Tensor, Tensor], ...]
    merge: Tensor | None
    time_TH: Tensor | None
    residual: bool
    context_BH: Tensor | None = None

    def logits(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """f(z, t), shape (B, K)."""
        return self._forward(z_BD, t_B)[0]

    def value(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """F(z, t), shape (B,); without gradients as :meth:`value_and_gradient`."""
        if self.merge is not None and not torch.is_grad_enabled():
            return self.packed.value(z_BD, t_B, self._context(len(z_BD)))
        return super().value(z_BD, t_B)

    def value_and_gradient(
        self, z_BD: Tensor, t_B: Tensor | int, label_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """F(z, t) and dF/dz, shapes (B,) and (B, D); with ``label_B`` of f_label instead.

        Without gradients, as in chains, by :class:`PackedEnergy`: the same but for rounding.
        """
        if self.merge is not None and label_B is None and not torch.is_grad_enabled():
            return self.packed.value_and_gradient(z_BD, t_B, self._context(len(z_BD)))
        logits, stem, inputs = self._forward(z_BD, t_B)
        if label_B is None:
            value = torch.logsumexp(logits, -1)
            gradient = torch.softmax(logits, -1)
        else:
            value = logits.gather(1, label_B.unsqueeze(1)).squeeze(1)
            gradient = functional.one_hot(label_B, logits.shape[1]).to(logits.dtype)
        for index in reversed(range(len(inputs))):
            back = self._back(gradient, self._inner + index)
            back = back * _derivative(self.activation, inputs[index])
            skip = self.residual and index < len(inputs) - 1
            gradient = gradient + back if skip else back
        if stem:
            gradient = self._back_merge(gradient) * _derivative(self.activation, stem[1])
            gradient = self._back(gradient, 1) * _derivative(self.activation, stem[0])
        return value, self._back(gradient, 0)

    @cached_property
    def packed(self) -> PackedEnergy:
        """The residual network's weights laid out for chains."""
        assert self.merge is not None
        assert self.time_TH is not None
        return PackedEnergy(self.activation, self.layers, self.merge, self.time_TH)

    def _context(self, rows: int) -> Tensor | None:
        """What the contexts add to ``rows`` rows."""
        return None if self.context_BH is None else rows_of(self.context_BH, rows)

    @property
    def _inner(self) -> int:
        """Number of the first layer behind the stem: blocks (or hidden layers), then the output."""
        return 2 if self.residual else 1

    def _affine(self, x: Tensor, layer: int) -> Tensor:
        return functional.linear(x, *self.layers[layer])

    def _back(self, gradient: Tensor, layer: int) -> Tensor:
        return gradient @ self.layers[layer][0]

    def _merge(self, x: Tensor, t_B: Tensor | int) -> Tensor:
        assert self.merge is not None
        assert self.time_TH is not None
        return functional.linear(x, self.merge) + self.time_TH[t_B]

    def _back_merge(self, gradient: Tensor) -> Tensor:
        assert self.merge is not None
        return gradient @ self.merge

    def _forward(
        self, z_BD: Tensor, t_B: Tensor | int
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Logits, the stem's activation inputs, and those of the inner layers."""
        act = activation_of(self.activation)
        h = self._affine(z_BD, 0)
        stem: tuple[Tensor, ...] = ()
        if self.merge is not None:
            second = self._affine(act(h), 1)
            stem = (h, second)
            h = self._merge(act(second), t_B)
        context = self._context(len(z_BD))
        if context is not None:
            h = h + context
        inputs: list[Tensor] = []
        last = len(self.layers) - 1
        for layer in range(self._inner, len(self.layers)):
            inputs.append(h)
            out = self._affine(act(h), layer)
            h = h + out if self.residual and layer < last else out
        return h, stem, inputs


class EnergyNet(Energies):
    """f(z, t): logits over K classes for every level t.

    ``residual`` is Yu et al. (2022), table A1 (time embedding, input MLP, merge, residual blocks);
    ``mlp`` the time-free network of SVEBM, with ``blocks`` hidden layers.

    Args:
        latent: D.
        classes: K.
        levels: T (ignored by ``mlp``).
        config: sizes and switches.
        generator: initial weights; the same generator gives the same network.
        context: C, size of the context vector that f(z, t, c) also reads; 0: none.
    """

    def __init__(
        self,
        latent: int,
        classes: int,
        levels: int,
        config: EnergyConfig,
        generator: torch.Generator | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.context = config, context
        hidden, spectral = config.hidden, config.spectral_norm
        self.residual = config.arch == "residual"

        def layer(inputs: int, outputs: int) -> SpectralLinear:
            return SpectralLinear(inputs, outputs, spectral)

        self.input = layer(latent, hidden)
        if self.residual:
            self.input2 = layer(hidden, hidden)
            self.time1, self.time2 = layer(hidden, hidden), layer(hidden, hidden)
            self.merge = layer((3 if context else 2) * hidden, hidden)
            self.register_buffer("time_TH", _sinusoids(levels, hidden))
            self.time_TH: Tensor
            self.blocks = nn.ModuleList(layer(hidden, hidden) for _ in range(config.blocks))
        else:
            self.blocks = nn.ModuleList(layer(hidden, hidden) for _ in range(config.blocks - 1))
        self.output = layer(hidden, classes)
        if context:
            self.context1 = layer(context, hidden)
            if self.residual:
                self.context2 = layer(hidden, hidden)
        self._initialise(generator)
        self.power_iterate(rounds=30)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        config = self.config
        for name, module in self.named_modules():
            if not isinstance(module, SpectralLinear):
                continue
            if config.init == "uniform":
                module.weight.uniform_(-0.1, 0.1, generator=generator)
                module.bias.uniform_(-0.1, 0.1, generator=generator)
            elif config.init == "orthogonal":
                gain = config.gain if not name.startswith(("blocks", "output")) else 1.0
                if name.startswith("blocks") and self.residual:
                    gain /= config.blocks**0.5
                gain *= 0.1 if name == "output" else 1.0
                nn.init.orthogonal_(module.weight, gain, generator=generator)
                module.bias.zero_()
            else:
                bound = 1 / math.sqrt(module.weight.shape[1])
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
            module.draw_vectors(generator)

    def power_iterate(self, rounds: int = 1) -> None:
        """Updates the spectral norms; called once before every training step."""
        for module in self.modules():
            if isinstance(module, SpectralLinear):
                module.power_iterate(rounds)

    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """(effective weight, bias) of all layers but the merge layer and those of time."""
        stem = [self.input, self.input2] if self.residual else [self.input]
        layers = [*stem, *self.blocks, self.output]
        return tuple((item.effective_weight(), item.bias) for item in layers)

    def freeze(self, context_BC: Tensor | None = None) -> Frozen:
        """The effective weights, computed once; differentiable in the parameters.

        Args:
            context_BC: contexts of the rows, (B, C): row i has context i modulo B.

        Raises:
            ValueError: the network reads contexts and has none, or the other way round.
        """
        frozen = self.weights(context_BC)
        return frozen if self.base is None else TiltedEnergy(frozen, self.base())

    def weights(self, context_BC: Tensor | None = None) -> FrozenEnergy:
        """The effective weights of the network alone, without a base measure."""
        if (context_BC is not None) != bool(self.context):
            raise ValueError(f"a context of size {self.context}: use conditioned_on(context)")
        act = activation_of(self.config.activation)
        frozen = self.layers()
        if not self.residual:
            rows = None if context_BC is None else self.context1(context_BC)
            return FrozenEnergy(self.config.activation, frozen, None, None, False, rows)
        hidden = self.config.hidden
        merge = self.merge.effective_weight()
        time = self.time2(act(self.time1(self.time_TH)))
        of_state, of_time, *of_context = torch.split(merge, hidden, dim=1)
        time = functional.linear(act(time), of_time, self.merge.bias)
        rows = None
        if context_BC is not None:
            read = act(self.context2(act(self.context1(context_BC))))
            rows = functional.linear(read, of_context[0])
        return FrozenEnergy(self.config.activation, frozen, of_state, time, True, rows)

    def conditioned_on(self, context_BC: Tensor) -> ConditionedEnergy:
        """The network of these contexts, (B, C), with the same parameters."""
        return ConditionedEnergy(self, context_BC)


class ConditionedEnergy(Energies):
    """f(z, t, c) with the contexts c of the rows filled in: row i has context i modulo B.

    Args:
        net: the network; it stays the owner of the parameters.
        context_BC: the contexts.
    """

    def __init__(self, net: EnergyNet, context_BC: Tensor) -> None:
        super().__init__()
        self.net, self.context_BC = net, context_BC

    def power_iterate(self, rounds: int = 1) -> None:
        self.net.power_iterate(rounds)

    def freeze(self) -> Frozen:
        """The effective weights with what the contexts add."""
        return self.net.freeze(self.context_BC)


def rows_of(values_BX: Tensor, rows: int) -> Tensor:
    """``rows`` rows of which row i is row i modulo B of ``values_BX``."""
    if len(values_BX) in (1, rows):
        return values_BX.expand(rows, *values_BX.shape[1:])
    index = torch.arange(rows, device=values_BX.device) % len(values_BX)
    return values_BX.index_select(0, index)


def _sinusoids(levels: int, size: int) -> Tensor:
    """Table A1's time embedding: even columns sin(t w_i), odd columns cos(t w_i), shape (T, H)."""
    half = torch.arange(0, size, 2, dtype=torch.float64)
    frequency = torch.exp(-math.log(10000.0) * half / size)
    angle = torch.arange(levels, dtype=torch.float64).unsqueeze(1) * frequency
    table = torch.zeros(levels, size, dtype=torch.float64)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : size // 2]
    return table.float()


def value_of_class(logits_BK: Tensor, class_B: Tensor) -> Tensor:
    """f_y of the rows of class y, F = logsumexp_k f_k of those without one (-1), shape (B,)."""
    own = logits_BK.gather(1, class_B.clamp(min=0)[:, None])[:, 0]
    return torch.where(class_B >= 0, own, torch.logsumexp(logits_BK, -1))
