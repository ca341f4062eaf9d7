"""Measures the project and writes ``reports/bench.json`` (``make bench``).

References are the public code's medians on two threads of a two-core machine. ``ratio`` is how many
times faster the project is; ``matmul`` tells what the present machine's products are worth.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.eager import EagerVAE, langevin
from benchmarks.problems import experiment, joint_task, points_split, ptb_split, writer
from ldebm.clustering import geometric_clusters
from ldebm.data.batches import batch_rows, collate
from ldebm.files import write_json
from ldebm.latents import encode_split
from ldebm.nn.text import TextVAE
from ldebm.prior_tasks import JointTask
from ldebm.priors import DiffusionPrior, build_prior
from ldebm.seeding import configure, generator, numerics

REFERENCE = {
    "ptb_iteration": 2.36,
    "ptb_cluster_features": 78.0,
    "prior_samples": 5.16,
    "generation": 76.0,
    "nll500": 1.79,
    "points_iteration": 1.95,
}
Record = dict[str, Any]


def timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and least wall seconds and mean CPU seconds, after one run that is not counted."""
    work()
    walls, before = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - before) / repeats
    return {"median": statistics.median(walls), "least": min(walls), "cpu": cpu}


def record(name: str, value: float, unit: str, base: str | None = None, **more: Any) -> Record:
    """One line of the result; ``base`` names the reference it is compared with."""
    reference = REFERENCE.get(base or name)
    ratio = None
    if reference is not None:
        ratio = value / reference if unit.endswith("/s") else reference / value
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
    return line | {"peak_memory_mb": round(peak)} | more


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
        more |= {"precision": config.backbone.training.precision}
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
        "precision": "float32",
    }
    ours, theirs = timed(lambda: update(model), repeats), timed(lambda: update(eager), repeats)
    return [
        record("ptb_vae", ours["median"], "s", seconds=ours, **more),
        record("ptb_vae_eager", theirs["median"], "s", seconds=theirs, data=source),
    ]


def ptb_cluster_features(repeats: int) -> list[Record]:
    """Posterior means of the whole training split, and their clusters; once, as it takes long."""
    del repeats
    split, source = ptb_split()
    config = experiment(precision="float32")
    task = joint_task(config, split)
    start = time.perf_counter()
    features, _ = encode_split(task.backbone, split, torch.device("cpu"))
    encoded = time.perf_counter() - start
    geometric_clusters(features, config.prior.classes, config.cluster, 0)
    seconds = time.perf_counter() - start
    more = {"encoder_seconds": encoded, "rows": split.n, "data": source, "precision": "float32"}
    return [record("ptb_cluster_features", seconds, "s", **more)]


def _prior(published: bool) -> DiffusionPrior:
    config = experiment(published=published)
    prior = build_prior(40, config.prior, generator(0, "bench-prior"))
    assert isinstance(prior, DiffusionPrior)
    return prior.eval()


def _sample(prior: DiffusionPrior, count: int) -> torch.Tensor:
    return prior.sample(count, generator(0, "bench-sample"))


def prior_samples(repeats: int) -> list[Record]:
    """1,000 latents from the prior: default sampler, and the published number of steps."""
    records = []
    for name, published in (("prior_samples", False), ("prior_samples_same_steps", True)):
        prior = _prior(published)
        times = timed(partial(_sample, prior, 1000), repeats)
        sampler = prior.config.sampler
        more = {"steps": sampler.steps * prior.levels, "method": sampler.method}
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
    ours, theirs = timed(own, repeats), timed(plain, repeats)
    return [
        record("langevin", ours["median"], "s", seconds=ours, max_difference=difference),
        record("langevin_eager", theirs["median"], "s", seconds=theirs),
    ]


def _write(model: TextVAE, prior: DiffusionPrior, count: int) -> list[list[int]]:
    return model.decode(_sample(prior, count))


def generation(repeats: int) -> list[Record]:
    """Latents from the prior and greedy sentences, 100 and 1,000 at a time."""
    split, _ = ptb_split()
    model, records = writer(split), []
    for name, published, count in (
        ("generation", False, 100),
        ("generation_same_steps", True, 100),
        ("generation_1000", False, 1000),
    ):
        prior = _prior(published)
        work = partial(_write, model, prior, count)
        times = timed(work, max(1, repeats // (count // 100)))
        words = sum(map(len, work())) / count
        more = {"seconds": times, "words_per_sentence": words, "batch": count}
        records.append(record(name, count / times["median"], "sentences/s", "generation", **more))
    return records


def nll500(repeats: int) -> list[Record]:
    """Decoder part of the likelihood with 500 samples, per sentence."""
    split, source = ptb_split()
    model = writer(split)
    order = np.argsort(np.abs(split.lengths - np.round(split.lengths.mean())), kind="stable")
    batch = collate(split, np.sort(order[:4]))
    noise = torch.randn(500, 4, 40, generator=generator(0, "bench-z"))

    def work() -> None:
        with torch.no_grad():
            mu, logvar = model.encode(batch)
        model.nll_matrix(batch, mu + (0.5 * logvar).exp() * noise)

    times = timed(work, max(1, repeats // 4))
    per_sentence = times["median"] / 4
    more: Record = {"data": source, "words": float(batch.lengths_B.double().mean()) - 1}
    return [record("nll500", per_sentence, "s/sentence", seconds=times, **more)]


def points_iteration(repeats: int) -> list[Record]:
    """A joint update on sixteen Gaussians at batch 1,000."""
    split, records = points_split(), []
    for name, published in (("points_iteration", False), ("points_iteration_same_steps", True)):
        config = experiment("points", precision="float32", published=published)
        times = timed(_train_step(joint_task(config, split)), repeats)
        more = {"seconds": times, "steps": config.prior.sampler.steps}
        records.append(record(name, times["median"], "s", "points_iteration", **more))
    return records


PARTS: dict[str, Callable[[int], list[Record]]] = {
    "matmul": matmul,
    "ptb_iteration": ptb_iteration,
    "ptb_vae": ptb_eager,
    "ptb_cluster_features": ptb_cluster_features,
    "prior_samples": prior_samples,
    "langevin": langevin_eager,
    "generation": generation,
    "nll500": nll500,
    "points_iteration": points_iteration,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="reports/bench.json")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="three repeats instead of eleven")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    configure(options.threads)
    machine = numerics(torch.device("cpu")) | {"load": os.getloadavg()[0]}
    results: list[Record] = []
    for name in options.only:
        for line in PARTS[name](3 if options.quick else 11):
            results.append(line | {"threads": options.threads, "machine": machine})
            ratio = "" if line["ratio"] is None else f"  {line['ratio']:.1f} x the public code"
            print(f"{line['name']:<28} {line['value']:10.4g} {line['unit']}{ratio}", flush=True)
    write_json(options.out, results)


if __name__ == "__main__":
    main()
