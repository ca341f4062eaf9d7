"""The prior of a baseline given the context: a policy p(c | context) for its code.

docs/method.md, section 7.

The policy is a network with one hidden layer of the context's size, and a softmax for each variable
of the code. It learns by cross-entropy what the frozen first stage says of the training rows,
q(c|x): its least value is reached where p(c | context) is the mean of q over the responses to that
context. z is drawn as without contexts: N(0, I), or the Gaussians of the code that was drawn.

Shapes: n samples or rows, B contexts, C context size, M variables, k values, L size of a latent.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.baselines.codes import code_divergence, digits, joint_log_probability, of_variables
from ldebm.baselines.model import Baseline
from ldebm.baselines.prior import BaselinePrior
from ldebm.config import PriorConfig
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.nn.linear import draw_linear
from ldebm.optimisers import ParameterGroup
from ldebm.priors.energy_net import rows_of
from ldebm.training.inputs import PriorInputs
from ldebm.training.objectives import Terms
from ldebm.training.parallel import row_weight, share

__all__ = ["PolicyPrior", "PolicyTask"]


class PolicyPrior(BaselinePrior):
    """Draws latents of a baseline of responses that has a code.

    Args:
        backbone: whose prior it is.
        config: the experiment's prior section.
        generator: initial weights.
    """

    def __init__(
        self, backbone: Baseline, config: PriorConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(backbone, config)
        size = backbone.context_size
        self.context_BC: Tensor | None = None
        self.policy = nn.Sequential(
            nn.Linear(size, size), nn.Tanh(), nn.Linear(size, self.code_size)
        )
        for layer in self.policy:
            draw_linear(layer, generator)

    @property
    def contextual(self) -> bool:
        return True

    def conditioned_on(self, context_BC: Tensor) -> Self:
        bound = copy.copy(self)
        bound.context_BC = context_BC
        return bound

    def log_policy(self, context_BC: Tensor) -> Tensor:
        """log p(c | context), (B, M, k)."""
        logits = self.policy(context_BC)
        return torch.log_softmax(
            of_variables(logits, self.baseline.variables, self.baseline.values), -1
        )

    def code_log_prior(self, rows: int) -> Tensor:
        """log p(c | context), (n, M, k) float64; row i has context i modulo B.

        Raises:
            ValueError: no contexts were given.
        """
        if self.context_BC is None:
            raise ValueError("the prior of a baseline of responses: use conditioned_on(context)")
        return rows_of(self.log_policy(self.context_BC).double(), rows)

    def draw_codes(self, n: int, generator: torch.Generator) -> Tensor:
        probability = self.code_log_prior(n).exp()
        flat = torch.multinomial(probability.flatten(0, 1), 1, generator=generator)
        return flat.reshape(n, self.baseline.variables)

    def draw_codes_of(self, n: int, labels: list[int], generator: torch.Generator) -> Tensor:
        logits = joint_log_probability(self.code_log_prior(n))[:, labels]
        chosen = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator).squeeze(-1)
        label_N = torch.tensor(labels, device=chosen.device)[chosen]
        return digits(label_N, self.baseline.variables, self.baseline.values)


class PolicyTask:
    """Second stage of a baseline of responses: the policy, on stored latents and contexts.

    Args:
        prior: whose policy is trained.
        train: latents (n, L) and contexts (n, C) of the training rows.
        valid: those of the validation rows, by which the weights that are kept are chosen.
        config: the experiment's prior section.
        seed: of the run.
        device: where to train.
    """

    title = "policy"

    def __init__(
        self,
        prior: PolicyPrior,
        train: tuple[np.ndarray, np.ndarray],
        valid: tuple[np.ndarray, np.ndarray],
        config: PriorConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = prior
        self.prior, self.config, self.seed = prior, config, seed
        self.train = [torch.from_numpy(part).to(device) for part in train]
        self.valid = [torch.from_numpy(part).to(device) for part in valid]
        self.count = len(train[0])
        self.steps_per_epoch = steps_per_epoch(self.count, config.training.batch)

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        assert isinstance(inputs.prior, PolicyPrior)
        train, valid = (
            (inputs.column("mu", split), inputs.column("context", split)) for split in (0, 1)
        )
        return cls(inputs.prior, train, valid, inputs.config.prior, inputs.seed, inputs.device)

    def groups(self) -> list[ParameterGroup]:
        """The policy alone; the mixture stays that of the first stage."""
        return [
            ParameterGroup(
                "policy", list(self.prior.policy.parameters()), self.config.training.optimiser
            )
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def _divergences(self, latent: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """KL(q(c|x) || p(c|context)), and the cross-entropy, each the mean over the rows."""
        log_q = self.prior.code_part(latent)
        log_p = self.prior.log_policy(context)
        cross_entropy = -(log_q.exp() * log_p).sum((-1, -2))
        return code_divergence(log_q, log_p).mean(), cross_entropy.mean()

    def loss(self, step: int) -> Terms:
        rows = batch_rows(self.count, self.config.training.batch, self.seed, step)
        mine = torch.from_numpy(rows[share(len(rows))].copy()).to(self.train[0].device)
        kl, cross_entropy = self._divergences(*(part[mine] for part in self.train))
        parts = {"policy_kl": kl.detach()}
        return Terms(cross_entropy, parts, row_weight=row_weight(len(rows)))

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        kl, cross_entropy = self._divergences(*self.valid)
        return {"policy_kl": float(kl), "score": float(cross_entropy)}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""
