"""Several energy networks of the same shape as one: a leading axis of weights, rows by network.

Every operation serves all networks, so that its launch is paid once. The numbers are those of each
network alone where a batched product rounds as a single one, and where no operation ends in a part
of a vector: rows times hidden size must be a multiple of 32.

Shapes: M networks, B rows of each, N = M B rows, D latent dimension, H hidden size, T levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldebm.priors.energy_net import EnergyNet, FrozenEnergy, SpectralLinear, activation_of
from ldebm.priors.frozen import Energies, Frozen

__all__ = ["StackedEnergies"]


class StackedEnergies(Energies):
    """The networks of M priors as one, for rows that are stacked by network.

    From now on the parameters of the networks are views of stacks (M, ...), which carry the
    gradients: see :meth:`release`.

    Args:
        nets: of the same shape, without contexts.
    """

    def __init__(self, nets: Sequence[EnergyNet]) -> None:
        super().__init__()
        self.nets = tuple(nets)  # in a tuple, so that their parameters are not this module's
        self.stacks: dict[str, Tensor] = {}
        for name, _ in nets[0].named_parameters():
            own = [net.get_parameter(name) for net in nets]
            stack = torch.stack([parameter.detach() for parameter in own])
            self.stacks[name] = stack.requires_grad_()
            for parameter, part in zip(own, stack.detach().unbind(), strict=True):
                parameter.data = part

    def release(self) -> None:
        """Gives every network storage of its own again."""
        for net in self.nets:
            for parameter in net.parameters():
                parameter.data = parameter.data.clone()

    def power_iterate(self, rounds: int = 1) -> None:
        for net in self.nets:
            net.power_iterate(rounds)

    def freeze(self) -> Frozen:
        """All effective weights; without gradients as chains need them, each network alone."""
        if not torch.is_grad_enabled():
            return _Separate(tuple(net.weights() for net in self.nets))
        first = self.nets[0]
        config, hidden = first.config, first.config.hidden
        names = ["input", "input2"] if first.residual else ["input"]
        names += [f"blocks.{index}" for index in range(len(first.blocks))]
        layers = tuple((self._weight(name), self._bias(name)) for name in [*names, "output"])
        if not first.residual:
            return _Stacked(config.activation, layers, None, None, False)
        act, merge = activation_of(config.activation), self._weight("merge")
        time = first.time_TH.repeat(len(self.nets), 1)
        for name in ("time1", "time2"):
            time = act(_affine(time, self._weight(name), self._bias(name)))
        time = _affine(time, merge[:, :, hidden : 2 * hidden], self._bias("merge"))
        return _Stacked(config.activation, layers, merge[:, :, :hidden], time, True)

    def _bias(self, layer: str) -> Tensor:
        return self.stacks[f"{layer}.bias"]

    def _weight(self, layer: str) -> Tensor:
        """The effective weights of a layer, (M, outputs, inputs)."""
        stack = self.stacks[f"{layer}.weight"]
        if not self.nets[0].config.spectral_norm:
            return stack
        parts = []
        for net, weight in zip(self.nets, stack.unbind(), strict=True):
            own = net.get_submodule(layer)
            assert isinstance(own, SpectralLinear)
            parts.append(weight / torch.dot(own.u.clone(), weight @ own.v.clone()))
        effective = torch.stack(parts)
        # As alone, where the sums over the gradients take them in this order.
        effective.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        return effective


@dataclass(frozen=True)
class _Stacked(FrozenEnergy):
    """Weights of all networks at one moment, differentiable: every tensor has a leading axis M.

    ``time_TH`` has the levels of all networks, (M T, H).
    """

    def _affine(self, x: Tensor, layer: int) -> Tensor:
        return _affine(x, *self.layers[layer])

    def _back(self, gradient: Tensor, layer: int) -> Tensor:
        return _times(gradient, self.layers[layer][0])

    def _merge(self, x: Tensor, t_B: Tensor | int) -> Tensor:
        assert self.merge is not None
        assert self.time_TH is not None
        count = len(self.merge)
        levels, rows = len(self.time_TH) // count, len(x) // count
        first_N = levels * torch.arange(count, device=x.device).repeat_interleave(rows)
        return _times(x, self.merge.transpose(1, 2)) + self.time_TH[first_N + t_B]

    def _back_merge(self, gradient: Tensor) -> Tensor:
        assert self.merge is not None
        return _times(gradient, self.merge)


@dataclass(frozen=True)
class _Separate(Frozen):
    """Weights of all networks at one moment, for chains: each evaluates its own rows.

    At these sizes a chain's time is that of its products, so that nothing is gained by stacking.
    """

    members: tuple[FrozenEnergy, ...]

    def logits(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        parts = zip(self.members, *self._split(z_BD, t_B), strict=True)
        return torch.cat([member.logits(z, t) for member, z, t in parts])

    def value_and_gradient(self, z_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        parts = zip(self.members, *self._split(z_BD, t_B), strict=True)
        values, gradients = zip(
            *(member.value_and_gradient(z, t) for member, z, t in parts), strict=True
        )
        return torch.cat(values), torch.cat(gradients)

    def _split(self, z_BD: Tensor, t_B: Tensor | int) -> tuple[Sequence[Tensor], Sequence[Any]]:
        count = len(self.members)
        levels = [t_B] * count if isinstance(t_B, int) else t_B.chunk(count)
        return z_BD.chunk(count), levels


def _affine(x_NI: Tensor, weight_MOI: Tensor, bias_MO: Tensor) -> Tensor:
    """x W^T + b with the weights of the row's network."""
    x = x_NI.view(len(weight_MOI), -1, x_NI.shape[1])
    return torch.baddbmm(bias_MO.unsqueeze(1), x, weight_MOI.transpose(1, 2)).flatten(0, 1)


def _times(x_NI: Tensor, weight_MIO: Tensor) -> Tensor:
    """x W with the weights of the row's network."""
    return torch.bmm(x_NI.view(len(weight_MIO), -1, x_NI.shape[1]), weight_MIO).flatten(0, 1)
