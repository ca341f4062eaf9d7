"""Do discovered classes mean anything? (docs/method.md, section 5.4)

Every score is computed once over the whole test set, with a shuffled control: homogeneity rises
with the number of clusters even when they are random (0.7 per batch of 128 with 125 classes).

Shapes: N rows, K classes, D latent dimension, T levels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldebm.evaluate.report import Report
from ldebm.priors import Prior
from ldebm.priors.energy_net import rows_of
from ldebm.seeding import generator as make_generator
from ldebm.seeding import numpy_generator

__all__ = [
    "ClusterDescription",
    "add_label_information",
    "ami_error",
    "cluster_metrics",
    "describe_clusters",
    "distinctive_words",
    "homogeneity_legacy",
    "label_agreement",
    "label_information",
    "mutual_information",
]

SCORES = ("homogeneity", "completeness", "v", "nmi", "ami", "shuffled", "homogeneity_shuffled")
TINY = 1e-15  # inside the logarithm of the published estimator
STATES = 200  # z_t of each level, for what they say of the class
BLOCKS = 50  # of neighbouring rows, each left out in turn
PRIOR_WORDS = 500.0  # weight of the corpus in the log-odds, in words


def cluster_metrics(cluster_N: np.ndarray, label_N: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Agreement of clusters with labels; rows with label -1 are left out.

    Where all labelled rows have one label there is nothing to agree with, and any scoring would be
    perfect or zero whatever the clusters are: every score is NaN. Where they are all in one cluster
    completeness is NaN: it would be 1 for any labels. The other scores are 0 then, as by chance.

    Returns:
        ``homogeneity``, ``completeness``, ``v``, ``nmi``, ``ami``, ``shuffled`` (AMI of shuffled
        labels, 0 up to noise) and ``homogeneity_shuffled``; empty where nothing is labelled.
    """
    from sklearn import metrics as scores  # slow to load

    known = label_N >= 0
    cluster, label = cluster_N[known], label_N[known]
    if len(label) == 0:
        return {}
    if _one_value(label):
        return dict.fromkeys(SCORES, math.nan)
    homogeneity, completeness, v = scores.homogeneity_completeness_v_measure(label, cluster)
    shuffled = numpy_generator(seed, "shuffled-labels").permutation(label)
    return {
        "homogeneity": float(homogeneity),
        "completeness": math.nan if _one_value(cluster) else float(completeness),
        "v": float(v),
        "nmi": float(scores.normalized_mutual_info_score(label, cluster)),
        "ami": _ami(cluster, label),
        "shuffled": _ami(cluster, shuffled),
        "homogeneity_shuffled": float(scores.homogeneity_score(shuffled, cluster)),
    }


def _one_value(values_N: np.ndarray) -> bool:
    """Whether all rows have the same label, or are in the same cluster."""
    return len(np.unique(values_N)) < 2


def ami_error(cluster_N: np.ndarray, label_N: np.ndarray) -> float:
    """Standard error of the AMI by a jackknife over blocks of neighbouring rows.

    Rows of one dialogue stand together and are alike, so that they do not count as independent;
    the block jackknife needs nothing else (Kuensch 1989, with the blocks apart). Rows with label -1
    are left out; NaN below two rows, and where the AMI is undefined without one of the blocks.
    """
    known = label_N >= 0
    cluster, label = cluster_N[known], label_N[known]
    count = min(BLOCKS, len(label))
    if count < 2:
        return math.nan
    block_N = np.arange(len(label)) * count // len(label)
    values = np.array(
        [_ami(cluster[block_N != left], label[block_N != left]) for left in range(count)]
    )
    return float(np.sqrt((count - 1) * values.var()))


def _ami(cluster_N: np.ndarray, label_N: np.ndarray) -> float:
    """The AMI; NaN of a single label."""
    from sklearn import metrics as scores  # slow to load

    if _one_value(label_N):
        return math.nan
    return float(scores.adjusted_mutual_info_score(label_N, cluster_N))


def label_agreement(
    cluster_N: np.ndarray, label_N: np.ndarray, column: str, seed: int = 0
) -> dict[str, float]:
    """:func:`cluster_metrics` named after a label column, with ``ami_COLUMN_se``."""
    metrics = {
        f"{name}_{column}": value
        for name, value in cluster_metrics(cluster_N, label_N, seed).items()
    }
    return metrics | {f"ami_{column}_se": ami_error(cluster_N, label_N)} if metrics else metrics


def homogeneity_legacy(cluster_N: np.ndarray, label_N: np.ndarray, batch: int = 128) -> float:
    """The published homogeneity: the mean over full batches, mostly chance
    (docs/method.md, section 5.4).

    NaN without a full batch, and where all rows have one label.
    """
    from sklearn import metrics as scores  # slow to load

    if _one_value(label_N):
        return math.nan
    starts = range(0, len(label_N) - batch + 1, batch)
    values = [
        scores.homogeneity_score(label_N[i : i + batch], cluster_N[i : i + batch]) for i in starts
    ]
    return float(np.mean(values)) if values else math.nan


def mutual_information(logits_NK: Tensor | Iterable[Tensor]) -> float:
    """I(z; y) = H(mean_n p(y|z_n)) - mean_n H(p(y|z_n)) in nats, over all rows given.

    Yu et al. (2022), eq. A10; Pang and Wu (2021), eq. 21.

    Args:
        logits_NK: rows in one part, or in several of which none is kept.
    """
    sizes, means, conditionals = [], [], []
    for part in [logits_NK] if isinstance(logits_NK, Tensor) else logits_NK:
        log_p = torch.log_softmax(part.double(), -1)
        sizes.append(len(part))
        means.append(log_p.exp().mean(0))
        conditionals.append(-(log_p.exp() * log_p).sum(-1).mean())
    log_mean_K = (_weighted(means, sizes) + TINY).log()
    entropy = -(log_mean_K.exp() * log_mean_K).sum()
    return float(entropy - _weighted(conditionals, sizes))


def _weighted(means: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The mean of all rows from the means of parts; of one part its own, to the last bit."""
    if len(means) == 1:
        return means[0]
    total = sum((mean * size for mean, size in zip(means, sizes, strict=True)), start=0 * means[0])
    return total / sum(sizes)


@torch.no_grad()
def label_information(
    prior: Prior, n: int, draws: int = 32, seed: int = 0
) -> list[dict[str, float]]:
    """p(y|z_t) over t by draws of p(z_0|z_t) (Yu et al. (2022), eq. A22).

    Args:
        prior: the diffusion prior (others have level 0 only).
        n: states z_t of each level, from the model itself.
        draws: M of that equation.
        seed: of all draws.

    Returns:
        A row per level: ``t``, ``largest`` (mean of max_y p(y|z_t); chance is 1/K) and
        ``information`` (I(z_t; y) in nats).
    """
    device = prior.shift_D.device
    stream = make_generator(seed, "label-information", device=device)
    states = prior.sample_levels(n, stream)
    rows = []
    for t, u in enumerate(states):
        ends, level_prior = u, prior
        if t:
            ends = u.repeat_interleave(draws, 0)
            assert level_prior.energies is not None
            ebm = level_prior.energies
            if ebm.contexts_BC is not None:
                of_states = rows_of(ebm.contexts_BC, n)
                level_prior = ebm = ebm.conditioned_on(of_states.repeat_interleave(draws, 0))
            frozen = ebm.net.freeze()
            for level in reversed(range(t)):
                t_B = torch.full((len(ends),), level, dtype=torch.long, device=device)
                chain = ebm.chain(ends, t_B, stream, frozen)
                ends = chain.x_BD / float(ebm.schedule.scale[level + 1])
        p = torch.softmax(level_prior.class_logits(prior.from_standard(ends)).double(), -1)
        # the mean over M draws: Yu et al. (2022), eq. A22
        p = p.reshape(n, -1, p.shape[-1]).mean(1)
        rows.append(
            {
                "t": float(t),
                "largest": float(p.max(-1).values.mean()),
                "information": mutual_information((p + 1e-300).log()),
            }
        )
    return rows


def add_label_information(
    report: Report, prior: Prior, samples: int, draws: int, seed: int
) -> list[dict[str, float]]:
    """The table ``label_information`` of a report, and its rows.

    Args:
        report: it is added to.
        prior: as of :func:`label_information`.
        samples: of the evaluation; a quarter of them are states of each level, at most STATES.
        draws: of each state.
        seed: of all draws.
    """
    rows = label_information(prior, max(1, min(STATES, samples // 4)), draws, seed)
    header = ["t", "largest", "information"]
    report.tables["label_information"] = (header, [[row[key] for key in header] for row in rows])
    return rows


@dataclass(frozen=True)
class ClusterDescription:
    """What a discovered class holds.

    Attributes:
        cluster: its number.
        size: rows assigned to it.
        exemplars: the rows with the largest p(y|z).
        words: distinctive words with their z-scores, best first.
        labels: the most frequent true labels with their shares, where there are any.
    """

    cluster: int
    size: int
    exemplars: list[str]
    words: list[tuple[str, float]]
    labels: list[tuple[str, float]]


def describe_clusters(
    logits_NK: Tensor,
    texts: Sequence[str],
    labels: Sequence[str] | None = None,
    exemplars: int = 5,
    words: int = 8,
) -> list[ClusterDescription]:
    """Exemplars and distinctive words of every class that has rows, largest class first."""
    p_NK = torch.softmax(logits_NK.double(), -1)
    best_N, cluster_N = p_NK.max(-1)
    corpus: Counter[str] = Counter()
    for text in texts:
        corpus.update(text.split())
    result = []
    for cluster in torch.unique(cluster_N).tolist():
        rows = torch.nonzero(cluster_N == cluster).flatten()
        ranked = rows[torch.argsort(best_N[rows], descending=True, stable=True)]
        inside: Counter[str] = Counter()
        for row in rows.tolist():
            inside.update(texts[row].split())
        named: list[tuple[str, float]] = []
        if labels is not None:
            common = Counter(labels[row] for row in rows.tolist()).most_common(3)
            named = [(label, count / len(rows)) for label, count in common]
        shown: list[str] = []
        for row in ranked.tolist():
            if texts[row] not in shown:
                shown.append(texts[row])
            if len(shown) == exemplars:
                break
        result.append(
            ClusterDescription(
                int(cluster), len(rows), shown, distinctive_words(inside, corpus, words), named
            )
        )
    return sorted(result, key=lambda item: (-item.size, item.cluster))


def distinctive_words(
    inside: Counter[str], corpus: Counter[str], count: int
) -> list[tuple[str, float]]:
    """Words by the z-score of their log-odds, inside against the rest, with the corpus as Dirichlet
    prior (Monroe et al. (2008), eq. 15 to 22).
    """
    outside = corpus - inside
    n_in, n_out, n_all = inside.total(), outside.total(), corpus.total()
    if n_in == 0 or n_out == 0:
        return []
    ranked = []
    for word, seen in inside.items():
        alpha = PRIOR_WORDS * corpus[word] / n_all
        with_prior, rest = seen + alpha, outside[word] + alpha
        odds_in = with_prior / (n_in + PRIOR_WORDS - with_prior)
        odds_out = rest / (n_out + PRIOR_WORDS - rest)
        delta = math.log(odds_in) - math.log(odds_out)
        ranked.append((word, delta / math.sqrt(1 / with_prior + 1 / rest)))
    ranked.sort(key=lambda item: (-item[1], item[0]))
    return [(word, round(score, 2)) for word, score in ranked[:count] if score > 0]
