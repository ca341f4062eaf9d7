"""First-stage updates of the Penn Treebank: with and without compiled kernels, and what bfloat16 is
worth once an epoch of them is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.problems import ptb_split, text_batch
from benchmarks.timing import Record, alternating, compare, count_flops
from ldebm import kernels
from ldebm.assembly import build_backbone
from ldebm.backbones.text import TextVAE
from ldebm.data.batches import TextBatch
from ldebm.optimisers import apply_gradients, make_optimiser
from ldebm.seeding import generator
from ldebm.training.backbone_task import BackboneTask
from ldebm.training.clustering import geometric_clusters, whiten_to_sphere
from ldebm.training.latents import encode_split
from pipelines.library import Library

__all__ = ["estimate", "first_stage", "nll_samples", "rounding"]

EXPERIMENT = "ptb-ldebm-l03"
ROOT = Path(__file__).resolve().parents[1]
SENTENCES, SAMPLES = 16, 500


def _updates(split: Any, *, plain: bool) -> tuple[TextVAE, Callable[[], None]]:
    """A model, and whole updates of it, from the choice of rows to the optimiser."""
    config = Library(ROOT).experiment(EXPERIMENT)
    model = build_backbone(config.backbone, split.meta, generator(0, "backbone-init"))
    assert isinstance(model, TextVAE)
    task = BackboneTask(model, split, split, config, 0, torch.device("cpu"))
    model.train()
    groups = task.groups()
    optimisers = [make_optimiser(group) for group in groups]
    steps = iter(range(10**9))

    def update() -> None:
        with kernels.plain() if plain else nullcontext():
            terms = task.loss(next(steps))
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(terms.total)
            for group, optimiser in zip(groups, optimisers, strict=True):
                apply_gradients(group, optimiser, compiled=True)

    return model, update


def first_stage(repeats: int) -> list[Record]:
    """An update at batch 128."""
    split, source = ptb_split()
    works = {"eager": _updates(split, plain=True)[1], "own": _updates(split, plain=False)[1]}
    flops = {"own": count_flops(_updates(split, plain=True)[1])}
    more = {"data": source, "batch": 128, "experiment": EXPERIMENT, "kernels": kernels.state()}
    turns = alternating(works, max(repeats, 5))
    return compare("first_stage", turns, flops, against="the same without kernels", **more)


def nll_samples(model: TextVAE, batch: TextBatch, noise_SBD: Tensor, *, bfloat16: bool) -> Tensor:
    """-log p(x|z) at posterior samples, with the encoding, (S, B)."""
    with torch.no_grad():
        mu, logvar = model.encode(batch)
    return model.nll_matrix(batch, mu + (0.5 * logvar).exp() * noise_SBD, bfloat16=bfloat16)


def estimate(nll_SB: Tensor) -> Tensor:
    """-log mean p(x|z) over the samples, (B,): what becomes of them in a likelihood."""
    return float(np.log(len(nll_SB))) - torch.logsumexp(-nll_SB, 0)


def rounding(repeats: int) -> list[Record]:
    """After an epoch: errors of the likelihood, and how far clusters agree with float32's."""
    split, source = ptb_split()
    model, update = _updates(split, plain=False)
    updates = -(-split.n // 128)
    for _ in range(updates):
        update()
    model.eval()
    config = Library(ROOT).experiment(EXPERIMENT)
    shared: Record = {"data": source, "updates": updates, "experiment": EXPERIMENT}
    shared["threads"] = torch.get_num_threads()
    return [
        shared | {"name": "nll500_error", "unit": "nats", **_likelihood_errors(model, split)},
        shared | {"name": "clusters", "unit": "AMI", **_agreement(model, split, config)},
    ]


def _likelihood_errors(model: TextVAE, split: Any) -> Record:
    """Largest and mean errors of a sentence's estimate against float64."""
    batch = text_batch(split, SENTENCES)
    noise = torch.randn(SAMPLES, SENTENCES, 40, generator=generator(0, "bench-z"))
    values_of = {kind: nll_samples(model, batch, noise, bfloat16=kind == "bfloat16").double()
             for kind in ("float32", "bfloat16")}  # fmt: skip
    exact = nll_samples(model.double(), batch, noise.double(), bfloat16=False)
    model.float()
    more: Record = {"samples": SAMPLES, "sentences": SENTENCES}
    for kind, values in values_of.items():
        errors = estimate(values) - estimate(exact)
        more[kind] = {
            "largest": float(errors.abs().max()),
            "mean": float(errors.mean()),
            "deviation_of_a_sample": float((values - exact).std()),
        }
    return more | {"value": more["bfloat16"]["largest"]}


def _agreement(model: TextVAE, split: Any, config: Any) -> Record:
    """AMI and ARI of clusters of both encodings: as they come, and from the same first centres."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    device, classes = torch.device("cpu"), config.prior.classes
    exact, _ = encode_split(model, split, device)
    rounded, _ = encode_split(model, split, device, bfloat16=True)
    labels = [geometric_clusters(x, classes, config.cluster, 0) for x in (exact, rounded)]
    other = geometric_clusters(exact, classes, config.cluster, 1)
    points = [whiten_to_sphere(x, config.cluster.dims) for x in (exact, rounded)]
    _, first = kmeans_plusplus(points[0], classes, random_state=0)
    started = [
        KMeans(classes, init=x[first], n_init=1, max_iter=config.cluster.iterations).fit(x).labels_
        for x in points
    ]
    ami = float(adjusted_mutual_info_score(*labels))
    return {
        "value": ami,
        "ari": float(adjusted_rand_score(*labels)),
        "ami_of_another_seed": float(adjusted_mutual_info_score(labels[0], other)),
        "ami_from_the_same_centres": float(adjusted_mutual_info_score(*started)),
        "ari_from_the_same_centres": float(adjusted_rand_score(*started)),
        "difference_of_spread": float(np.abs(exact - rounded).mean() / exact.std(0).mean()),
    }
