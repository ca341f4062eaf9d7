"""Prior and backbone together, from where the two stages have ended.

The joint scheme of Yu et al. (2022), appendix B, and Pang and Wu (2021), algorithm 1, but from a
backbone and a prior that are trained already, and in the prior's standardised coordinates. Its
rate is the KL divergence from the Gaussian of these coordinates, less F and plus log Z.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ldebm.config import RefinementConfig
from ldebm.data.batches import make_batch
from ldebm.data.packed import Split
from ldebm.optimisers import ParameterGroup
from ldebm.priors.trajectories import held_out_bound
from ldebm.seeding import generator
from ldebm.training.inputs import PriorInputs
from ldebm.training.joint_task import JointTask
from ldebm.training.objectives import sample_posterior
from ldebm.training.score_matching import standardised

__all__ = ["RefinementTask"]

VALID_ROWS = 500
HALF_LOG_2PI_E = 0.5 * (1 + np.log(2 * np.pi))


class RefinementTask(JointTask):
    """All parameters together, warm; weights are chosen by the bound on validation rows.

    docs/method.md, sections 4.5 and 4.9.
    """

    title = "refinement"

    @classmethod
    def of(cls, inputs: PriorInputs) -> RefinementTask:
        """The task that follows the second stage of the same inputs."""
        assert inputs.prior.energies is not None
        assert inputs.config.prior.refinement is not None
        # JointTask reads the length and the batches of `prior.training`.
        training = inputs.config.prior.refinement.training
        section = inputs.config.prior.model_copy(update={"training": training})
        config = inputs.config.model_copy(update={"prior": section})
        stages = inputs.backbone, inputs.prior.energies, inputs.train
        task = cls(*stages, inputs.labels, config, inputs.seed, inputs.device)
        task.valid_split = inputs.packed.split("valid")
        return task

    valid_split: Split

    @property
    def section(self) -> RefinementConfig:
        """Its settings."""
        section = self.config.prior.refinement
        assert section is not None
        return section

    @property
    def warmup(self) -> int:
        return self.section.warmup

    def coordinates(
        self, mu_BD: Tensor, logvar_BD: Tensor, z_BD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean_BD, variance_BD = standardised(self.prior, mu_BD, logvar_BD)
        return mean_BD, variance_BD.log(), self.prior.to_standard(z_BD)

    def groups(self) -> list[ParameterGroup]:
        prior, backbone = super().groups()
        names = ("schedule", "warmup", "hold", "final")  # the course is that of the prior
        course = {name: getattr(prior.config, name) for name in names}
        config = backbone.config.model_copy(update={"lr": self.section.backbone_lr, **course})
        return [prior, replace(backbone, config=config)]

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The negative ELBO of validation rows under the prior itself, as ``score``."""
        metrics = super().validate(step)
        if self.section.training.validate_every is None or self.prior.contextual:
            return metrics
        split = self.valid_split
        rows = np.arange(min(split.n, VALID_ROWS))
        nll, entropy, draws = 0.0, 0.0, []
        for start in range(0, len(rows), 256):
            batch = make_batch(split, rows[start : start + 256], self.device)
            mu, logvar = self.backbone.encode(batch)
            stream = generator(self.seed, "refinement-valid", start)
            noise = torch.randn(mu.shape, generator=stream).to(self.device)
            draws.append(sample_posterior(mu, logvar, noise))
            nll += float(self.backbone.reconstruction_nll(batch, draws[-1]).double().sum())
            entropy += float((0.5 * logvar + HALF_LOG_2PI_E).double().sum())
        bound = held_out_bound(self.prior, torch.cat(draws), self.seed)
        metrics |= {"reconstruction": nll / len(rows), "prior_bound": bound}
        return metrics | {"score": nll / len(rows) - entropy / len(rows) - bound}
