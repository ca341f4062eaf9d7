"""What is measured, one function a part; each returns lines of ``reports/bench.json``.

The rows of the table are the published procedure's work at its sizes, beside the same work here:
``eager`` is :mod:`benchmarks.eager`. Names that end in ``same_steps`` make as many Langevin moves
as that; the others those that suffice here.

Shapes: B batch, D latent dimension, S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.eager import EagerLDEBM, EagerVAE
from benchmarks.images import images
from benchmarks.kernels import first_stage, nll_samples, rounding
from benchmarks.priors import priors_together
from benchmarks.problems import (
    every,
    experiment,
    joint_task,
    ptb_split,
    text_batch,
    text_model,
    writer,
)
from benchmarks.timing import Record, Work, alternating, compare, count_flops, rates
from ldebm.assembly import build_prior
from ldebm.backbones.text import TextVAE
from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, collate
from ldebm.optimisers import apply_gradients, make_optimiser
from ldebm.priors import DiffusionPrior
from ldebm.seeding import generator
from ldebm.training.joint_task import JointTask
from ldebm.training.latents import encode_split

__all__ = ["PARTS"]

TEXT = "V=10,001, hidden and embedding 512, D=40"
ENERGY = "200 wide, 12 blocks, T=6, K=20, D=40"
CPU = torch.device("cpu")
SHARE = 8  # one row of so many is encoded by the fast code: the vocabulary's table is once a pass
BATCHES = 4  # of 128 rows that are encoded by the padded code: all take the same time
SENTENCES = 4


def matmul(repeats: int) -> list[Record]:
    """Rates of square products of 2,048, and the error of the float32 one."""
    a = torch.randn(2048, 2048, generator=generator(0, "bench-matmul"))
    exact = a.double() @ a.double()
    error = float(((a @ a).double() - exact).norm() / exact.norm())
    threads = torch.get_num_threads()
    rate = {kind: value / 1e9 for kind, value in rates(threads).items()}
    line = {"name": "matmul", "threads": threads, "value": rate["float32"]}
    line |= {"unit": "GFLOP/s of float32", "bfloat16": rate["bfloat16"], "relative_error": error}
    return [line]


def _ratios(
    name: str,
    eager: Work,
    own: dict[str, Work],
    repeats: int,
    scale: dict[str, float] | None = None,
    **more: Any,
) -> list[Record]:
    flops = {work: count_flops(run) for work, run in own.items()}
    turns = alternating({"eager": _as_it_comes(eager), **own}, max(repeats, 5), scale)
    return compare(name, turns, flops, **more)


def _as_it_comes(work: Work) -> Work:
    """With PyTorch's own choice of float32 products; the project's is one of its speed-ups."""

    def run() -> Any:
        chosen = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return work()
        finally:
            torch.set_float32_matmul_precision(chosen)

    return run


def _update(task: JointTask, config: ExperimentConfig) -> Work:
    """One whole update, from the choice of rows to the optimiser."""
    groups = task.groups()
    optimisers = [make_optimiser(group) for group in groups]
    compiled = config.backbone.training.precision == "bfloat16"
    steps = iter(range(10**9))

    def step() -> None:
        index = next(steps)
        total = task.loss(index).total
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(total)
        for group, optimiser in zip(groups, optimisers, strict=True):
            apply_gradients(group, optimiser, compiled=compiled)
        task.after_update(index, None)

    return step


def _eager_update(split: Any) -> Work:
    """The same in plain PyTorch: Adam as it comes, and gradients clipped by group."""
    config = experiment("float32", published=True)
    task = joint_task(config, split)
    assert isinstance(task.backbone, TextVAE)
    assert isinstance(task.prior, DiffusionPrior)
    assert task.labels is not None
    labels = torch.from_numpy(task.labels)
    eager = EagerLDEBM(task.backbone, task.prior, config.backbone.entropy_mask)
    eager.vae.train()
    eager.energy.train()
    groups = [(list(eager.vae.parameters()), 0.5), (list(eager.energy.parameters()), 10.0)]
    optimisers = [torch.optim.Adam(parameters, lr=1e-4) for parameters, _ in groups]
    steps, stream = iter(range(10**9)), generator(0, "bench-eager")

    def step() -> None:
        rows = batch_rows(split.n, 128, 0, next(steps))
        noise = torch.randn(len(rows), 40, generator=stream)
        tokens = eager.vae.padded(collate(split, rows))
        total = eager.loss(tokens, labels[torch.from_numpy(rows)], noise, stream)
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(total)
        for (parameters, clip), optimiser in zip(groups, optimisers, strict=True):
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()

    return step


def joint_update(repeats: int) -> list[Record]:
    """A joint update of the Penn Treebank at batch 128, in bfloat16 and in float32."""
    split, source = ptb_split()
    own: dict[str, Work] = {}
    for name, precision, published in (
        ("own", "bfloat16", False),
        ("float32", "float32", False),
        ("same_steps", "bfloat16", True),
        ("float32_same_steps", "float32", True),
    ):
        config = experiment(precision, published=published)
        own[name] = _update(joint_task(config, split), config)
    sizes = f"{TEXT}; {ENERGY}"
    more: Record = {"data": source, "batch": 128, "sizes": sizes}
    return _ratios("joint_update", _eager_update(split), own, repeats, **more)


def _prior(*, published: bool) -> DiffusionPrior:
    config = experiment(published=published, sampling=True)
    prior = build_prior(40, config.prior, generator(0, "bench-prior"))
    assert isinstance(prior, DiffusionPrior)
    return prior.eval()


def _eager_model(model: TextVAE) -> EagerLDEBM:
    eager = EagerLDEBM(model, _prior(published=True))
    eager.vae.eval()
    eager.energy.eval()
    return eager


def _latents(prior: DiffusionPrior, count: int) -> torch.Tensor:
    return prior.sample(count, generator(0, "bench-sample"))


def _moves(*priors: DiffusionPrior) -> list[int]:
    return [sum(prior.config.sampler.moves(prior.levels)) for prior in priors]


def prior_samples(repeats: int) -> list[Record]:
    """1,000 latents."""
    split, _ = ptb_split()
    eager, fast = _eager_model(text_model(split)), _prior(published=False)
    slow = _prior(published=True)
    own: dict[str, Work] = {
        "own": partial(_latents, fast, 1000),
        "same_steps": partial(_latents, slow, 1000),
    }
    more: Record = {"batch": 1000, "sizes": ENERGY, "moves": _moves(fast, slow)}
    work = partial(eager.sample, 1000, generator(0, "bench-sample"))
    return _ratios("prior_samples", work, own, repeats, **more)


def generation(repeats: int) -> list[Record]:
    """Latents and greedy sentences, 100 at a time; tables of fixed weights are made before."""
    split, _ = ptb_split()
    model = writer(split)
    eager, fast, slow = _eager_model(model), _prior(published=False), _prior(published=True)

    def written(prior: DiffusionPrior) -> list[list[int]]:
        return model.decode(_latents(prior, 100))

    def plain() -> list[list[int]]:
        return eager.vae.write(eager.sample(100, generator(0, "bench-sample")))

    with model.tables():
        words = sum(map(len, written(fast))) / 100
        own: dict[str, Work] = {"own": partial(written, fast), "same_steps": partial(written, slow)}
        more: Record = {"batch": 100, "sizes": f"{TEXT}; {ENERGY}", "moves": _moves(fast, slow)}
        more |= {"words": words, "weights": "an end of sentence as on the Penn Treebank"}
        return _ratios("generation", plain, own, repeats, **more)


def nll500(repeats: int) -> list[Record]:
    """-log p(x|z) of a sentence at 500 samples, with its encoding."""
    split, source = ptb_split()
    model = text_model(split)
    batch = text_batch(split, SENTENCES)
    noise = torch.randn(500, SENTENCES, 40, generator=generator(0, "bench-z"))
    eager = EagerVAE(model).eval()
    own: dict[str, Work] = {
        "own": partial(nll_samples, model, batch, noise, bfloat16=False),
        "bfloat16": partial(nll_samples, model, batch, noise, bfloat16=True),
    }
    tokens = eager.padded(batch)[: int(batch.lengths_B[0]), 0]
    plain = partial(eager.nll_samples, tokens, noise[:, 0])
    more: Record = {"data": source, "sizes": TEXT, "words": len(tokens) - 1}
    scale = {name: 1 / SENTENCES for name in own}
    return _ratios("nll500", plain, own, repeats, scale, **more)


def cluster_features(repeats: int) -> list[Record]:
    """Posterior means of an epoch: of a share of it, and scaled by rows."""
    split, source = ptb_split()
    model, few = text_model(split), every(split, SHARE)
    eager = EagerVAE(model).eval()
    batches = [
        eager.padded(collate(few, np.arange(128 * i, 128 * (i + 1)))) for i in range(BATCHES)
    ]
    own: dict[str, Work] = {
        "own": partial(encode_split, model, few, CPU),
        "bfloat16": partial(encode_split, model, few, CPU, bfloat16=True),
    }
    scale = {"eager": split.n / (128 * BATCHES)} | dict.fromkeys(own, split.n / few.n)
    more: Record = {"data": source, "sizes": f"{split.n} sentences; {TEXT}", "batch": 256}
    work = partial(eager.features, batches)
    return _ratios("cluster_features", work, own, repeats, scale, **more)


PARTS: dict[str, Callable[[int], list[Record]]] = {
    "matmul": matmul,
    "joint_update": joint_update,
    "prior_samples": prior_samples,
    "generation": generation,
    "nll500": nll500,
    "cluster_features": cluster_features,
    "rounding": rounding,
    "first_stage": first_stage,
    "priors_together": priors_together,
    "images": images,
}
