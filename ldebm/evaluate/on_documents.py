"""What is measured of documents beside their likelihood: classification and topics.

docs/method.md, section 5.7.

Shapes: N test rows, K classes, D latent dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Packed
from ldebm.evaluate.report import Report
from ldebm.evaluate.text_control import classified
from ldebm.model import Model

__all__ = ["evaluate_documents"]

TOPICS = 5  # shown of every class


@torch.no_grad()
def evaluate_documents(
    report: Report, model: Model, packed: Packed, config: EvaluateConfig, mu_ND: Tensor
) -> None:
    """Adds the accuracy of p(y|mu) on the whole test split, and words of sampled topics.

    Args:
        report: they are added to.
        model: trained.
        packed: its data.
        config: ``samples`` bounds the topics.
        mu_ND: posterior means of the test rows.
    """
    if model.class_names is not None:
        classified(report, model, packed, mu_ND)
    z = model.sample_latents(min(config.samples, 500), seed=model.seed)
    cluster = model.prior.class_logits(z).argmax(-1).tolist() if model.prior.has_classes else []
    names, shown = model.class_names, dict.fromkeys(range(model.prior.classes), 0)
    for i, words in enumerate(model.decode(z, "greedy", model.seed)):
        k = cluster[i] if cluster else 0
        if shown[k] < TOPICS:
            shown[k] += 1
            label = names[k] if cluster and names and k < len(names) else None
            named = {"class": k if cluster else None, "label": label}
            report.samples.append({"kind": "sample", **named, "text": words})
