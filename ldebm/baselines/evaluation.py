"""What the evaluation says of a baseline beside the metrics of all text models.

docs/method.md, sections 5.4 and 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ldebm.baselines.codes import average_divergence, code_divergence, code_information
from ldebm.baselines.likelihood import baseline_likelihood
from ldebm.baselines.prior import BaselinePrior
from ldebm.config import EvaluateConfig
from ldebm.data.batches import row_batches
from ldebm.data.packed import Split
from ldebm.evaluate.clusters import label_agreement
from ldebm.evaluate.report import Report, subset
from ldebm.model import Model

if TYPE_CHECKING:
    from ldebm.baselines.model import Baseline

__all__ = ["evaluate_code", "evaluate_likelihood"]

ROWS_AT_ONCE = 4


def evaluate_likelihood(
    report: Report, model: Model, prior: BaselinePrior, config: EvaluateConfig, split: Split
) -> None:
    """NLL of test rows under the model's own prior; nothing for an AE or a DAE."""
    backbone = cast("Baseline", model.backbone)
    rows = subset(split.n, config.rows, model.seed, "evaluate-rows")
    ordered, batches = row_batches(split, rows, ROWS_AT_ONCE, model.device)
    estimate = baseline_likelihood(backbone, prior, batches, config.importance, model.seed)
    if estimate is None:
        return
    metrics = report.metrics
    metrics |= estimate.metrics()
    metrics["ppl"] = float(np.exp(estimate.nll_B.sum() / np.sum(split.lengths[ordered] - 1)))
    metrics["rate"] = metrics["nll_upper"] - float(estimate.reconstruction_B.mean())
    pairs = zip(split.id[ordered].tolist(), estimate.nll_B.tolist(), strict=True)
    report.tables["nll_rows"] = (["row", "nll"], [[row, round(value, 4)] for row, value in pairs])


@torch.no_grad()
def evaluate_code(
    report: Report,
    prior: BaselinePrior,
    latent: torch.Tensor,
    split: Split,
    columns: list[str],
    seed: int,
) -> None:
    """Information of the code over the test rows, by variable, and agreement with the labels.

    ``mi_code`` is the published number, a sum over the variables. Codes too many for joint classes
    are compared with labels here, as they stand; others are by the classes' own metrics. Of
    responses ``policy_kl`` is below ``mi_code`` by what the context tells of the code.

    Args:
        report: the metrics are added to.
        prior: of a baseline; one of responses is given the contexts of the rows.
        latent: of all test rows, (N, latent).
        split: the test split.
        columns: label columns.
        seed: of the model.
    """
    if not prior.baseline.coded:
        return
    log_q = prior.code_part(latent).double()
    if prior.contextual:
        divergence = code_divergence(log_q, prior.code_log_prior(len(latent)))
        report.metrics["policy_kl"] = float(divergence.mean())
    log_q = log_q.cpu()
    report.metrics["mi_code"] = float(code_information(log_q))
    report.metrics["code_average_kl"] = float(average_divergence(log_q))
    used = [len(torch.unique(variable)) for variable in log_q.argmax(-1).t()]
    report.metrics["code_values_used"] = float(np.mean(used))
    if prior.has_classes:
        return
    codes = log_q.argmax(-1).numpy()
    _, cluster = np.unique(codes, axis=0, return_inverse=True)
    report.metrics["classes_used"] = float(cluster.max() + 1)
    for column in columns:
        label = np.asarray(split.labels(column))
        report.metrics |= label_agreement(cluster.reshape(-1), label, column, seed)
