"""Energies of the groups of a hierarchical model, F(u, t) = sum_g F_g(z_g, t) with z = T(u).

Dense (and small) groups have the network of :mod:`ldebm.priors.energy_net`, convolutional ones
that of :mod:`ldebm.priors.conv_energy_net` (docs/method.md, section 2.5). With
``inputs: context`` F_g also sees what is above its group: a dense group all z_<=g, a convolutional
one z_g and u_g, which tells where z_g lies in p(z_g | z_<g). With ``inputs: u`` it sees u_<=g, a
convolutional group u_g, and chains need no T.

Some groups may carry labels: their outputs are logits of the classes, which add up over the groups
of a label. What comes out is one logit per class, sum_g f_g[y] + sum_h F_h, so that the logsumexp
is F and the softmax is p(y|u); several labels have the classes of their product.

Shapes: B batch, D latent dimension, T levels, K classes; x_BCHW a convolutional group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldebm.backbones.hierarchical import Group, full
from ldebm.config import HierarchyConfig, PriorConfig
from ldebm.errors import UsageError
from ldebm.priors.conv_energy_net import (
    ConvEnergy,
    PlainConvEnergy,
    ResidualConvEnergy,
    by_autograd,
    maps,
)
from ldebm.priors.energy_net import EnergyNet, value_of_class
from ldebm.priors.frozen import Energies, Frozen

__all__ = ["FrozenGroups", "GroupEnergies", "Place", "Placed"]


@dataclass(frozen=True)
class Placed:
    """A point of u-space by group: z = T(u), and the same in u (``z`` may be left out)."""

    z: list[Tensor]
    u: list[Tensor]


Place = Callable[[Tensor, Tensor | int], Placed]
"""Maps (v_BD, t_B), the scaled variable of level t, to the groups; differentiable."""


class GroupEnergies(Energies):
    """f(v, t): one logit per class, from the networks of all groups.

    Args:
        groups: of the backbone, top first.
        config: the prior's section.
        levels: T.
        place: maps the scaled variable to the groups; held, so it must not be a module.
        generator: initial weights.

    Raises:
        UsageError: a label is put on a group that is not there.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        config: PriorConfig,
        levels: int,
        place: Place,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        section = config.hierarchy or HierarchyConfig()
        self.place, self.inputs = place, section.inputs
        self.standardises = section.standardise_inputs
        self.labels = _labels(section, config.classes, len(groups))
        self.outputs = [
            sum(classes for on, classes in self.labels if g in on) or 1 for g in range(len(groups))
        ]
        nets: list[Energies] = []
        above = 0
        for group, classes in zip(groups, self.outputs, strict=True):
            above += group.size
            if len(group.shape) == 3 and group.shape[1] > 1 and group.size > section.flat:
                twice = 2 if self.inputs == "context" else 1
                shape = (twice * group.shape[0], *group.shape[1:])
                network = ResidualConvEnergy if section.network == "residual" else PlainConvEnergy
                net: Energies = network(
                    shape, classes, levels, section.channels, config.energy, generator
                )
                size = shape[0]
            else:
                size = group.size if self.inputs == "z" else above
                net = EnergyNet(size, classes, levels, config.energy, generator)
            nets.append(net)
            self.register_buffer(f"mean_{len(nets) - 1}", torch.zeros(size))
            self.register_buffer(f"spread_{len(nets) - 1}", torch.ones(size))
        self.nets = nn.ModuleList(nets)

    def power_iterate(self, rounds: int = 1) -> None:
        for net in self.nets:
            net.power_iterate(rounds)  # type: ignore[operator]

    def freeze(self) -> FrozenGroups:
        return FrozenGroups(self)

    def read(self, g: int, placed: Placed) -> Tensor:
        """What the network of group g sees, flat or maps; standardised, unless switched off."""
        x = self._raw(g, placed)
        if not self.standardises:
            return x
        mean, spread = self.standard(g)
        if x.ndim == 4:
            mean, spread = maps(mean), maps(spread)
        return (x - mean) / spread

    def _raw(self, g: int, placed: Placed) -> Tensor:
        own = placed.u if self.inputs == "u" else placed.z
        if isinstance(self.nets[g], ConvEnergy):
            return torch.cat([own[g], placed.u[g]], 1) if self.inputs == "context" else own[g]
        if self.inputs == "z":
            return own[g].flatten(1)
        return torch.cat([part.flatten(1) for part in own[: g + 1]], 1)

    def standard(self, g: int) -> tuple[Tensor, Tensor]:
        """Mean and spread of what the network of group g sees, per variable or channel."""
        mean, spread = getattr(self, f"mean_{g}"), getattr(self, f"spread_{g}")
        return mean, spread

    @torch.no_grad()
    def fit_standard(self, placed: Placed) -> None:
        """Takes mean and spread of the inputs from draws of the aggregate posterior."""
        if not self.standardises:
            return
        for g in range(len(self.nets)):
            x = self._raw(g, placed)
            x = x.transpose(0, 1).flatten(1)
            mean, spread = self.standard(g)
            mean.copy_(x.mean(1))
            spread.copy_(x.std(1).clamp(min=1e-3))


def _labels(
    section: HierarchyConfig, classes: int, groups: int
) -> list[tuple[tuple[int, ...], int]]:
    """(groups, number of classes) of every label, those of attributes in the order of names."""
    labels = [(tuple(on), 2) for _, on in sorted(section.attributes.items())]
    if section.label_groups:
        labels = [(tuple(section.label_groups), classes)]
    for on, _ in labels:
        if max(on) >= groups:
            raise UsageError(
                f"prior.hierarchy: a label is put on group {max(on)}; the backbone has groups 0 "
                f"to {groups - 1}"
            )
    return labels


class FrozenGroups(Frozen):
    """:class:`GroupEnergies` at fixed weights.

    Args:
        energies: whose weights are frozen.
        allowed_K: classes among which the density is conditioned to lie; ``None``: all of them.
        class_B: class of every row, whose density is conditioned on it, or -1 for none.
    """

    def __init__(
        self,
        energies: GroupEnergies,
        allowed_K: Tensor | None = None,
        class_B: Tensor | None = None,
    ) -> None:
        self.energies, self.allowed_K, self.class_B = energies, allowed_K, class_B
        self.frozen = [net.freeze() for net in energies.nets]  # type: ignore[operator]
        self.base = None if energies.base is None else energies.base()

    def among(self, classes: Sequence[int]) -> FrozenGroups:
        """The same weights, conditioned on ``classes``: F is the logsumexp of their logits."""
        other = copy.copy(self)
        other.allowed_K = torch.tensor(list(classes))
        return other

    def conditioned_on(self, class_B: Tensor) -> FrozenGroups:
        """The same weights, every row conditioned on its own class, where it has one."""
        other = copy.copy(self)
        other.class_B = class_B
        return other

    def each(self, placed: Placed, t_B: Tensor | int) -> list[Tensor]:
        """The outputs of every group's network, (B, its number of logits)."""
        return [self.of_group(g, placed, t_B) for g in range(len(self.frozen))]

    def of_group(self, g: int, placed: Placed, t_B: Tensor | int) -> Tensor:
        """The outputs of one group's network, which looks at no group below it."""
        outputs: Tensor = self.frozen[g].logits(self.energies.read(g, placed), t_B)
        return full(outputs)

    def group_energies(self, v_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """What every group adds to F, shape (B, G): the sum over the groups is F.

        That is F_g where a group has no label that others share, else the difference that the group
        makes to the F of all groups above it. What a base measure adds stands with the last group.
        """
        outputs = self.each(self.energies.place(v_BD, t_B), t_B)
        down_to = []
        for g in range(len(outputs)):
            below = [torch.zeros_like(output) for output in outputs[g + 1 :]]
            down_to.append(torch.logsumexp(self.coupled([*outputs[: g + 1], *below]), 1))
        sums_BG = torch.stack(down_to, 1)
        energy_BG = torch.cat([sums_BG[:, :1], sums_BG[:, 1:] - sums_BG[:, :-1]], 1)
        if self.base is not None:
            energy_BG[:, -1] += self.base.ratio(v_BD, t_B)
        return energy_BG

    def logits(self, z_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """f(v, t), shape (B, K), or of the allowed classes only."""
        logits = self.coupled(self.each(self.energies.place(z_BD, t_B), t_B))
        if self.base is not None:
            logits = logits + self.base.ratio(z_BD, t_B)[:, None]
        if self.class_B is not None:
            return value_of_class(logits, self.class_B)[:, None]
        return logits if self.allowed_K is None else logits[:, self.allowed_K.to(z_BD.device)]

    def coupled(self, outputs: list[Tensor]) -> Tensor:
        """The logits of all classes from the outputs of all groups.

        Cui and Han (2024), eq. 14 and 19.
        """
        energies = self.energies
        labelled = {g for on, _ in energies.labels for g in on}
        total = torch.stack(
            [output[:, 0] for g, output in enumerate(outputs) if g not in labelled]
            or [torch.zeros_like(outputs[0][:, 0])],
        ).sum(0)[:, None]
        taken = [0] * len(outputs)
        for on, classes in energies.labels:
            own = []
            for g in on:
                own.append(outputs[g][:, taken[g] : taken[g] + classes])
                taken[g] += classes
            total = (total[:, :, None] + torch.stack(own).sum(0)[:, None, :]).flatten(1)
        return total

    def value_and_gradient(self, z_BD: Tensor, t_B: Tensor | int) -> tuple[Tensor, Tensor]:
        """F(v, t) and dF/dv, through the frozen backbone; differentiable where gradients are on."""
        return by_autograd(self.logits, z_BD, t_B)
