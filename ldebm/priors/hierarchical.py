"""Priors of the latents u of a hierarchical model; their energies see z = T(u).

Cui and Han (2024), eq. 9 (diffusion) and eq. 8 (the joint EBM); docs/method.md, section 2.6.

    diffusion  p(u_t|u_{t+1}) = exp(sum_g F_g(z_g, t)) N(u_t; 0, I) N(u_{t+1}; a u_t, sigma^2 I) / Z
    svebm      p(u)           = exp(sum_g F_g(z_g)) N(u; 0, I) / Z       the paper's joint EBM
    nce        the same density, with F_g learnt as classifiers: :mod:`ldebm.priors.contrastive`
    flow       a normalising flow of u
    gaussian   N(0, I), or the Gaussian fitted to the aggregate posterior

The reference N(0, I) stands at every level, as :mod:`ldebm.priors` has it with ``base``; with
``energy_scale: code`` and the published rule the chain is the public code's. In
standardised coordinates the reference is the fitted Gaussian, and with ``base_measure: mixture``
a mixture that is fitted to draws of the aggregate posterior. The backbone is held frozen and is
no part of the prior's tensors.

Shapes: B batch, D latent dimension, T levels, N draws of the aggregate posterior.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import HierarchyConfig, PriorConfig
from ldebm.draws import Stream
from ldebm.errors import UsageError
from ldebm.priors import DiffusionPrior, EnergyPrior, GaussianPrior, Pairs, Prior, SymbolPrior
from ldebm.priors.flow import FlowPrior
from ldebm.priors.frozen import Energies, Frozen
from ldebm.priors.group_energy_net import GroupEnergies, Placed
from ldebm.priors.mixture import LARGEST

__all__ = [
    "GroupDiffusionPrior",
    "GroupFlowPrior",
    "GroupGaussianPrior",
    "GroupSymbolPrior",
    "OnGroups",
]

LARGEST_FLOW = 512  # latents of a flow, which is inverted one after the other
LARGEST_FULL = 4096  # latents of which a full covariance is fitted
VALUES_AT_ONCE = 2**22  # of latents that are sampled together
ROWS_AT_ONCE = 1000


class OnGroups(Prior):
    """What the priors of hierarchical models share: standardisation, T, samples in parts.

    Args:
        backbone: held, frozen.
        config: the experiment's prior section.
        more: further arguments of the prior that is extended.
    """

    def __init__(self, backbone: HierarchicalBackbone, config: PriorConfig, *more: object) -> None:
        self.section = config.hierarchy or HierarchyConfig()
        self._held = (backbone,)  # in a tuple, so that its tensors are not the prior's
        backbone.requires_grad_(False)
        super().__init__(backbone.latent, config, *more)

    @property
    def backbone(self) -> HierarchicalBackbone:
        """The frozen first stage."""
        return self._held[0]

    def _add_scale(self) -> None:
        if self.config.standardise == "full":
            if self.latent > LARGEST_FULL:
                raise UsageError(
                    f"prior.standardise 'full': {self.latent} latents have too large a covariance; "
                    "use 'diagonal' or 'none'"
                )
            super()._add_scale()
        elif self.config.standardise == "diagonal":
            self.register_buffer("scale_D", torch.ones(self.latent))
        self.scale_D: Tensor

    def to_standard(self, z_BD: Tensor) -> Tensor:
        """The fitted Gaussian's own coordinates of latents u."""
        if self.config.standardise == "full":
            return super().to_standard(z_BD)
        if self.config.standardise == "none":
            return z_BD
        return (z_BD - self.shift_D) / self.scale_D

    def from_standard(self, u_BD: Tensor) -> Tensor:
        """Latents u of standardised ones."""
        if self.config.standardise == "full":
            return super().from_standard(u_BD)
        if self.config.standardise == "none":
            return u_BD
        return u_BD * self.scale_D + self.shift_D

    def log_det(self) -> Tensor:
        """log |det scale|."""
        if self.config.standardise == "full":
            return super().log_det()
        if self.config.standardise == "none":
            return self.shift_D.new_zeros(())
        return self.scale_D.log().sum()

    @torch.no_grad()
    def fit_draws(self, u_ND: Tensor) -> None:
        """Takes the standardisation, and that of the networks' inputs, from posterior draws."""
        if self.config.standardise == "full":
            self.fit_standardisation(u_ND, torch.full_like(u_ND, -20.0))
        elif self.config.standardise == "diagonal":
            self.shift_D.copy_(u_ND.mean(0))
            self.scale_D.copy_(u_ND.std(0).clamp(min=1e-4))

    def level_scale_T(self) -> Tensor:
        """c_{t+1}: the energies of level t live on v = c_{t+1} u_t."""
        return torch.ones(1, device=self.shift_D.device)

    def place(self, v_BD: Tensor, t_B: Tensor | int) -> Placed:
        """The groups of a scaled, standardised variable: T, differentiable in it."""
        scale = self.level_scale_T()[t_B]
        u = self.from_standard(v_BD / (scale.unsqueeze(-1) if scale.ndim else scale))
        z = [] if self.section.inputs == "u" else self.backbone.to_z(u)
        return Placed(z, self.backbone.split(u))

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws of u, in parts that fit the memory."""
        rows = max(8, min(ROWS_AT_ONCE, VALUES_AT_ONCE // self.latent))
        parts = [
            self._sample_part(min(rows, n - start), generator, None) for start in range(0, n, rows)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.latent)

    def _sample_part(self, n: int, generator: torch.Generator, labels: list[int] | None) -> Tensor:
        """n standardised draws of p(u), or, by the classes' logits, of p(u | labels)."""
        del labels
        return torch.randn(n, self.latent, generator=generator, device=self.shift_D.device)


class GroupGaussianPrior(OnGroups, GaussianPrior):
    """N(0, I) with ``standardise: none``, else the Gaussian fitted to the aggregate posterior."""


class GroupFlowPrior(OnGroups, FlowPrior):
    """A neural spline flow of all of u (Durkan et al. 2019): a rival, without classes."""

    def __init__(
        self,
        backbone: HierarchicalBackbone,
        config: PriorConfig,
        generator: torch.Generator | None = None,
    ) -> None:
        if backbone.latent > LARGEST_FLOW:
            raise UsageError(
                f"prior.kind 'flow': the backbone has {backbone.latent} latents, a flow of more "
                f"than {LARGEST_FLOW} is too slow to sample; use 'gaussian', 'svebm' or 'diffusion'"
            )
        super().__init__(backbone, config, generator)

    def _sample_part(self, n: int, generator: torch.Generator, labels: list[int] | None) -> Tensor:
        return self.transformed(super()._sample_part(n, generator, labels))


class _WithEnergies(OnGroups, EnergyPrior):
    """The networks of the groups."""

    net: GroupEnergies
    levels: int

    def _make_net(self, generator: torch.Generator | None) -> Energies:
        groups = self.backbone.groups
        net = GroupEnergies(groups, self.config, self.levels, self.place, generator)
        self.classes = math.prod(classes for _, classes in net.labels)
        return net

    def _add_mixture(self) -> None:
        if self.latent > LARGEST:
            raise UsageError(
                f"prior.base_measure 'mixture': the backbone has {self.latent} latents, full "
                f"covariances are fitted up to {LARGEST}; leave it out, or choose smaller layers"
            )
        super()._add_mixture()

    @torch.no_grad()
    def fit_draws(self, u_ND: Tensor) -> None:
        super().fit_draws(u_ND)
        self.net.fit_standard(Placed(self.backbone.to_z(u_ND), self.backbone.split(u_ND)))

    @property
    def labels_at_zero(self) -> bool:
        return bool(self.net.labels) and self.section.label_levels == "zero"

    @property
    def trains_classes(self) -> bool:
        return bool(self.net.labels) and self.section.label_training == "class"

    def frozen_for(self, class_B: Tensor | None) -> Frozen:
        frozen = self.net.freeze()
        return frozen if class_B is None else frozen.conditioned_on(class_B)

    def class_rows(
        self, pairs: Pairs, u0_BD: Tensor, *, unlabelled: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        if not self.labels_at_zero or (unlabelled and self.config.mi_weight == 0):
            return [], []
        return super().class_rows(pairs, u0_BD, unlabelled=unlabelled)

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        """Draws of p(u|y) as ``hierarchy.label_sampling`` says (docs/method.md, section 3.3).

        "rejection" from p(u), exact; "langevin", chains of the classes' logits; or
        "filtered", such draws kept with probability p(y|u): surer of the class, less varied.
        """
        if self.section.label_sampling == "langevin":
            return self._by_chains(n, labels, generator)
        return super().sample_class(n, labels, generator)

    def propose_class(
        self, n: int, missing: int, labels: list[int], generator: torch.Generator
    ) -> Tensor:
        if self.section.label_sampling == "rejection":
            return super().propose_class(n, missing, labels, generator)
        return self._by_chains(missing + missing // 8 + 4, labels, generator)

    def _by_chains(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        rows = max(8, min(ROWS_AT_ONCE, VALUES_AT_ONCE // self.latent))
        parts = [
            self._sample_part(min(rows, n - start), generator, labels)
            for start in range(0, n, rows)
        ]
        return self.from_standard(torch.cat(parts))


class GroupSymbolPrior(_WithEnergies, SymbolPrior):
    """The joint EBM on all groups, one level: exp(sum_g F_g(z_g)) N(u; 0, I) / Z.

    Cui and Han (2024), eq. 8.
    """

    @torch.no_grad()
    def _sample_part(self, n: int, generator: torch.Generator, labels: list[int] | None) -> Tensor:
        zeros = torch.zeros(n, self.latent, device=self.shift_D.device)
        t_B = torch.zeros(n, dtype=torch.long, device=zeros.device)
        frozen = self.net.freeze()
        return self.chain(zeros, t_B, generator, frozen.among(labels) if labels else frozen).x_BD


class GroupDiffusionPrior(_WithEnergies, DiffusionPrior):
    """Conditional EBMs on all groups, one per noise level of u: Cui and Han (2024), eq. 9."""

    def level_scale_T(self) -> Tensor:
        return self._tensor(self.schedule.scale[1:])

    def step2_T(self) -> Tensor:
        step2 = super().step2_T()
        if self.config.sampler.rule == "published":  # there it is the step of u, not of v
            return step2 * self.level_scale_T().square()
        return step2

    def chain_start(self, u_next_BD: Tensor, t_B: Tensor, generator: Stream) -> Tensor:
        start = super().chain_start(u_next_BD, t_B, generator)
        if self.config.sampler.start == "previous":  # there u starts at u_{t+1}
            return start * self.level_scale_T()[t_B].unsqueeze(-1)
        return start

    @torch.no_grad()
    def _sample_part(self, n: int, generator: torch.Generator, labels: list[int] | None) -> Tensor:
        free = self.net.freeze()
        frozen_T: list[Frozen] = [free] * self.levels
        if labels is not None:
            known = self.levels if self.section.label_levels == "all" else 1
            frozen_T[:known] = [free.among(labels)] * known
        return self.sample_levels(n, generator, frozen_T)[0]
