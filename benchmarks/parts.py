"""What is measured, one function a part; each returns lines of ``reports/bench.json``.

A line says what it used: ``data``, ``batch`` and ``sizes``. Names that end in ``_same_steps`` run
the public code's sampler and number of steps; ``max_difference`` compares with
:mod:`benchmarks.eager`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.eager import EagerVAE, langevin
from benchmarks.kernels import first_stage
from benchmarks.priors import priors_together
from benchmarks.problems import (
    experiment,
    joint_task,
    points_split,
    ptb_split,
    text_model,
    writer,
)
from benchmarks.timing import Record, record, timed
from ldebm.assembly import build_prior
from ldebm.data.batches import batch_rows, collate
from ldebm.nn.text import TextVAE
from ldebm.priors import DiffusionPrior
from ldebm.seeding import generator
from ldebm.training.clustering import geometric_clusters, match_labels, stability
from ldebm.training.latents import encode_split
from ldebm.training.prior_tasks import JointTask

__all__ = ["PARTS"]

TEXT = "V=10,001, hidden and embedding 512, D=40"
ENERGY = "200 wide, 12 blocks, T=6, K=20, D=40"
SMALL = "128 wide, 3 blocks, T=6, K=20, D=40"
INITIAL = "initial weights"


def matmul(repeats: int) -> list[Record]:
    """Rates of square products of 2,048, and the error of the float32 one."""
    a = torch.randn(2048, 2048, generator=generator(0, "bench-matmul"))
    exact = a.double() @ a.double()
    error = float(((a @ a).double() - exact).norm() / exact.norm())
    rates = {}
    for name, x in (("float32", a), ("bfloat16", a.bfloat16())):
        rates[name] = 2 * 2048**3 / timed(partial(torch.mm, x, x), repeats)["least"] / 1e9
    more: Record = {"bfloat16": rates["bfloat16"], "relative_error": error}
    return [record("matmul", rates["float32"], "GFLOP/s of float32", **more)]


def _train_step(task: JointTask) -> Callable[[], None]:
    """One whole update, from the choice of rows to the optimiser."""
    groups = task.groups()
    optimisers = [torch.optim.Adam(group.parameters, lr=1e-4, fused=True) for group in groups]
    steps = iter(range(10**9))

    def step() -> None:
        index = next(steps)
        total = task.loss(index).total
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(total)
        for group, optimiser in zip(groups, optimisers, strict=True):
            torch.nn.utils.clip_grad_norm_(group.parameters, 1.0)
            optimiser.step()
        task.after_update(index, None)

    return step


def ptb_iteration(repeats: int) -> list[Record]:
    """A joint update at batch 128: default sampler, published sampler (50 steps), float32."""
    split, source = ptb_split()
    tokens = float(split.lengths.mean() - 1) * 128
    records = []
    variants: list[tuple[str, Record]] = [
        ("ptb_iteration", {}),
        ("ptb_iteration_same_steps", {"published": True}),
        ("ptb_iteration_float32", {"precision": "float32"}),
    ]
    for name, options in variants:
        config = experiment(**options)
        times = timed(_train_step(joint_task(config, split)), repeats)
        more = {"seconds": times, "tokens_per_second": tokens / times["median"], "data": source}
        more |= {"precision": config.backbone.training.precision, "batch": 128}
        more |= {"steps": config.prior.sampler.steps, "sizes": f"{TEXT}; {ENERGY}"}
        records.append(record(name, times["median"], "s", "ptb_iteration", **more))
    return records


def ptb_eager(repeats: int) -> list[Record]:
    """Forward and backward of the VAE, beside plain PyTorch with the same weights."""
    split, source = ptb_split()
    model = joint_task(experiment(precision="float32"), split).backbone.eval()
    assert isinstance(model, TextVAE)
    eager = EagerVAE(model)
    batch = collate(split, batch_rows(split.n, 128, 0, 0))

    def update(of: TextVAE | EagerVAE) -> tuple[torch.Tensor, torch.Tensor]:
        for parameter in eager.parameters():
            parameter.grad = None
        mu, _ = of.encode(batch)
        nll_B = of.reconstruction_nll(batch, mu)
        torch.autograd.backward(nll_B.mean())
        words = of.decoder_words if isinstance(of, EagerVAE) else of.decoder_embedding
        assert words.grad is not None
        return nll_B.detach(), words.grad.clone()

    (own, own_gradient), (plain, plain_gradient) = update(model), update(eager)
    more: Record = {
        "max_difference": float((own - plain).abs().max()),
        "max_relative_difference": float(((own - plain) / plain).abs().max()),
        "gradient_difference": float(
            (own_gradient - plain_gradient).norm() / plain_gradient.norm()
        ),
        "data": source,
        "batch": 128,
        "sizes": TEXT,
        "precision": "float32",
    }
    ours, theirs = timed(lambda: update(model), repeats), timed(lambda: update(eager), repeats)
    return [
        record("ptb_vae", ours["median"], "s", seconds=ours, **more),
        record(
            "ptb_vae_eager",
            theirs["median"],
            "s",
            seconds=theirs,
            data=source,
            batch=128,
            sizes=TEXT,
        ),
    ]


def ptb_cluster_features(repeats: int) -> list[Record]:
    """Posterior means of the whole training split, and their clusters; once, as it takes long.

    As the joint scheme does it, and with bfloat16 products, which move a latent by under a percent
    of the spread but k-means on an untrained encoder as much as another seed does.
    """
    del repeats
    split, source = ptb_split()
    model, config = text_model(split), experiment()
    classes, cpu, records = config.prior.classes, torch.device("cpu"), []
    exact: tuple[np.ndarray, np.ndarray] | None = None
    for name, rounded in (("ptb_cluster_features", False), ("ptb_cluster_features_bfloat16", True)):
        start = time.perf_counter()
        features, _ = encode_split(model, split, cpu, bfloat16=rounded)
        encoded = time.perf_counter() - start
        labels = geometric_clusters(features, classes, config.cluster, 0)
        seconds = time.perf_counter() - start
        more: Record = {"encoder_seconds": encoded, "batch": 256, "data": source}
        more |= {"sizes": f"{split.n} sentences; {TEXT}; K=20", "weights": INITIAL}
        more |= {"precision": "bfloat16" if rounded else "float32"}
        if exact is None:
            exact = features, labels
        else:
            spread = exact[0].std(0).mean()
            more["difference_of_spread"] = float(np.abs(features - exact[0]).mean() / spread)
            matched = match_labels(labels, exact[1], classes)
            more["labels_kept"] = stability(matched, exact[1])
        records.append(record(name, seconds, "s", "ptb_cluster_features", **more))
    return records


def _prior(published: bool, small: bool = False) -> DiffusionPrior:
    config = experiment(published=published, small=small, sampling=True)
    prior = build_prior(40, config.prior, generator(0, "bench-prior"))
    assert isinstance(prior, DiffusionPrior)
    return prior.eval()


def _sample(prior: DiffusionPrior, count: int) -> torch.Tensor:
    return prior.sample(count, generator(0, "bench-sample"))


def prior_samples(repeats: int) -> list[Record]:
    """1,000 latents: default sampler, published number of steps, the project's own network."""
    records = []
    for name, published, small in (
        ("prior_samples", False, False),
        ("prior_samples_same_steps", True, False),
        ("prior_samples_project_network", False, True),
    ):
        prior = _prior(published, small)
        times = timed(partial(_sample, prior, 1000), max(1, repeats // 2))
        sampler = prior.config.sampler
        more: Record = {
            "steps": sum(sampler.moves(prior.levels)),
            "method": sampler.method,
            "batch": 1000,
        }
        more |= {"sizes": SMALL if small else ENERGY, "data": "none", "weights": INITIAL}
        records.append(record(name, times["median"], "s", "prior_samples", seconds=times, **more))
    return records


def langevin_eager(repeats: int) -> list[Record]:
    """The chains of one published iteration (256 rows, 50 steps), beside autograd."""
    prior = _prior(published=True)
    u = torch.randn(256, 40, generator=generator(0, "bench-u"))
    t_B = torch.arange(256) % prior.levels

    def own() -> torch.Tensor:
        return prior.chain(u, t_B, generator(0, "bench-noise")).x_BD

    def plain() -> torch.Tensor:
        return langevin(prior, u, t_B, generator(0, "bench-noise"))

    difference = float((own() - plain()).abs().max())
    more: Record = {"batch": 256, "steps": 50, "sizes": ENERGY, "data": "none", "weights": INITIAL}
    ours, theirs = timed(own, repeats), timed(plain, max(1, repeats // 3))
    more["times_faster"] = theirs["median"] / ours["median"]
    return [
        record("langevin", ours["median"], "s", seconds=ours, max_difference=difference, **more),
        record("langevin_eager", theirs["median"], "s", seconds=theirs, **more),
    ]


def _write(model: TextVAE, prior: DiffusionPrior, count: int) -> list[list[int]]:
    return model.decode(_sample(prior, count))


def generation(repeats: int) -> list[Record]:
    """Latents from the prior and greedy sentences, 100 and 1,000 at a time.

    Tables of the model's fixed weights are made before, as when a loaded model serves requests.
    """
    split, _ = ptb_split()
    model, records = writer(split), []
    for name, published, count in (
        ("generation", False, 100),
        ("generation_same_steps", True, 100),
        ("generation_1000", False, 1000),
    ):
        prior = _prior(published)
        work = partial(_write, model, prior, count)
        with model.tables():
            times = timed(work, max(1, repeats // (count // 100)))
            latents = timed(partial(_sample, prior, count), 1)
            words = sum(map(len, work())) / count
        more = {"seconds": times, "seconds_of_latents": latents["median"], "batch": count}
        more |= {"steps": sum(prior.config.sampler.moves(prior.levels))}
        more |= {"words_per_sentence": words, "sizes": f"{TEXT}; {ENERGY}", "data": "none"}
        more |= {"weights": "initial, with an end of sentence as on the Penn Treebank"}
        records.append(record(name, count / times["median"], "sentences/s", "generation", **more))
    return records


def nll500(repeats: int) -> list[Record]:
    """Decoder part of the likelihood with 500 samples, per sentence, with its encoding."""
    split, source = ptb_split()
    model = text_model(split)
    order = np.argsort(np.abs(split.lengths - np.round(split.lengths.mean())), kind="stable")
    batch = collate(split, np.sort(order[:4]))
    noise = torch.randn(500, 4, 40, generator=generator(0, "bench-z"))

    def work(rounded: bool) -> torch.Tensor:
        with torch.no_grad():
            mu, logvar = model.encode(batch)
        return model.nll_matrix(batch, mu + (0.5 * logvar).exp() * noise, bfloat16=rounded)

    exact, records = work(False).double(), []
    for name, rounded in (("nll500", False), ("nll500_bfloat16", True)):
        times = timed(partial(work, rounded), max(1, repeats // 4))
        difference = work(rounded).double() - exact
        more: Record = {"data": source, "words": float(batch.lengths_B.double().mean()) - 1}
        more |= {"batch": 4, "samples": 500, "sizes": TEXT, "weights": INITIAL}
        more |= {"precision": "bfloat16" if rounded else "float32", "part": "encoder and decoder"}
        more |= {"bias_nats": float(difference.mean()), "deviation_nats": float(difference.std())}
        records.append(
            record(name, times["median"] / 4, "s/sentence", "nll500", seconds=times, **more)
        )
    return records


def points_iteration(repeats: int) -> list[Record]:
    """A joint update on sixteen Gaussians at batch 1,000."""
    split, records = points_split(), []
    for name, published in (("points_iteration", False), ("points_iteration_same_steps", True)):
        config = experiment("points", precision="float32", published=published)
        times = timed(_train_step(joint_task(config, split)), repeats)
        more = {"seconds": times, "steps": config.prior.sampler.steps, "batch": 1000}
        more |= {"data": "sixteen Gaussians", "sizes": "200 wide, 12 blocks, T=6, K=16, D=2"}
        records.append(record(name, times["median"], "s", "points_iteration", **more))
    return records


PARTS: dict[str, Callable[[int], list[Record]]] = {
    "matmul": matmul,
    "ptb_iteration": ptb_iteration,
    "ptb_first_stage": first_stage,
    "ptb_vae": ptb_eager,
    "ptb_cluster_features": ptb_cluster_features,
    "prior_samples": prior_samples,
    "priors_together": priors_together,
    "langevin": langevin_eager,
    "generation": generation,
    "nll500": nll500,
    "points_iteration": points_iteration,
}
