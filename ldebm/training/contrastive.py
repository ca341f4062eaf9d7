"""Second stage of the noise-contrastive prior: its classifiers tell q from p, group by group.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm.backbones.hierarchical import Gaussian
from ldebm.priors.contrastive import ContrastivePrior
from ldebm.priors.group_energy_net import Placed
from ldebm.training.image_prior_task import ImagePriorTask
from ldebm.training.objectives import Terms

__all__ = ["ContrastiveTask", "contrastive_terms"]


class ContrastiveTask(ImagePriorTask):
    """The task of :class:`ldebm.priors.contrastive.ContrastivePrior`."""

    prior: ContrastivePrior

    def contrast(self, rows: np.ndarray, labels: Tensor | None, stream: torch.Generator) -> Terms:
        return contrastive_terms(self.prior, self.latents(rows, stream), labels, stream)


def contrastive_terms(
    prior: ContrastivePrior, u_BD: Tensor, label_B: Tensor | None, generator: torch.Generator
) -> Terms:
    """Sum over the groups of the classifiers' loss, and the cross-entropy of the labels.

    Args:
        prior: whose classifiers are trained.
        u_BD: draws of the aggregate posterior, in the backbone's coordinates.
        label_B: class of each row, -1 for none.
        generator: of the reference's draws.
    """
    frozen, backbone = prior.net.freeze(), prior.backbone
    noise = torch.randn(u_BD.shape, generator=generator, device=u_BD.device)
    own, other = backbone.split(u_BD), prior.reference(noise)
    z: list[Tensor] = []
    z_other: list[Tensor] = []

    def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
        z.append(prior.mu + prior.sigma * own[g])
        z_other.append(prior.mu + prior.sigma * other[g])
        return z[-1]

    with torch.no_grad():
        backbone.descend(pick, len(u_BD), finish=False)
    positive = frozen.each(Placed(z, own), 0)
    loss = u_BD.new_zeros(())
    right = u_BD.new_zeros(())
    for g in range(len(z)):
        mixed = Placed([*z[:g], z_other[g]], [*own[:g], other[g]])
        f_plus = torch.logsumexp(positive[g], 1)
        f_minus = torch.logsumexp(frozen.of_group(g, mixed, 0), 1)
        loss = loss + F.softplus(-f_plus).mean() + F.softplus(f_minus).mean()
        right = right + 0.5 * ((f_plus > 0).float().mean() + (f_minus <= 0).float().mean())
    classes = u_BD.new_zeros(())
    if label_B is not None and prior.net.labels:
        logits, safe = frozen.coupled(positive), label_B.clamp(min=0)
        known = label_B >= 0
        entropy = F.cross_entropy(logits, safe, reduction="none") * known
        classes = entropy.sum() / known.sum().clamp(min=1)
    parts = {
        "contrastive": loss.detach(),
        "class": classes.detach(),
        "classifier_accuracy": (right / len(z)).detach(),
    }
    return Terms(loss + prior.config.class_weight * classes, parts)
