"""The evaluation of text models: likelihood, language, classes, control.

docs/method.md, section 5.

Shapes: N rows or samples, D latent dimension, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ldebm.baselines.evaluation import evaluate_code, evaluate_likelihood
from ldebm.config import EvaluateConfig, MixtureConfig
from ldebm.data.batches import row_batches
from ldebm.data.packed import Packed, Split
from ldebm.evaluate import language
from ldebm.evaluate.clusters import (
    add_label_information,
    describe_clusters,
    homogeneity_legacy,
    label_agreement,
    mutual_information,
)
from ldebm.evaluate.completion import evaluate_completion
from ldebm.evaluate.control import EXACT, Classifier, control_accuracy
from ldebm.evaluate.legacy import nll_legacy
from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood, mean_interval
from ldebm.evaluate.priors import fit_densities
from ldebm.evaluate.report import Report, encode_rows, subset
from ldebm.evaluate.sampling import DRAWS, sampler_acceptance, sampler_convergence
from ldebm.evaluate.text_control import evaluate_control
from ldebm.priors import Posteriors
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.modalities.sentences import TextModel

__all__ = ["TestRows", "add_classes", "add_likelihood", "encode_test", "evaluate_text"]

LEGACY_ROWS = 100
FIT_ROWS = 12000  # training posteriors for the fitted Gaussian and mixtures
MI_SAMPLES = 10
PART = 8192  # rows of a large test split that are decoded or classified at a time


@dataclass(frozen=True)
class TestRows:
    """The test split, encoded; ``words_N`` are predicted in every row."""

    split: Split
    mu: Tensor
    logvar: Tensor
    texts: list[str]
    words_N: np.ndarray


@torch.no_grad()
def evaluate_text(
    model: TextModel,
    packed: Packed,
    config: EvaluateConfig,
    classifiers: dict[str, Classifier] | None = None,
    classifier: Path | None = None,
) -> Report:
    """All metrics of a text model.

    Args:
        model: trained.
        packed: its data.
        config: the experiment's ``evaluate`` section.
        classifiers: label column -> a function that names the label of a text.
        classifier: folder of the one that ``evaluate.classifier`` names.
    """
    report, split = Report(), packed.split("test")
    test = encode_test(model, packed)
    # From here on row and sample i of responses have the context of test row i mod N.
    model = model.in_contexts_of(split, np.arange(split.n))
    own = model.own_prior
    if own is not None:
        evaluate_likelihood(report, model, own, config, split)
    else:
        add_likelihood(report, model, packed, config, test)
    if own is None or own.baseline.encodes:
        _reconstruction(report, model, test)
    z = model.sample_latents(config.samples, seed=model.seed)
    with torch.enable_grad():  # the language model is trained here
        generated = _generation(report, model, packed, config, z, test)
    report.metrics |= sampler_acceptance(model.prior, 500, model.seed)
    draws = min(DRAWS, config.samples)
    report.metrics |= sampler_convergence(model.prior, model.seed, draws=draws)
    if own is not None:
        evaluate_code(report, own, test.mu, split, _columns(packed, config), model.seed)
    if model.prior.has_classes:
        add_classes(report, model, packed, config, test)
        _control(report, model, packed, config, z, generated, classifiers or {})
    else:
        report.samples += [{"kind": "sample", "text": text} for text in generated[:100]]
    if config.completion is not None:
        evaluate_completion(report, model, packed, config.completion)
    if classifier is not None:
        evaluate_control(report, model, packed, config, classifier, test.mu)
    model.add_scores(report, packed, test.texts, generated, config)
    report.samples.sort(key=lambda item: item["kind"] != "sample")
    return report


def encode_test(model: TextModel, packed: Packed) -> TestRows:
    """The test split of a model's data, encoded."""
    split = packed.split("test")
    mu, logvar = encode_rows(model.backbone, split, np.arange(split.n), model.device)
    texts = [model.tokenizer.decode(split.row(i)) for i in range(split.n)]
    return TestRows(split, mu, logvar, texts, model.predicted(split))


def add_likelihood(
    report: Report, model: TextModel, packed: Packed, config: EvaluateConfig, test: TestRows
) -> None:
    """Valid NLL of the prior and of the densities beside it, and the published estimate."""
    seed, metrics = model.seed, report.metrics
    posteriors, labels = [], []
    cluster = model.config.cluster
    for name in ("train", "valid"):
        split = packed.split(name)
        rows = subset(split.n, FIT_ROWS, seed, f"fit-{name}")
        mu, logvar = encode_rows(model.backbone, split, rows, model.device)
        posteriors.append(Posteriors(mu.cpu(), logvar.cpu()))
        if cluster.whole and cluster.column is not None:
            labels.append(np.asarray(split.labels(cluster.column))[rows])
    fitted = fit_densities(
        posteriors[0], posteriors[1], seed, config.mixture or MixtureConfig(),
        (labels[0], labels[1]) if labels else None,
    )  # fmt: skip
    metrics |= {f"gain_{name}": value for name, value in fitted.gain.items()}
    metrics["mixture_components"] = float(fitted.components)
    metrics["mixture_turned"] = float(fitted.turned)
    rows = subset(test.split.n, config.rows, seed, "evaluate-rows")
    size = model.evaluated_together
    ordered, batches = row_batches(test.split, rows, size, model.device)
    settings = LikelihoodSettings(config.importance, config.inner, seed=seed)
    results = likelihood(
        model.backbone, model.prior, batches, settings, fitted.densities, proposal=fitted.mixture
    )
    metrics |= results["prior"].metrics()
    header = ["row", "nll", *(f"nll_{name}" for name in fitted.densities)]
    columns = [results["prior"].nll_B, *(results[name].nll_B for name in fitted.densities)]
    for name in fitted.densities:
        mean, error, _, _ = mean_interval(results[name].nll_B)
        metrics |= {f"nll_{name}": mean, f"nll_{name}_se": error}
        if not results["prior"].refused:
            gain, gain_error, _, _ = mean_interval(results[name].nll_B - results["prior"].nll_B)
            metrics |= {f"gain_over_{name}": gain, f"gain_over_{name}_se": gain_error}
    table = np.stack([test.split.id[ordered].astype(np.float64), *columns], 1)
    report.tables["nll_rows"] = (
        header, [[int(row[0]), *(round(float(v), 4) for v in row[1:])] for row in table]
    )  # fmt: skip
    if not results["prior"].refused:
        words = float(np.sum(test.words_N[ordered]))
        metrics["ppl"] = float(np.exp(results["prior"].nll_B.sum() / words))
        metrics["rate"] = metrics["nll_upper"] - float(results["prior"].reconstruction_B.mean())
    if not model.published_estimators:
        return
    few = subset(len(rows), LEGACY_ROWS, seed, "legacy-rows")
    _, batches = row_batches(test.split, rows[few], model.evaluated_together, model.device)
    metrics["nll_legacy"] = float(nll_legacy(model.backbone, model.prior, batches, seed).mean())
    metrics["nll_legacy_rows"] = float(len(few))
    if model.prior.levels and model.prior.config.energy_scale == "code":
        _, batches = row_batches(test.split, rows[few], model.evaluated_together, model.device)
        stated = LikelihoodSettings(config.importance, config.inner, of_sampler=False, seed=seed)
        estimate = likelihood(model.backbone, model.prior, batches, stated)["prior"]
        metrics["nll_stated"] = float(estimate.nll_B.mean())


def _reconstruction(report: Report, model: TextModel, test: TestRows) -> None:
    """NLL and BLEU of reconstructions from the posterior mean, over the whole test split."""
    order, batches = row_batches(test.split, np.arange(test.split.n), 256, model.device)
    nll, start = 0.0, 0
    for batch in batches:
        rows = torch.from_numpy(order[start : start + len(batch)]).to(test.mu.device)
        nll += float(model.backbone.reconstruction_nll(batch, test.mu[rows]).sum())
        start += len(batch)
    report.metrics["recon_nll"] = nll / test.split.n
    code = getattr(model.backbone, "code_size", 0)  # what comes before z
    mu, logvar = test.mu[:, code:], test.logvar[:, code:]
    if mu.shape[1]:
        variance, squared = logvar.exp(), mu.square()
        kl_ND = 0.5 * (squared + variance - 1 - logvar)
        report.metrics["kl_standard_normal"] = float(kl_ND.sum(-1).mean())
        report.metrics["active_units"] = float((mu.var(0) > 0.01).sum())
        report.metrics["posterior_std"] = float(variance.sqrt().mean())
    decoded = _decoded(model, test.mu)
    score, signature = language.bleu(decoded, test.texts)
    report.metrics["bleu"] = language.bleu_moses(decoded, test.texts)
    report.metrics["bleu_sacrebleu"] = score
    report.details["bleu_signature"] = signature
    report.samples += [
        {"kind": "reconstruction", "text": test.texts[i], "decoded": decoded[i]}
        for i in range(min(50, len(decoded)))
    ]


def _decoded(model: TextModel, mu_ND: Tensor) -> list[str]:
    """The most probable words at the posterior means, some thousand rows at a time."""
    texts: list[str] = []
    for start in range(0, len(mu_ND), PART):
        rows = slice(start, start + PART)
        texts += model.part(rows).decode(mu_ND[rows], "greedy", model.seed)
    return texts


def _class_logits(model: TextModel, z_ND: Tensor) -> Tensor:
    """log p(y|z) up to a constant, some thousand rows at a time, on the CPU, (N, K)."""
    size = len(z_ND) if model.prior.contextual else PART
    starts = range(0, len(z_ND), size)
    return torch.cat([model.prior.class_logits(z_ND[i : i + size]).cpu() for i in starts])


def _generation(
    report: Report,
    model: TextModel,
    packed: Packed,
    config: EvaluateConfig,
    z: Tensor,
    test: TestRows,
) -> list[str]:
    """Unigram divergences, reverse perplexity and diversity of prior samples."""
    metrics = report.metrics
    with torch.no_grad():
        generated = [str(text) for text in model.decode(z, config.decode, model.seed)]
    train = packed.split("train")
    real_ids = [train.row(i) for i in subset(train.n, 50000, model.seed, "real-train")]
    real = language.unigrams(model.tokenizer.decode(row) for row in real_ids)
    ours, held_out = language.unigrams(generated), language.unigrams(test.texts)
    metrics["wkl"] = language.unigram_divergence_legacy(ours, real)
    metrics["wkl_reverse"] = language.unigram_divergence_legacy(real, ours)
    metrics["wkl_smoothed"] = language.unigram_divergence(ours, real)
    metrics["wkl_smoothed_reverse"] = language.unigram_divergence(real, ours)
    metrics["wkl_test"] = language.unigram_divergence_legacy(held_out, real)
    metrics["distinct"] = language.distinct(generated)
    metrics["distinct_1"] = language.distinct_n(generated, 1)
    metrics["distinct_2"] = language.distinct_n(generated, 2)
    metrics["distinct_2_test"] = language.distinct_n(test.texts, 2)
    metrics["self_bleu"] = language.self_bleu(generated)
    metrics["self_bleu_test"] = language.self_bleu(test.texts)
    metrics["mean_words"] = float(np.mean([len(text.split()) for text in generated]))
    metrics["mean_words_test"] = float(np.mean([len(text.split()) for text in test.texts]))
    if config.reverse_lm != "none":
        ids = [row[1:-1] for row in model.tokenizer.encode_rows(generated) if len(row) > 2]
        metrics |= language.reverse_perplexity(
            ids,
            [row[1:-1].tolist() for row in real_ids[: len(ids)]],
            [test.split.row(i)[1:-1].tolist() for i in range(test.split.n)],
            model.tokenizer.vocab_size,
            config.reverse_lm,
            config.reverse_lm_epochs,
            model.seed,
            config.threads,
        )
    return generated


def _sampled_logits(model: TextModel, test: TestRows, first: list[np.ndarray]) -> Iterator[Tensor]:
    """log p(y|z) of all test rows at one posterior sample after the other, (N, K).

    Args:
        model: trained.
        test: the rows.
        first: takes the classes of the first draw.
    """
    stream = generator(model.seed, "mi", device=test.mu.device)
    for draw in range(MI_SAMPLES):
        noise = torch.randn(test.mu.shape, generator=stream, device=test.mu.device)
        logits = _class_logits(model, test.mu + torch.exp(0.5 * test.logvar) * noise)
        if not draw:
            first.append(logits.argmax(-1).numpy())
        yield logits


def _columns(packed: Packed, config: EvaluateConfig) -> list[str]:
    known = list(packed.meta.get("labels", {}))
    return [name for name in known if not config.label_column or name in config.label_column]


def add_classes(
    report: Report, model: TextModel, packed: Packed, config: EvaluateConfig, test: TestRows
) -> None:
    """What the discovered classes share with the labels, and what they hold."""
    prior, metrics = model.prior, report.metrics
    logits = _class_logits(model, test.mu)
    cluster = logits.argmax(-1).numpy()
    metrics["mi"] = mutual_information(logits)
    first: list[np.ndarray] = []  # classes of the first draw
    draws = _sampled_logits(model, test, first)
    few = len(test.mu) <= PART  # then all at once, as ever
    metrics["mi_sampled"] = mutual_information(torch.cat(list(draws)) if few else draws)
    metrics["classes_used"] = float(len(np.unique(cluster)))
    names: list[str] | None = None
    for index, column in enumerate(_columns(packed, config)):
        label = np.asarray(test.split.labels(column))
        agreement = label_agreement(cluster, label, column, model.seed)
        metrics |= agreement
        if index == 0 and agreement:
            metrics["ami_shuffled"] = agreement[f"shuffled_{column}"]
            known = packed.meta["labels"][column]
            names = [str(known[i]) if i >= 0 else "" for i in label]
        metrics[f"homogeneity_legacy_{column}"] = homogeneity_legacy(first[0], label)
    described = describe_clusters(logits, test.texts, names)
    report.details["clusters"] = [asdict(item) for item in described]
    for row in add_label_information(report, prior, config.samples, 16, model.seed):
        metrics[f"label_information_{int(row['t'])}"] = row["information"]


def _control(
    report: Report,
    model: TextModel,
    packed: Packed,
    config: EvaluateConfig,
    z: Tensor,
    generated: list[str],
    classifiers: dict[str, Classifier],
) -> None:
    """Samples by class and, with a classifier, how often a sample has the label asked for.

    Prior samples with a class drawn from p(y|z) are exact draws of p(z|y), so no others are needed.
    A class discovered without labels is scored by the label that most of its validation rows have.
    Its samples have no label, since none was asked for: ``mostly`` is that label, ``share`` its
    share.
    """
    stream = generator(model.seed, "classes", device=z.device)
    p_NK = torch.softmax(model.prior.class_logits(z), -1)
    class_N = torch.multinomial(p_NK, 1, generator=stream).flatten().cpu().numpy()
    wanted, shares, column = _wanted(model, packed, config)
    by_label: dict[str, list[str]] = {}
    for cluster in np.unique(class_N).tolist():
        texts = [generated[i] for i in np.flatnonzero(class_N == cluster)[: config.per_label]]
        label = wanted.get(cluster)
        named: dict[str, Any] = {"class": int(cluster), "label": label}
        if cluster in shares:
            named |= {"label": None, "mostly": label, "share": round(shares[cluster], 4)}
        report.samples += [{"kind": "sample", **named, "text": text} for text in texts[:10]]
        if label is not None:
            by_label.setdefault(label, []).extend(texts)
    if column not in classifiers or not by_label:
        return
    control = control_accuracy(by_label, classifiers[column])
    report.metrics |= {
        "control_accuracy": control.accuracy,
        "control_low": control.low,
        "control_high": control.high,
        "control_undecided": control.undecided,
        "control_distinct": control.distinct,
        "control_labels": float(len(by_label)),
        "control_given": float(model.class_names is not None),
    }
    report.details["control"] = control.per_label
    strict = classifiers.get(EXACT + column)
    if strict is not None:
        report.metrics["control_exact"] = control_accuracy(by_label, strict).accuracy
        known = [strict(text) is not None for text in generated]
        report.metrics["grammatical"] = float(np.mean(known))


def _wanted(
    model: TextModel, packed: Packed, config: EvaluateConfig
) -> tuple[dict[int, str], dict[int, float], str]:
    """class -> label name; class -> the label's share of its validation rows, of discovered
    classes; the column.
    """
    columns = _columns(packed, config)
    given = model.config.cluster.column
    if model.class_names is not None and given is not None:
        return dict(enumerate(model.class_names)), {}, given
    if not columns:
        return {}, {}, ""
    names = packed.meta["labels"][columns[0]]
    valid = packed.split("valid")
    label, rows = np.asarray(valid.labels(columns[0])), np.arange(valid.n)
    model = model.in_contexts_of(valid, rows)
    mu, _ = encode_rows(model.backbone, valid, rows, model.device)
    cluster = _class_logits(model, mu).argmax(-1).numpy()
    wanted, shares = {}, {}
    for k in np.unique(cluster[label >= 0]).tolist():
        common = Counter(label[(cluster == k) & (label >= 0)].tolist())
        number, count = common.most_common(1)[0]
        wanted[int(k)], shares[int(k)] = str(names[number]), count / common.total()
    return wanted, shares, columns[0]
