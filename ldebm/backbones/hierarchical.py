"""Hierarchical VAEs in coordinates u, in which their Gaussian prior is N(0, I).

Cui and Han (2024), section 3.1; docs/method.md, section 2.6.

Groups g = 0..G-1 stand top first. The prior is z_g ~ N(mu_g(z_<g), sigma_g(z_<g)^2), so that
z = T(u) with z_g = mu_g + sigma_g u_g is an invertible map with a triangular Jacobian (Cui and Han
(2024), eq. 15). **The latent of these models is u**, the flattened groups one after the other:
p(u) = N(0, I), and a learned prior on u needs no Jacobian.

Shapes: B batch, D all latent variables, G groups; x_BCHW pixels in [-1, 1].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldebm.backbones.base import Backbone
from ldebm.nn.logistic import PixelLikelihood

__all__ = ["Gaussian", "Group", "HierarchicalBackbone", "Pick", "Posterior", "full"]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Group:
    """One group of latent variables.

    Attributes:
        shape: (D,) of a dense group, (C, H, W) of a convolutional one.
    """

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of its variables."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian of one group: mean and standard deviation, each (B, *shape)."""

    mu: Tensor
    sigma: Tensor

    def log_density(self, z: Tensor) -> Tensor:
        """log N(z; mu, sigma^2) per row, shape (B,)."""
        u = (z - self.mu) / self.sigma
        return (-0.5 * (u.square() + LOG_2PI) - self.sigma.log()).flatten(1).sum(1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) per row, shape (B,)."""
        ratio = self.sigma / other.sigma
        shift = (self.mu - other.mu) / other.sigma
        return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).flatten(1).sum(1)


@dataclass(frozen=True)
class Posterior:
    """A draw of q(z|x) and what is known of it.

    Attributes:
        u_BD: the draw in u.
        z: the same draw by group.
        kl_BG: KL(q_g || p_g) given the groups above, in nats: in closed form, or, where flows make
            q_g another density than a Gaussian, its one-sample estimate log q_g - log p_g.
        log_q_B: log q(u|x), the density in u.
        logvar_BD: log-variance of the Gaussian part of q in u.
        state: what the pixel decoder starts from.
    """

    u_BD: Tensor
    z: list[Tensor]
    kl_BG: Tensor
    log_q_B: Tensor
    logvar_BD: Tensor
    state: Tensor


Pick = Callable[[int, Gaussian, Tensor], Tensor]
"""Chooses z_g, given g, p(z_g|z_<g) and the decoder's state above the group."""


class HierarchicalBackbone(Backbone):
    """A first-stage model with groups of latent variables.

    A subclass says how its encoder reads x (``features``), how its decoder walks from the top to
    the last group asking for every z_g (``descend``), what the posterior of a group is
    (``posterior_of``), and how pixels follow (``pixels``). The rest is here, once.

    Attributes:
        groups: of latent variables, top first.
        latent: D, the sum of their sizes.
        likelihood: p(x | parameters of the pixels).
        has_flows: whether the posterior of a group is a Gaussian only before its flows.
        kl_start: weight of the KL at the beginning of its warm-up, over its last one.
        kl_free: (G) nats of every group that cost nothing; ``None``: all cost.
        kl_share: (G) what a group should hold while the KL is balanced; ``None``: it is not.
    """

    groups: tuple[Group, ...]
    likelihood: PixelLikelihood
    hierarchical = True
    rows_at_once = 250
    has_flows: bool = False
    kl_start: float = 0.0
    kl_free: Tensor | None = None
    kl_share: Tensor | None = None

    @abstractmethod
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the encoder extracts for every group, top first."""

    @abstractmethod
    def descend(self, pick: Pick, rows: int, *, finish: bool) -> Tensor:
        """Asks ``pick`` for every z_g, top first.

        Args:
            pick: called once per group.
            rows: B.
            finish: go on to the state that the pixel decoder starts from; without, the walk ends
                with the last group, and what it returns means nothing.
        """

    @abstractmethod
    def posterior_of(
        self, g: int, feature: Tensor, prior: Gaussian, state: Tensor
    ) -> tuple[Gaussian, Tensor]:
        """q(z_g | x, z_<g), and the features that flows of the group read."""

    @abstractmethod
    def pixels(self, state: Tensor) -> Tensor:
        """Parameters of the likelihood, (B, likelihood.channels, H, W), from the last state."""

    def flow(self, g: int, z: Tensor, feature: Tensor) -> Tensor:
        """The volume-preserving flow of q_g, if it has one."""
        return z

    def load_initial(self) -> None:
        """Replaces the initial weights by published ones, where the configuration names some."""

    def penalty(self, progress: float) -> Tensor | None:
        """What training adds to the loss for the model's own sake, a scalar.

        Args:
            progress: of the KL's warm-up, 0 to 1.
        """
        return None

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed training needs beside the weights."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Takes back what :meth:`training_state` gave."""

    def settle(self, batch: Callable[[int], Tensor], noise: Callable[[int], Tensor]) -> None:
        """Done once with the weights that training keeps.

        Args:
            batch: training images of a step.
            noise: (B, D) standard normal numbers of a step.
        """

    def posterior(self, x_BCHW: Tensor, noise_BD: Tensor | None) -> Posterior:
        """Draws from q(z|x).

        Args:
            x_BCHW: pixels in [-1, 1].
            noise_BD: standard normal noise of the draw; ``None``: every group at its mean.
        """
        features = self.features(self.likelihood.quantise(x_BCHW))
        return self._draw(features, len(x_BCHW), noise_BD, finish=True)

    def draws(self, x_BCHW: Tensor, noises_BD: Sequence[Tensor]) -> list[Tensor]:
        """Draws of q(u|x), (B, D) for each noise: the encoder's work once, no pixel decoder's."""
        features = self.features(self.likelihood.quantise(x_BCHW))
        rows = len(x_BCHW)
        return [self._draw(features, rows, noise, finish=False).u_BD for noise in noises_BD]

    def _draw(
        self, features: list[Tensor], rows: int, noise_BD: Tensor | None, *, finish: bool
    ) -> Posterior:
        """A draw, given the encoder's features; without ``finish`` its state means nothing."""
        noise = None if noise_BD is None else self.split(noise_BD)
        z, u, kl, log_q, logvar = [], [], [], [], []

        def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
            q, feature = self.posterior_of(g, features[g], prior, state)
            base = q.mu if noise is None else q.mu + q.sigma * noise[g]
            drawn = self.flow(g, base, feature)
            log_density = q.log_density(base)  # the flows keep volumes
            z.append(drawn)
            u.append((drawn - prior.mu) / prior.sigma)
            kl.append(log_density - prior.log_density(drawn) if self.has_flows else q.kl(prior))
            log_q.append(log_density + prior.sigma.log().flatten(1).sum(1))
            logvar.append(2 * (q.sigma / prior.sigma).log())
            return drawn

        state = self.descend(pick, rows, finish=finish)
        log_q_B = torch.stack(log_q, 1).sum(1)
        return Posterior(join(u), z, torch.stack(kl, 1), log_q_B, join(logvar), state)

    def encode(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The mean path in u, and the log-variance of q along it, each (B, D)."""
        features = self.features(self.likelihood.quantise(batch))
        posterior = self._draw(features, len(batch), None, finish=False)
        return posterior.u_BD, posterior.logvar_BD

    def summary(self, x_BD: Tensor) -> Tensor:
        """The top group, (B, C); a convolutional one as its mean over the places."""
        top = self.groups[0]
        return x_BD[:, : top.size].reshape(len(x_BD), top.shape[0], -1).mean(2)

    def to_z(self, u_BD: Tensor, temperature: float = 1.0) -> list[Tensor]:
        """z = T(u) by group; differentiable, and without the pixel decoder's work.

        Cui and Han (2024), eq. 15.
        """
        z: list[Tensor] = []
        self.descend(self._placing(u_BD, z, temperature), len(u_BD), finish=False)
        return z

    def to_u(self, z: Sequence[Tensor]) -> Tensor:
        """u = T^-1(z), shape (B, D)."""
        u: list[Tensor] = []

        def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
            u.append((z[g] - prior.mu) / prior.sigma)
            return z[g]

        self.descend(pick, len(z[0]), finish=False)
        return join(u)

    def log_det(self, u_BD: Tensor) -> Tensor:
        """log |det dz/du|, shape (B,): log p(z) = log p(u) - log_det(u).

        Cui and Han (2024), eq. 16, with the sign that it should have.
        """
        logs: list[Tensor] = []
        units = self.split(u_BD)

        def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
            logs.append(prior.sigma.log().flatten(1).sum(1))
            return prior.mu + prior.sigma * units[g]

        self.descend(pick, len(u_BD), finish=False)
        return torch.stack(logs, 1).sum(1)

    def pixel_parameters(self, u_BD: Tensor, temperature: float = 1.0) -> Tensor:
        """Parameters of p(x|u), (B, likelihood.channels, H, W).

        Args:
            u_BD: latents.
            temperature: factor of every sigma_g (Cui and Han (2024), figure 10).
        """
        placing = self._placing(u_BD, [], temperature)
        return self.pixels(self.descend(placing, len(u_BD), finish=True))

    def _placing(self, u_BD: Tensor, z: list[Tensor], temperature: float) -> Pick:
        """Chooses z_g = mu_g + temperature sigma_g u_g, and keeps it."""
        units = self.split(u_BD)

        def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
            # Cui and Han (2024), eq. 15
            z.append(prior.mu + temperature * prior.sigma * units[g])
            return z[-1]

        return pick

    def split(self, u_BD: Tensor) -> list[Tensor]:
        """The groups of flat latents, each (B, *shape)."""
        parts = torch.split(u_BD, [group.size for group in self.groups], dim=1)
        return [
            part.reshape(-1, *group.shape) for part, group in zip(parts, self.groups, strict=True)
        ]

    def reconstruction_nll(self, batch: Tensor, z_BD: Tensor) -> Tensor:
        """-log p(x|u) in nats, shape (B,), at latents u that are given as ``z_BD``."""
        return self.likelihood.nll(full(self.pixel_parameters(z_BD)), batch)

    def draw_and_nll(self, x_BCHW: Tensor, noise_BD: Tensor) -> tuple[Posterior, Tensor]:
        """A draw of the posterior and -log p(x|u) there, (B,): one pass from top to bottom."""
        drawn = self.posterior(x_BCHW, noise_BD)
        return drawn, self.likelihood.nll(full(self.pixels(drawn.state)), x_BCHW)

    @torch.no_grad()
    def decode(
        self, u_BD: Tensor, mode: str = "greedy", generator: torch.Generator | None = None
    ) -> Tensor:
        """Images of latents, uint8 (B, C, H, W): the likelihood's mean, or a ``sample`` of it."""
        parameters = self.pixel_parameters(u_BD)
        if mode == "sample":
            return self.likelihood.sample(parameters, generator)
        return self.likelihood.mean(parameters)


def full(x: Tensor) -> Tensor:
    """x in float32 where products are rounded to bfloat16: densities are never."""
    return x.float() if x.dtype == torch.bfloat16 else x


def join(groups: Sequence[Tensor]) -> Tensor:
    """Groups (B, *shape) flattened one after the other, (B, D)."""
    return torch.cat([group.flatten(1) for group in groups], dim=1)
