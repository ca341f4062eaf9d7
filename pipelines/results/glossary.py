"""What the metrics mean and which way is better, for tables, comparisons and the report.

A metric without a direction describes (a diagnostic, a property of the data, a bound of an
interval): a comparison calls it different, never better or worse.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from ldebm.plugins import find, names

__all__ = ["FORMER", "METRICS", "Metric", "describe", "present_names"]

T = TypeVar("T")
Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Metric:
    """A metric's direction and, in a line, what it is."""

    better: Better
    meaning: str


METRICS: dict[str, tuple[Better, str]] = {
    "nll": ("lower", "negative log-likelihood of a test row, nats; valid estimate"),
    "nll_low": ("", "lower end of the 95% interval of nll over test rows"),
    "nll_high": ("", "upper end of the 95% interval of nll over test rows"),
    "nll_se": ("", "standard error of nll over test rows"),
    "nll_lower": ("", "lower bound of nll (sandwich)"),
    "nll_refused": (
        "lower",
        "1: no nll, because the two sides of its normalisers are over a nat apart; raise"
        " evaluate.inner",
    ),
    "nll_sandwich": ("lower", "how far the two sides of all normalisers are apart, nats"),
    "nll_upper": ("", "upper bound of nll (sandwich)"),
    "nll_ess": ("", "effective sample size of the importance weights"),
    "nll_gap": ("lower", "nll above the entropy of the data's true density, nats"),
    "nll_true": ("", "negative log-likelihood of the test rows under the true density"),
    "nll_standard_normal": ("", "nll with N(0, I) in place of the prior"),
    "nll_gaussian": ("", "nll with a fitted Gaussian in place of the prior"),
    "nll_mixture": ("", "nll with a fitted Gaussian mixture in place of the prior"),
    "nll_mixture_classes": ("", "nll with a fitted mixture of every class in place of the prior"),
    "nll_legacy": ("", "the published estimator of nll; it bounds nothing"),
    "nll_weighted": ("lower", "importance-weighted nll, the check of the quadrature"),
    "gain_over_standard_normal": ("higher", "nats that the prior gains over N(0, I)"),
    "gain_over_gaussian": ("higher", "nats that the prior gains over a fitted Gaussian"),
    "gain_over_mixture": ("higher", "nats that the prior gains over a fitted mixture"),
    "gain_over_mixture_classes": ("higher", "nats that it gains over a mixture of every class"),
    "response_bleu": ("higher", "BLEU of one response a context against the true one"),
    "response_bleu_2": ("higher", "the same with words and pairs of words alone"),
    "response_bleu_sacrebleu": ("higher", "response_bleu as sacrebleu computes it"),
    "response_embedding_average": ("higher", "cosine of the mean word vectors of both, x 100"),
    "response_embedding_extrema": ("higher", "cosine of the extreme values of word vectors, x 100"),
    "response_embedding_greedy": ("higher", "mean cosine of every word's nearest, x 100"),
    "response_shuffled_bleu": ("", "response_bleu of responses to the contexts of other rows"),
    "response_shuffled_bleu_2": ("", "response_bleu_2 of these: what chance scores"),
    "accuracy": ("higher", "test rows whose label is the class of largest p(y|mu)"),
    "accuracy_low": ("", "lower end of its 95% Wilson interval"),
    "accuracy_high": ("", "upper end of its 95% Wilson interval"),
    "accuracy_majority": ("", "accuracy of always naming the most frequent label"),
    "classifier_accuracy": ("", "test accuracy of the classifier that scores control"),
    "classified_accuracy": ("higher", "samples asked for a label to which the classifier gives it"),
    "classified_low": ("", "lower end of its 95% Wilson interval"),
    "classified_high": ("", "upper end of its 95% Wilson interval"),
    "plain_classified_accuracy": ("", "classified_accuracy without evaluate.control_draws"),
    "plain_control_self_bleu_excess": ("", "control_self_bleu_excess without that choice"),
    "control_recognised": ("", "controlled samples in which the model finds their class itself"),
    "control_mean_draws": ("", "draws that a controlled sample took, on average"),
    "control_self_bleu": ("lower", "BLEU of controlled samples among each other"),
    "control_self_bleu_real": ("", "the same of as many training texts"),
    "control_self_bleu_excess": ("lower", "their self-BLEU above that of real text"),
    "control_distinct_1": ("higher", "different words of controlled samples over all"),
    "control_distinct_2": ("higher", "different pairs of words of controlled samples over all"),
    "ppl": ("lower", "perplexity of a test word under nll"),
    "rate": ("", "nats that the latent vector costs"),
    "recon_nll": ("lower", "reconstruction from the posterior mean, nats a row"),
    "bleu": ("higher", "BLEU of greedy reconstructions of the test split"),
    "bleu_sacrebleu": ("higher", "BLEU of reconstructions as sacrebleu computes it"),
    "wkl": ("lower", "KL of the words of samples from those of the training data"),
    "wkl_reverse": ("lower", "wkl with the roles of samples and data exchanged"),
    "wkl_smoothed": ("lower", "wkl with smoothed counts"),
    "wkl_smoothed_reverse": ("lower", "wkl_smoothed with the roles exchanged"),
    "wkl_test": ("", "wkl of the test split: what real text scores"),
    "rppl": ("lower", "perplexity of real text under a language model trained on samples"),
    "rppl_real": ("", "rppl with a language model trained on as much real text"),
    "kl_standard_normal": ("", "KL of the posterior from N(0, I), nats"),
    "mi": ("", "mutual information of class and latent vector, nats"),
    "mi_sampled": ("", "mutual information over posterior samples, nats"),
    "classes_used": ("", "classes that some test row is given"),
    "ami": (
        "higher",
        "agreement of classes with true labels, chance taken off; 1 is perfect, undefined where "
        "all test rows have one label",
    ),
    "ami_shuffled": ("", "ami with shuffled labels: what chance scores"),
    "control_accuracy": ("higher", "share of the samples drawn for a label that have it"),
    "control_exact": ("higher", "control_accuracy where only perfect sentences count"),
    "control_distinct": ("", "share of the samples drawn for a label that are different"),
    "control_undecided": ("lower", "share of the samples drawn for a label that show none"),
    "grammatical": ("higher", "share of prior samples that the grammar can produce"),
    "modes_covered": ("higher", "modes of the data that samples reach"),
    "mode_share_min": ("higher", "smallest share of a mode, of what it should be"),
    "share_within_2_sigma": ("", "share of samples within 2 sigma of a mode; 0.865 is right"),
    "mmd2": ("lower", "squared kernel discrepancy of samples from test rows"),
    "mmd2_median": ("lower", "mmd2 with the median distance as width"),
    "mmd2_z": ("lower", "squared kernel discrepancy of prior from posterior latents"),
    "mmd2_data": ("", "mmd2 of training rows: what real data score"),
    "tv_sampler": ("lower", "total variation of chains from the exact prior density"),
    "tv_floor": ("", "tv_sampler of an exact sampler: the noise of the estimate"),
    "tv_posterior": ("lower", "total variation of posterior samples from the prior density"),
    "acceptance": ("", "share of accepted Langevin moves; 0.6 is aimed at"),
    "acceptance_min": ("", "acceptance at the worst level"),
    "sampler_auc": ("", "AUROC of samples against those of chains 8 times as long; 0.5: the same"),
    "sampler_energy_gap": ("", "mean energy of samples less that of such chains, in s.d."),
    "mi_code": ("", "information of the code about the sentence, summed over its variables, nats"),
    "code_average_kl": ("", "KL of the code's mean from the uniform one: 0 if all are used alike"),
    "policy_kl": ("lower", "KL of the code's posterior from its prior given the context, nats"),
    "code_values_used": ("", "values of a variable of the code that some test row is given"),
    "completion": ("higher", "share of masked words that the model fills in as they were"),
    "completion_low": ("", "lower end of the 95% interval of completion"),
    "completion_high": ("", "upper end of the 95% interval of completion"),
    "completion_ngram": ("", "the same by a Kneser-Ney trigram that sees both sides"),
    "completion_frequent": ("", "the same by the most frequent word"),
    "completion_places": ("", "masked words that completion was measured on"),
    "active_units": ("", "latent dimensions that carry something"),
    "self_bleu": ("", "likeness of samples to each other; compare self_bleu_test"),
    "self_bleu_test": ("", "likeness of test rows to each other"),
    "distinct_2": ("", "share of different word pairs; compare distinct_2_test"),
    "distinct_2_test": ("", "share of different word pairs of test rows"),
    "elbo_bits": ("lower", "bound of the likelihood under N(0, I), bits a value of the image"),
    "fid_classifier_images": ("", "images that each of these distances is of"),
    "mixture_components": ("", "components of the fitted mixture, chosen by validation rows"),
    "mixture_classes_components": ("", "components of the mixtures of all classes together"),
    "is": ("higher", "inception score of samples"),
    "is_classifier": ("higher", "inception score of samples by the evaluation classifier"),
    "classifier_confidence": ("higher", "mean of the classifier's largest probability on samples"),
    "class_accuracy": ("higher", "test images whose label the prior's classes name"),
    "class_kept_top": ("", "images of unchanged class after the top groups were drawn anew"),
    "class_kept_bottom": ("", "images of unchanged class after the bottom groups were drawn anew"),
    "control_accuracy_low": ("", "lower end of the 95% interval of control_accuracy"),
    "control_accuracy_high": ("", "upper end of the 95% interval of control_accuracy"),
    "control_accuracy_steps": ("higher", "control_accuracy, attribute by attribute from the top"),
    "control_accuracy_test": ("", "the same of test images that have the label: a bound"),
    "control_accuracy_reconstruction": ("", "the same of the reconstructions of those"),
    "ood_auroc": ("higher", "AUROC of other kinds of images by energies; 0.5 is chance"),
    "ood_auroc_likelihood": ("", "the same by the bound of the backbone alone"),
    "oversaturation": ("", "black and white values of long chains beyond those of reconstructions"),
    "saturation_data": ("", "share of black and white values of test images"),
    "saturation_reconstruction": ("", "the same of test images that are decoded as samples are"),
    "saturation_short": ("", "the same at the end of chains of the usual length"),
    "saturation_long": ("", "the same at the end of chains of ten times as many moves"),
}  # fmt: skip

FORMER = {
    "judge_": "classifier_",
    "judged_": "classified_",
    "plain_judged_": "plain_classified_",
    "fid_judge": "fid_classifier",
    "elbo_bits": "bound_bits",
}
"""Beginnings of names as older files have them, and as they are now."""


_UNDEFINED = "; undefined where all test rows have one label"
_AGREEMENT = {
    "ami": "agreement of classes with {}, chance taken off",
    "nmi": "normalised mutual information of classes and {}",
    "v": "V-measure of classes against {}",
    "homogeneity": "how far a class holds one {} only",
    "completeness": "how far a {} lies in one class only",
}


_DISTANCES = {
    "fid": "Frechet distance (FID) from training images",
    "fid_all": "FID of all samples at once, as published",
    "kid": "kernel distance (KID) from training images",
    "fid_classifier": "Frechet distance from training images, by the classifier's features",
    "kid_classifier": "kernel distance from training images, by the classifier's features",
}
_OF = {
    "": "samples: {}",
    "gaussian": "samples of the backbone's N(0, I): {}",
    "fitted": "samples of the Gaussian fitted to posterior draws: {}",
    "mixture": "samples of the mixture fitted to posterior draws, without labels: {}",
    "mixture_classes": "samples of a fitted mixture of every class: {}",
    "reconstruction": "reconstructed test images: {}",
    "test": "test images themselves: {}",
}
_NOT_OURS = ("gaussian", "fitted", "mixture", "mixture_classes", "test")
_COMPARED = {
    "is": "inception score",
    "is_classifier": "inception score by the classifier",
    "classifier_confidence": "mean of the classifier's largest probability",
}


def present_names(metrics: Mapping[str, T]) -> dict[str, T]:
    """Metrics of a file, under the names that they have now.

    Example:
        >>> present_names({"nll": 1.0, "judged_accuracy": 0.9})
        {'nll': 1.0, 'classified_accuracy': 0.9}
    """
    names = {}
    for name, value in metrics.items():
        old = next((item for item in FORMER if name.startswith(item)), "")
        names[FORMER.get(old, "") + name.removeprefix(old)] = value
    return names


@functools.cache
def describe(name: str) -> Metric:
    """The metric of that name; an unknown one has no direction.

    Example:
        >>> describe("nll").better, describe("ami_intent").better, describe("unheard_of").better
        ('lower', 'higher', '')
    """
    if name in METRICS:
        return Metric(*METRICS[name])
    if (metric := _of_images(name)) is not None:
        return metric
    score, _, label = name.partition("_")
    if score == "ami" and label.endswith("_se"):
        return Metric("", f"standard error of {name.removesuffix('_se')}, by blocks of rows")
    if label and score in _AGREEMENT and "shuffled" not in label and "legacy" not in label:
        end = " or are in one class" if score == "completeness" else ""
        return Metric("higher", _AGREEMENT[score].format(label) + _UNDEFINED + end)
    return _of_plugin(name) or Metric("", "")


def _of_plugin(name: str) -> Metric | None:
    """What the plugin with the longest name that this one begins with says of it."""
    mine = [item for item in names("metrics") if f"{name}_".startswith(f"{item}_")]
    if not mine:
        return None
    described: Metric | None = None
    if (entry := find("metrics", max(mine, key=len)).glossary.get(name)) is not None:
        described = Metric(*entry)
    return described


def _of_images(name: str) -> Metric | None:
    """Distances, of whatever images, and parts of what is told apart and asked for."""
    for end, of in _OF.items():
        stem = name.removesuffix(f"_{end}") if end else name
        if end and stem == name:
            continue
        if stem in _DISTANCES:
            better: Better = "" if end in _NOT_OURS else "lower"
            return Metric(better, of.format(_DISTANCES[stem]))
        if end and stem in _COMPARED:
            return Metric("", of.format(_COMPARED[stem]))
    for stem in ("ood_auroc_likelihood", "ood_auroc"):
        data = name.removeprefix(f"{stem}_")
        if data != name:
            by = "by the bound alone" if stem.endswith("likelihood") else "by energies"
            return Metric("" if stem.endswith("likelihood") else "higher", f"AUROC of {data} {by}")
    return None
