"""What the energy-based priors share: energies F(v, t), Langevin chains and positive pairs.

Shapes: B batch, D latent dimension, C context, K classes, T levels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ldebm.config import MixtureConfig, PriorConfig
from ldebm.draws import Stream, Streams, normal
from ldebm.errors import UsageError
from ldebm.priors.base import Posteriors, Prior
from ldebm.priors.base_measure import DiffusedMixture
from ldebm.priors.energy_net import ConditionedEnergy, EnergyNet, FrozenEnergy, rows_of
from ldebm.priors.frozen import Energies, Frozen
from ldebm.priors.graphs import replay_chain
from ldebm.priors.langevin import Chain, Conditional
from ldebm.priors.mixture import Mixture, draws_to_fit
from ldebm.priors.schedule import Schedule

__all__ = ["EnergyPrior", "Pairs"]

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


class EnergyPrior(Prior):
    """Conditional energies F(v, t) of T levels, their chains and positive pairs.

    Args:
        latent: D.
        config: the experiment's prior section.
        schedule: of the noise; its levels are those of the prior.
        generator: initial weights.
        context: C of the contexts that the energies read; 0: none.
    """

    def __init__(
        self,
        latent: int,
        config: PriorConfig,
        schedule: Schedule,
        generator: torch.Generator | None,
        context: int = 0,
    ) -> None:
        super().__init__(latent, config)
        self.schedule, self.context = schedule, context
        self.net = self._make_net(generator)
        self._diffused: tuple[object, DiffusedMixture] | None = None
        if config.base_measure == "mixture":
            self._add_mixture()
        self.register_buffer("step_T", torch.full((self.levels,), config.sampler.step))
        self.register_buffer("acceptance_T", torch.ones(self.levels))
        self.step_T: Tensor
        self.acceptance_T: Tensor

    def _make_net(self, generator: torch.Generator | None) -> Energies:
        config, context = self.config, self.context
        return EnergyNet(
            self.latent, config.classes, self.levels, config.energy, generator, context
        )

    def _add_mixture(self) -> None:
        settings = self.config.mixture or MixtureConfig()
        self.mixture = Mixture(max(settings.components), self.latent)
        self.net.base = self.base_measure

    def base_measure(self) -> DiffusedMixture:
        """The mixture that the energies tilt, at the levels of the schedule."""
        mean = self.mixture.mean_KD
        now = (mean.data_ptr(), mean._version)
        if self._diffused is None or self._diffused[0] != now:
            level_noise = self.config.level_noise
            self._diffused = (
                now, DiffusedMixture(self.mixture, self.schedule, level_noise=level_noise)
            )  # fmt: skip
        return self._diffused[1]

    @torch.no_grad()
    def fit_mixture(self, z_ND: Tensor, held_out_ND: Tensor, seed: int) -> None:
        """Fits the base measure to draws of the aggregate posterior; held-out ones choose K."""
        settings = self.config.mixture or MixtureConfig()
        draws = self.to_standard(z_ND), self.to_standard(held_out_ND)
        self.mixture.fit(*draws, settings.components, seed)

    @property
    def tilted(self) -> DiffusedMixture | None:
        """The base measure where it is not N(0, I)."""
        return self.base_measure() if self.config.base_measure == "mixture" else None

    def fit(self, train: Posteriors, held_out: Posteriors, seed: int) -> None:
        super().fit(train, held_out, seed)
        if self.config.base_measure == "mixture":
            settings = self.config.mixture or MixtureConfig()
            self.fit_mixture(*draws_to_fit(settings, train, held_out, seed), seed)

    @property
    def levels(self) -> int:
        return self.schedule.levels

    @property
    def energies(self) -> Self:
        return self

    @property
    def has_classes(self) -> bool:
        return True

    @property
    def contextual(self) -> bool:
        return self.context > 0

    @property
    def contexts_BC(self) -> Tensor | None:
        """The contexts that this prior was given."""
        return self.net.context_BC if isinstance(self.net, ConditionedEnergy) else None

    def conditioned_on(self, context_BC: Tensor) -> Self:
        if not self.contextual:
            return self
        net = self.net.net if isinstance(self.net, ConditionedEnergy) else self.net
        assert isinstance(net, EnergyNet)
        bound = copy.copy(self)
        bound._modules = {**self._modules, "net": net.conditioned_on(context_BC)}
        return bound

    def sample_class(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        if not isinstance(self.net, ConditionedEnergy):
            return super().sample_class(n, labels, generator)
        context = rows_of(self.net.context_BC, n)
        z_BD = context.new_zeros(n, self.latent)
        waiting = torch.arange(n, device=context.device)
        for _ in range(CLASS_ROUNDS):
            copies = max(1, CLASS_DRAWS // len(waiting))
            mine = self.conditioned_on(context[waiting])
            draws = copies * len(waiting)
            z = mine.from_standard(mine.sample_standard(draws, generator))
            probability = torch.softmax(mine.class_logits(z), -1)[:, labels].sum(-1)
            uniform = torch.rand(draws, generator=generator, device=z.device)
            accepted = (uniform < probability).view(copies, -1)
            first, done = accepted.int().argmax(0), accepted.any(0)
            z = z.view(copies, len(waiting), -1)[first, torch.arange(len(waiting))]
            z_BD[waiting[done]] = z[done]
            waiting = waiting[~done]
            if not len(waiting):
                return z_BD
        raise UsageError(
            f"label {labels[0]}: after one of the contexts the model hardly ever gives this class; "
            "choose another, or ask for none"
        )

    def kernel_tables(self) -> tuple[Tensor, Tensor]:
        """(factor_T, variance_T): the kernel at level t is N(v; factor_t u_{t+1}, variance_t I)."""
        raise TypeError(f"{type(self).__name__} must define its kernel")

    def temperature_T(self, *, of_sampler: bool) -> Tensor:
        """What F is divided by at each level, in the sampler or in the stated density.

        docs/method.md, section 3.2.
        """
        del of_sampler
        return torch.ones(self.levels, device=self.shift_D.device)

    def pairs(self, u0_BD: Tensor, generator: Stream) -> Pairs:
        """Positive examples from standardised level-0 latents."""
        raise TypeError(f"{type(self).__name__} must define its pairs")

    def level_zero(self, u_BD: Tensor, generator: Stream) -> Tensor:
        """The level-0 variable of a standardised encoder sample."""
        del generator
        return u_BD

    def scale_zero(self) -> float:
        """c_1, between u_0 and the argument v_0 of the class logits."""
        return float(self.schedule.scale[1])

    @property
    def labels_at_zero(self) -> bool:
        """Whether the classes are learnt at level 0 alone, as published, or at every level."""
        return True

    @property
    def trains_classes(self) -> bool:
        """Whether labelled rows train the density of their class, p(u|y), instead of p(u)."""
        return False

    def frozen_for(self, class_B: Tensor | None) -> Frozen:
        """The network, its weights frozen; with ``class_B`` every row's chain draws its class."""
        assert class_B is None
        return self.net.freeze()

    def class_rows(
        self, pairs: Pairs, u0_BD: Tensor, *, unlabelled: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Further (v, t) at which the class terms are asked; none: at the positive examples."""
        del pairs, unlabelled
        zero_B = torch.zeros(len(u0_BD), dtype=torch.long, device=u0_BD.device)
        return [self.scale_zero() * u0_BD], [zero_B]

    def negative_energy(self, v_BD: Tensor, t_B: Tensor | int) -> Tensor:
        """F(v, t), shape (B,): Pang and Wu (2021), eq. 5."""
        return torch.logsumexp(self.net(v_BD, t_B), -1)

    def class_logits(self, z_BD: Tensor) -> Tensor:
        # f(v_0, 0): Pang and Wu (2021), eq. 3; Yu et al. (2022), eq. A9
        logits: Tensor = self.net(self.scale_zero() * self.to_standard(z_BD), 0)
        return logits

    def base_kernel(self, u_next_BD: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and variance (B, 1) of the Gaussian part of the conditional at level t."""
        factor, variance = self.kernel_tables()
        return factor[t_B].unsqueeze(-1) * u_next_BD, variance[t_B].unsqueeze(-1)

    def step2_T(self) -> Tensor:
        """Squared step size of each level."""
        return self.step_T * self.kernel_tables()[1]

    def step2(self, t_B: Tensor) -> Tensor:
        """Squared step size of each row, (B, 1)."""
        return self.step2_T()[t_B].unsqueeze(-1)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of several tensors as one batch for the network."""
        return torch.cat(list(parts))

    @torch.no_grad()
    def chain(
        self,
        u_next_BD: Tensor,
        t_B: Tensor,
        generator: Stream,
        frozen: Frozen | None = None,
        start_BD: Tensor | None = None,
        steps: int | None = None,
    ) -> Chain:
        """Samples v_t given u_{t+1}, all levels together.

        Args:
            u_next_BD: conditioning u_{t+1}.
            t_B: level of each row.
            generator: source of the noise.
            frozen: weights frozen beforehand, to save doing it again.
            start_BD: initial states; by default those that ``sampler.start`` names.
            steps: moves; by default ``sampler.steps``.
        """
        sampler = self.config.sampler
        if start_BD is None:
            start_BD = self.chain_start(u_next_BD, t_B, generator)
        moves, frozen = steps or sampler.steps, frozen or self.net.freeze()
        mean, variance = self.base_kernel(u_next_BD, t_B)
        inverse_temperature = 1.0 / self.temperature_T(of_sampler=True)[t_B].unsqueeze(-1)
        problem = Conditional(start_BD, mean, variance, inverse_temperature, self.step2(t_B), t_B)
        graph = sampler.graph and u_next_BD.is_cuda
        graph = graph and isinstance(frozen, FrozenEnergy) and frozen.context_BH is None
        graph = graph and isinstance(frozen, FrozenEnergy) and frozen.merge is not None
        if graph and isinstance(frozen, FrozenEnergy) and not isinstance(generator, Streams):
            replayed = replay_chain(self, frozen.packed, problem, sampler.method, moves, generator)
            if replayed is not None:
                return replayed
        return problem.run(sampler.method, frozen.value_and_gradient, moves, generator)

    def chain_start(self, u_next_BD: Tensor, t_B: Tensor, generator: Stream) -> Tensor:
        """Initial states of the chains."""
        start = self.config.sampler.start
        if start == "previous":
            return u_next_BD
        if start == "base" and (mixture := self.tilted) is not None:
            return mixture.draw(u_next_BD, t_B, generator)
        noise = normal(tuple(u_next_BD.shape), generator, u_next_BD.device, u_next_BD.dtype)
        if start == "noise":
            return noise
        mean, variance = self.base_kernel(u_next_BD, t_B)
        return mean + variance.sqrt() * noise

    @torch.no_grad()
    def sample_standard(self, n: int, generator: torch.Generator) -> Tensor:
        return self.sample_levels(n, generator)[0]

    @torch.no_grad()
    def sample_levels(
        self,
        n: int,
        generator: torch.Generator,
        frozen_T: Sequence[Frozen] | None = None,
        moves_T: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """[u_0, ..., u_{T-1}] of n reverse trajectories, each (n, D).

        Args:
            n: how many.
            generator: source of all noise.
            frozen_T: the energies of every level; by default those of p(z).
            moves_T: of every level; by default the sampler's.
        """
        frozen_T = frozen_T or [self.net.freeze()] * self.levels
        moves_T = moves_T or self.config.sampler.moves(self.levels)
        device = self.shift_D.device
        u = self.top_state(n, generator)
        states: list[Tensor] = []
        for t in reversed(range(self.levels)):
            t_B = torch.full((n,), t, dtype=torch.long, device=device)
            # v_t ~ p(v_t | u_{t+1}), Yu et al. (2022), eq. A2; then u_t = v_t / c_{t+1}
            v = self.chain(u, t_B, generator, frozen_T[t], steps=moves_T[t]).x_BD
            u = v / float(self.schedule.scale[t + 1])
            states.append(u)
        return states[::-1]

    def top_state(self, n: int, generator: torch.Generator) -> Tensor:
        """What the top level is conditioned on, (n, D); its kernel does not depend on it."""
        raise TypeError(f"{type(self).__name__} must define its top level")

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
