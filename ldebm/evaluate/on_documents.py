"""What is measured of documents beside their likelihood: classification and topics.

docs/method.md, section 5.7.

Shapes: N test rows, K classes, D latent dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ldebm.config import EvaluateConfig
from ldebm.data.packed import Packed
from ldebm.evaluate.on_text import add_classes, add_likelihood, encode_test
from ldebm.evaluate.report import Report
from ldebm.evaluate.text_control import classified

if TYPE_CHECKING:
    from ldebm.modalities.documents import DocumentModel

__all__ = ["evaluate_documents"]

TOPICS = 5  # shown of every class


@torch.no_grad()
def evaluate_documents(model: DocumentModel, packed: Packed, config: EvaluateConfig) -> Report:
    """Likelihood, classes, the accuracy of p(y|mu) on the whole test split, sampled topics.

    Args:
        model: trained.
        packed: its data.
        config: the experiment's ``evaluate`` section; ``samples`` bounds the topics.
    """
    report, test = Report(), encode_test(model, packed)
    add_likelihood(report, model, packed, config, test)
    if model.prior.has_classes:
        add_classes(report, model, packed, config, test)
    if model.class_names is not None:
        classified(report, model, packed, test.mu)
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
    return report
