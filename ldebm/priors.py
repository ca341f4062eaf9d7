"""Priors of the latent vector: Gaussian, symbol-vector EBM (SVEBM), diffusion EBMs (LDEBM).

One density per prior, used by the sampler, the training terms, the class logits and the likelihood.
In standardised coordinates u = scale^-1 (z - shift), with F(v, t) = logsumexp_k f_k(v, t):

    SVEBM    p(u)             = exp(F(u)) N(u; 0, I) / Z                              (001, eq. 2)
    LDEBM    p(v_t | u_{t+1}) = exp(F(v_t, t)) N(v_t; m_t(u_{t+1}), s_t^2 I) / Z_t(u_{t+1})  (A1)
             p(y | u_0)       = softmax f(v_0, 0),   v_t = c_{t+1} u_t

The kernel N(v; m, s^2) is the paper's recovery kernel (m = u_{t+1}, s = sigma_{t+1}; at the top
m = 0, s = sigma_T). With ``base`` the energy contains the quadratic under which a constant network
is exactly N(0, I) at every level; it is written into the kernel: m = a^2 u_{t+1}, s = a sigma
(at the top m = 0, s = 1). Of dialogues the energies read the context too, f(v, t, c); the kernels
do not.

Shapes: B batch, D latent dimension, K classes, T levels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ldebm.config import PriorConfig
from ldebm.diffusion import Schedule, make_schedule
from ldebm.errors import UsageError
from ldebm.graphs import replay_chain
from ldebm.langevin import Chain, Conditional
from ldebm.nn.backbone import Backbone
from ldebm.nn.energy import Energies, EnergyNet, Folded, FoldedEnergy, GivenEnergy, rows_of

__all__ = [
    "DiffusionPrior",
    "EnergyPrior",
    "GaussianPrior",
    "Pairs",
    "Prior",
    "SymbolPrior",
    "build_prior",
]

LOG_2PI = math.log(2 * math.pi)
CLASS_DRAWS = 512  # at least, in each of the rounds that look for a class given a context
CLASS_ROUNDS = 200


@dataclass(frozen=True)
class Pairs:
    """Positive examples of the conditional energies.

    Attributes:
        v_BD: scaled variables v_t, differentiable in the latent.
        t_B: level of each row.
        u_next_BD: the conditioning u_{t+1} (unused at the top and by SVEBM).
        weight_B: loss weight of each row.
    """

    v_BD: Tensor
    t_B: Tensor
    u_next_BD: Tensor
    weight_B: Tensor


class Prior(nn.Module):
    """N(0, I) in standardised coordinates; the base of the others.

    Args:
        latent: D.
        config: the experiment's prior section.
    """

    def __init__(self, latent: int, config: PriorConfig) -> None:
        super().__init__()
        self.latent, self.classes, self.config = latent, config.classes, config
        self.register_buffer("shift_D", torch.zeros(latent))
        self.shift_D: Tensor
        self.scale_DD: Tensor
        self.inverse_DD: Tensor
        self._add_scale()

    def _add_scale(self) -> None:
        self.register_buffer("scale_DD", torch.eye(self.latent))
        self.register_buffer("inverse_DD", torch.eye(self.latent))

    @torch.no_grad()
    def fit_standardisation(self, mu_BD: Tensor, logvar_BD: Tensor) -> None:
        """Takes shift and scale from the aggregate posterior's mean and covariance."""
        if self.config.standardise == "none":
            return
        mu = mu_BD.double()
        covariance = torch.cov(mu.t()).reshape(self.latent, self.latent)
        covariance = covariance + torch.diag(logvar_BD.double().exp().mean(0))
        if self.config.standardise == "diagonal":
            covariance = torch.diag(covariance.diagonal())
        scale = torch.linalg.cholesky(covariance)
        self.shift_D.copy_(mu.mean(0))
        self.scale_DD.copy_(scale)
        self.inverse_DD.copy_(torch.linalg.inv(scale))

    def to_standard(self, z_BD: Tensor) -> Tensor:
        """u = scale^-1 (z - shift)."""
        return (z_BD - self.shift_D) @ self.inverse_DD.t()

    def from_standard(self, u_BD: Tensor) -> Tensor:
        """z = shift + scale u."""
        return u_BD @ self.scale_DD.t() + self.shift_D

    def log_det(self) -> Tensor:
        """log |det scale|: log p(z) = log p(u) - log_det()."""
        return self.scale_DD.diagonal().log().sum()

    @property
    def has_classes(self) -> bool:
        """Whether p(y|z) says anything."""
        return False

    def class_logits(self, z_BD: Tensor) -> Tensor:
        """Unnormalised log p(y|z), shape (B, K)."""
        return z_BD.new_zeros(len(z_BD), self.classes)

    @property
    def contextual(self) -> bool:
        """Whether the density is one of z given a context."""
        return False

    def given(self, context_BC: Tensor) -> Self:
        """p(z|c) of these contexts: row i of whatever is asked has context i modulo B.

        The parameters are the same, not copies. A prior without contexts is returned as it is.
        """
        del context_BC
        return self

    def sample(
        self,
        n: int,
        generator: torch.Generator,
        label: int | Sequence[int] | None = None,
        context_BC: Tensor | None = None,
    ) -> Tensor:
        """n latents in the backbone's coordinates, shape (n, D).

        Args:
            n: how many.
            generator: source of all noise.
            label: draw from p(z | y = label) instead of p(z), or from p(z | y is one of several).
            context_BC: draw from p(z | c); draw i has context i modulo B.
        """
        if context_BC is not None:
            return self.given(context_BC).sample(n, generator, label)
        if label is None:
            return self.from_standard(self.sample_standard(n, generator))
        labels = [label] if isinstance(label, int) else list(label)
        for item in labels:
            if not 0 <= item < self.classes:
                raise UsageError(f"label {item}: expected a class from 0 to {self.classes - 1}")
        return self.sample_class(n, labels, generator)

    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws of u, shape (n, D)."""
        device = self.shift_D.device
        return torch.randn(n, self.latent, generator=generator, device=device)

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        """Exact draws from p(z|y) by rejection: a draw of p(z) is kept with probability p(y|z)."""
        kept: list[Tensor] = []
        have, tried = 0, 0
        while have < n:
            z = self.propose_class(n, n - have, labels, generator)
            batch = len(z)
            probability = torch.softmax(self.class_logits(z), -1)[:, labels].sum(-1)
            uniform = torch.rand(batch, generator=generator, device=z.device)
            accepted = z[uniform < probability]
            kept.append(accepted)
            have, tried = have + len(accepted), tried + batch
            if tried > 2000 * n + 100_000:
                raise UsageError(
                    f"label {labels[0]}: the model gives this class a probability below "
                    f"{(have + 1) / tried:.1e}; it was never discovered, choose another"
                )
        return torch.cat(kept)[:n]

    def propose_class(
        self, n: int, missing: int, labels: list[int], generator: torch.Generator
    ) -> Tensor:
        """Latents among which :meth:`sample_class` chooses: draws of p(z), some for each wanted."""
        del missing, labels
        return self.from_standard(self.sample_standard(max(4 * n, 256), generator))


class GaussianPrior(Prior):
    """N(shift, scale scale^T): with ``standardise: none`` the VAE's own N(0, I)."""

    def log_prob(self, z_BD: Tensor) -> Tensor:
        """Exact log p(z), shape (B,)."""
        u = self.to_standard(z_BD)
        return -0.5 * (u.square().sum(-1) + self.latent * LOG_2PI) - self.log_det()


class EnergyPrior(Prior):
    """What SVEBM and LDEBM share: energies F(v, t), chains and positive pairs."""

    levels: int

    def __init__(
        self,
        latent: int,
        config: PriorConfig,
        levels: int,
        generator: torch.Generator | None,
        context: int = 0,
    ) -> None:
        super().__init__(latent, config)
        self.levels, self.context = levels, context
        self.net = self._make_net(generator)
        self.register_buffer("step_T", torch.full((levels,), config.sampler.step))
        self.register_buffer("acceptance_T", torch.ones(levels))
        self.step_T: Tensor
        self.acceptance_T: Tensor

    def _make_net(self, generator: torch.Generator | None) -> Energies:
        config, context = self.config, self.context
        return EnergyNet(
            self.latent, config.classes, self.levels, config.energy, generator, context
        )

    @property
    def has_classes(self) -> bool:
        return True

    @property
    def contextual(self) -> bool:
        return self.context > 0

    @property
    def contexts_BC(self) -> Tensor | None:
        """The contexts that this prior was given."""
        return self.net.context_BC if isinstance(self.net, GivenEnergy) else None

    def given(self, context_BC: Tensor) -> Self:
        if not self.contextual:
            return self
        net = self.net.net if isinstance(self.net, GivenEnergy) else self.net
        assert isinstance(net, EnergyNet)
        bound = copy.copy(self)
        bound._modules = {**self._modules, "net": net.given(context_BC)}
        return bound

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        if not isinstance(self.net, GivenEnergy):
            return super().sample_class(n, labels, generator)
        context = rows_of(self.net.context_BC, n)
        found = context.new_zeros(n, self.latent)
        waiting = torch.arange(n, device=context.device)
        for _ in range(CLASS_ROUNDS):
            copies = max(1, CLASS_DRAWS // len(waiting))
            mine = self.given(context[waiting])
            draws = copies * len(waiting)
            z = mine.from_standard(mine.sample_standard(draws, generator))
            probability = torch.softmax(mine.class_logits(z), -1)[:, labels].sum(-1)
            uniform = torch.rand(draws, generator=generator, device=z.device)
            accepted = (uniform < probability).view(copies, -1)
            first, done = accepted.int().argmax(0), accepted.any(0)
            z = z.view(copies, len(waiting), -1)[first, torch.arange(len(waiting))]
            found[waiting[done]] = z[done]
            waiting = waiting[~done]
            if not len(waiting):
                return found
        raise UsageError(
            f"label {labels[0]}: after one of the contexts the model hardly ever gives this class; "
            "choose another, or ask for none"
        )

    def kernel_tables(self) -> tuple[Tensor, Tensor]:
        """(factor_T, variance_T): the kernel at level t is N(v; factor_t u_{t+1}, variance_t I)."""
        raise TypeError(f"{type(self).__name__} must define its kernel")

    def temperature_T(self, *, of_sampler: bool) -> Tensor:
        """What F is divided by at each level, in the sampler or in the stated density (MR 10.1)."""
        del of_sampler
        return torch.ones(self.levels, device=self.shift_D.device)

    def pairs(self, u0_BD: Tensor, generator: torch.Generator) -> Pairs:
        """Positive examples from standardised level-0 latents."""
        raise TypeError(f"{type(self).__name__} must define its pairs")

    def level_zero(self, u_BD: Tensor, generator: torch.Generator) -> Tensor:
        """The level-0 variable of a standardised encoder sample."""
        del generator
        return u_BD

    def scale_zero(self) -> float:
        """c_1, between u_0 and the argument v_0 of the class logits."""
        return 1.0

    @property
    def labels_at_zero(self) -> bool:
        """Whether the classes are learnt at level 0 alone, as published, or at every level."""
        return True

    @property
    def trains_classes(self) -> bool:
        """Whether labelled rows train the density of their class, p(u|y), instead of p(u)."""
        return False

    def folded_for(self, own_B: Tensor | None) -> Folded:
        """The network at its present weights; with ``own_B`` every row's chain draws its class."""
        assert own_B is None
        return self.net.fold()

    def class_rows(
        self, pairs: Pairs, u0_BD: Tensor, *, unlabelled: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Further (v, t) at which the class terms are asked; none: at the positive examples."""
        del pairs, unlabelled
        zero_B = torch.zeros(len(u0_BD), dtype=torch.long, device=u0_BD.device)
        return [self.scale_zero() * u0_BD], [zero_B]

    def negative_energy(self, v_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """F(v, t), shape (B,)."""
        return torch.logsumexp(self.net(v_BD, t_B), -1)

    def class_logits(self, z_BD: Tensor) -> Tensor:
        logits: Tensor = self.net(self.scale_zero() * self.to_standard(z_BD), 0)
        return logits

    def base_kernel(self, u_next_BD: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and variance (B, 1) of the Gaussian part of the conditional at level t."""
        factor, variance = self.kernel_tables()
        return factor[t_B].unsqueeze(-1) * u_next_BD, variance[t_B].unsqueeze(-1)

    def step2_T(self) -> Tensor:
        """Squared step size of each level."""
        return self.step_T * self.kernel_tables()[1]

    @torch.no_grad()
    def chain(
        self,
        u_next_BD: Tensor,
        t_B: Tensor,
        generator: torch.Generator,
        folded: Folded | None = None,
        start_BD: Tensor | None = None,
        steps: int | None = None,
    ) -> Chain:
        """Samples v_t given u_{t+1}, all levels together.

        Args:
            u_next_BD: conditioning u_{t+1}.
            t_B: level of each row.
            generator: source of the noise.
            folded: weights folded beforehand, to save doing it again.
            start_BD: initial states; by default those that ``sampler.start`` names.
            steps: moves; by default ``sampler.steps``.
        """
        sampler = self.config.sampler
        if start_BD is None:
            start_BD = self.chain_start(u_next_BD, t_B, generator)
        moves, folded = steps or sampler.steps, folded or self.net.fold()
        mean, variance = self.base_kernel(u_next_BD, t_B)
        cold = 1.0 / self.temperature_T(of_sampler=True)[t_B].unsqueeze(-1)
        step2 = self.step2_T()[t_B].unsqueeze(-1)
        problem = Conditional(start_BD, mean, variance, cold, step2, t_B)
        graph = sampler.graph and u_next_BD.is_cuda
        graph = graph and isinstance(folded, FoldedEnergy) and folded.context_BH is None
        if graph and isinstance(folded, FoldedEnergy) and folded.merge is not None:
            replayed = replay_chain(self, folded.packed, problem, sampler.method, moves, generator)
            if replayed is not None:
                return replayed
        return problem.run(sampler.method, folded.value_and_gradient, moves, generator)

    def chain_start(self, u_next_BD: Tensor, t_B: Tensor, generator: torch.Generator) -> Tensor:
        """Initial states of the chains."""
        start = self.config.sampler.start
        if start == "previous":
            return u_next_BD
        shape, device = u_next_BD.shape, u_next_BD.device
        noise = torch.randn(shape, generator=generator, device=device, dtype=u_next_BD.dtype)
        if start == "noise":
            return noise
        mean, variance = self.base_kernel(u_next_BD, t_B)
        return mean + variance.sqrt() * noise

    @torch.no_grad()
    def observe_acceptance(self, chain: Chain, t_B: Tensor, update: int) -> None:
        """Logs the acceptance of each level and, with ``adapt``, steers its step to the target."""
        one_hot = nn.functional.one_hot(t_B, self.levels).to(chain.acceptance_B.dtype)
        count_T = one_hot.sum(0)
        mean_T = (one_hot * chain.acceptance_B.unsqueeze(-1)).sum(0) / count_T.clamp(min=1)
        seen = count_T > 0
        self.acceptance_T.lerp_(torch.where(seen, mean_T, self.acceptance_T), 0.05)
        sampler = self.config.sampler
        if sampler.adapt and sampler.method != "ula":
            rate = 0.2 / math.sqrt(1 + update / 50)
            change = torch.exp(rate * (mean_T - sampler.target))
            self.step_T.mul_(torch.where(seen, change, torch.ones_like(change)))
            self.step_T.clamp_(1e-4, 1.0 if sampler.method == "pcnl" else 4.0)


class SymbolPrior(EnergyPrior):
    """SVEBM (001): p(u) proportional to exp(F(u)) N(u; 0, I), one level and no noise."""

    def __init__(
        self,
        latent: int,
        config: PriorConfig,
        generator: torch.Generator | None = None,
        context: int = 0,
    ) -> None:
        super().__init__(latent, config, 1, generator, context)

    def kernel_tables(self) -> tuple[Tensor, Tensor]:
        one = torch.ones(1, device=self.shift_D.device)
        return torch.zeros_like(one), one

    def pairs(self, u0_BD: Tensor, generator: torch.Generator) -> Pairs:
        t_B = torch.zeros(len(u0_BD), dtype=torch.long, device=u0_BD.device)
        return Pairs(u0_BD, t_B, torch.zeros_like(u0_BD), torch.ones_like(u0_BD[:, 0]))

    @torch.no_grad()
    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        zeros = torch.zeros(n, self.latent, device=self.shift_D.device)
        t_B = torch.zeros(n, dtype=torch.long, device=zeros.device)
        return self.chain(zeros, t_B, generator).x_BD


class DiffusionPrior(EnergyPrior):
    """LDEBM: a chain of T conditional EBMs (A1), sampled from the top level down."""

    def __init__(
        self,
        latent: int,
        config: PriorConfig,
        generator: torch.Generator | None = None,
        context: int = 0,
    ) -> None:
        super().__init__(latent, config, config.levels, generator, context)
        self.schedule: Schedule = make_schedule(config.levels)

    def _tensor(self, table: object) -> Tensor:
        return torch.as_tensor(table, dtype=self.shift_D.dtype, device=self.shift_D.device)

    def kernel_tables(self) -> tuple[Tensor, Tensor]:
        a, sigma = self.schedule.a[1:], self.schedule.sigma[1:]
        if self.config.base:
            factor, variance = a**2, a**2 * sigma**2
            top_variance = 1.0
        else:
            factor, variance = a * 0 + 1, sigma**2
            top_variance = float(sigma[-1] ** 2)
        factor[-1], variance[-1] = 0.0, top_variance
        return self._tensor(factor), self._tensor(variance)

    def step2_T(self) -> Tensor:
        sampler = self.config.sampler
        if sampler.rule == "published":
            return self._tensor(self.schedule.published_step(sampler.delta))
        return super().step2_T()

    def temperature_T(self, *, of_sampler: bool) -> Tensor:
        scale = self.config.energy_scale
        if scale == "consistent" or (scale == "code" and of_sampler):
            return self._tensor(self.schedule.published_step(self.config.sampler.delta))
        return torch.ones(self.levels, device=self.shift_D.device)

    def scale_zero(self) -> float:
        return float(self.schedule.scale[1])

    def level_zero(self, u_BD: Tensor, generator: torch.Generator) -> Tensor:
        if not self.config.level_noise:
            return u_BD
        noise = _noise_like(u_BD, generator)
        return float(self.schedule.abar[0]) * u_BD + float(self.schedule.sbar[0]) * noise

    def pairs(self, u0_BD: Tensor, generator: torch.Generator) -> Pairs:
        """(v_t, u_{t+1}) with t uniform, or as published: t < T-1 at random, and T-1 for all."""
        rows, top = len(u0_BD), self.levels - 1
        published = self.config.t_sampling == "published"
        high = top if published else self.levels
        t_B = torch.randint(0, high, (rows,), generator=generator, device=u0_BD.device)
        if published:
            t_B = torch.cat([t_B, torch.full_like(t_B, top)])
            u0_BD = torch.cat([u0_BD, u0_BD])
        schedule = self.schedule
        # From level 0 to level t: signal abar_t / abar_0, so that the level-0 noise is shared.
        keep = schedule.abar[:-1] / schedule.abar[0]
        keep_B = self._tensor(keep)[t_B].unsqueeze(-1)
        u_t = keep_B * u0_BD + (1 - keep_B.square()).clamp(min=0).sqrt() * _noise_like(
            u0_BD, generator
        )
        u_next = schedule.step(u_t, t_B + 1, _noise_like(u0_BD, generator))
        v = self._tensor(schedule.scale[1:])[t_B].unsqueeze(-1) * u_t
        return Pairs(v, t_B, u_next, self.weight_T()[t_B])

    def weight_T(self) -> Tensor:
        """What the loss of every level is multiplied by."""
        if self.config.t_weight == "published":
            return self._tensor(self.schedule.published_weight())
        if self.config.t_weight == "step":
            return self._tensor(1 / self.schedule.published_step(self.config.sampler.delta))
        return torch.ones(self.levels, device=self.shift_D.device)

    @torch.no_grad()
    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        return self.sample_levels(n, generator)[0]

    @torch.no_grad()
    def sample_levels(
        self,
        n: int,
        generator: torch.Generator,
        folded_T: Sequence[Folded] | None = None,
        moves_T: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """[u_0, ..., u_{T-1}] of n reverse trajectories, each (n, D).

        Args:
            n: how many.
            generator: source of all noise.
            folded_T: the energies of every level; by default those of p(z).
            moves_T: of every level; by default the sampler's.
        """
        folded_T = folded_T or [self.net.fold()] * self.levels
        moves_T = moves_T or self.config.sampler.moves(self.levels)
        device = self.shift_D.device
        u = torch.randn(n, self.latent, generator=generator, device=device)
        states: list[Tensor] = []
        for t in reversed(range(self.levels)):
            t_B = torch.full((n,), t, dtype=torch.long, device=device)
            v = self.chain(u, t_B, generator, folded_T[t], steps=moves_T[t]).x_BD
            u = v / float(self.schedule.scale[t + 1])
            states.append(u)
        return states[::-1]


def _noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def build_prior(
    backbone: Backbone | int, config: PriorConfig, generator: torch.Generator | None = None
) -> Prior:
    """The prior that ``config.kind`` names, with initial weights from ``generator``.

    Args:
        backbone: whose latents they are, or only their dimension D. A hierarchical one is held by
            its prior, frozen.
        config: the experiment's prior section.
        generator: initial weights.
    """
    from ldebm.nn.hierarchy import HierarchicalBackbone

    if isinstance(backbone, HierarchicalBackbone):
        from ldebm.hierarchical_priors import build_hierarchical

        return build_hierarchical(backbone, config, generator)
    if config.kind == "own":
        return _own_prior(backbone, config, generator)
    latent, context = backbone, 0
    if not isinstance(backbone, int):
        latent, context = backbone.latent, backbone.context_size
    assert isinstance(latent, int)
    if config.kind == "gaussian":
        return GaussianPrior(latent, config)
    if config.kind == "classifier":
        from ldebm.classifier import ClassifierPrior

        return ClassifierPrior(latent, config, generator)
    if config.kind == "svebm":
        return SymbolPrior(latent, config, generator, context)
    return DiffusionPrior(latent, config, generator, context)


def _own_prior(
    backbone: Backbone | int, config: PriorConfig, generator: torch.Generator | None
) -> Prior:
    from ldebm.baselines.model import Baseline
    from ldebm.baselines.policy import PolicyPrior
    from ldebm.baselines.prior import OwnPrior

    if not isinstance(backbone, Baseline):
        raise UsageError("prior.kind 'own': the backbone is no baseline; use another prior")
    if backbone.context_size and backbone.baseline.coded:
        return PolicyPrior(backbone, config, generator)
    return OwnPrior(backbone, config)
