"""The noise-contrastive prior of hierarchical models (NCP-VAE, Aneja et al. 2021).

docs/method.md, section 2.8.

The networks F_g are classifiers between q and p of one group, given what is above it in q:

    D_g = sigmoid(F_g),  F_g -> log q(z_g | z_<g) / p(z_g | z_<g),  p(u) ~ exp(sum_g F_g) N(u; 0, I)

With ``inputs: context`` the sum is the whole log-ratio; with ``z`` it is that of each group alone.
Samples are drawn group by group, by resampling candidates of p(z_g | z_<g) in proportion to exp F_g
(SIR), or by one Langevin chain on all groups.

Shapes: B batch, D latent dimension, M candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldebm.backbones.hierarchical import Gaussian, HierarchicalBackbone
from ldebm.config import PriorConfig
from ldebm.errors import UsageError
from ldebm.priors.group_energy_net import FrozenGroups, Placed
from ldebm.priors.hierarchical import GroupSymbolPrior

__all__ = ["ContrastivePrior"]

CANDIDATES_AT_ONCE = 50_000  # rows of one network's input


class ContrastivePrior(GroupSymbolPrior):
    """p(u) proportional to exp(sum_g F_g(z_g)) N(u; 0, I) with classifiers F_g.

    Raises:
        UsageError: the reference is a Gaussian that does not factorise over the groups.
    """

    def __init__(
        self,
        backbone: HierarchicalBackbone,
        config: PriorConfig,
        generator: torch.Generator | None = None,
    ) -> None:
        if config.standardise == "full":
            raise UsageError(
                "prior.standardise 'full': kind 'nce' compares group by group; use 'diagonal' or "
                "'none'"
            )
        super().__init__(backbone, config, generator)

    def reference(self, noise_BD: Tensor) -> list[Tensor]:
        """Draws of the reference by group, in u."""
        return self.backbone.split(self.from_standard(noise_BD))

    @torch.no_grad()
    def _sample_part(self, n: int, generator: torch.Generator, labels: list[int] | None) -> Tensor:
        if self.section.nce_sampler == "langevin":
            return super()._sample_part(n, generator, labels)
        frozen = self.net.freeze()
        rows = max(1, CANDIDATES_AT_ONCE // self.section.proposals)
        parts = [
            self._resample(min(rows, n - start), frozen, generator, labels)
            for start in range(0, n, rows)
        ]
        return self.to_standard(torch.cat(parts))

    def _resample(
        self,
        n: int,
        frozen: FrozenGroups,
        generator: torch.Generator,
        labels: list[int] | None,
    ) -> Tensor:
        """n draws of u, group by group from the top."""
        backbone, count = self.backbone, self.section.proposals
        u: list[Tensor] = []
        z: list[Tensor] = []
        device = self.shift_D.device

        def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
            del state
            noise = torch.randn(n * count, self.latent, generator=generator, device=device)
            drawn = self.reference(noise)[g]
            mu, sigma = (x.repeat_interleave(count, 0) for x in (prior.mu, prior.sigma))
            above = Placed(
                [x.repeat_interleave(count, 0) for x in z],
                [x.repeat_interleave(count, 0) for x in u],
            )
            candidates = mu + sigma * drawn
            seen = Placed([*above.z, candidates], [*above.u, drawn])
            outputs = frozen.of_group(g, seen, 0)
            if labels is not None and any(g in on for on, _ in self.net.labels):
                outputs = outputs[:, labels]
            weight = torch.softmax(torch.logsumexp(outputs, 1).reshape(n, count), 1)
            chosen = torch.multinomial(weight, 1, generator=generator)[:, 0]
            chosen = chosen + count * torch.arange(n, device=device)
            z.append(candidates[chosen])
            u.append(drawn[chosen])
            return z[-1]

        backbone.descend(pick, n, finish=False)
        return torch.cat([x.flatten(1) for x in u], 1)
