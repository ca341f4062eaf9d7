"""Updates of priors: alone, and several at once, in one process by turns, in processor time.

Of every kind of update: its GFLOP/s, the share of its time that is not products (at the rate that
this machine's products reach at their shape), and what 2 and 5 runs at once take over one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import Record, alternating, count_flops
from ldebm.assembly import build_prior
from ldebm.priors import EnergyPrior
from ldebm.seeding import generator, numpy_generator
from ldebm.training.prior_tasks import PriorTask
from ldebm.training.stacked_runs import StackedRuns
from ldebm.training.trainer import Loop
from pipelines.library import Library

__all__ = ["priors_together"]

ROOT = Path(__file__).resolve().parents[1]
ROWS = 20_000
PUBLISHED: dict[str, Any] = {"energy": {}}  # Yu et al. (2022), table A1: the defaults
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "points": ("gaussians16-ldebm", {}, ("matching", "contrast")),
    "chatter": ("chatter-ldebm", {}, ("matching", "contrast")),
    "chatter_svebm": ("chatter-svebm-ib", {}, ("contrast",)),
    "ptb": ("ptb-ldebm-l03", {}, ("matching", "contrast")),
    "ptb_published": ("ptb-ldebm-l03", PUBLISHED, ("matching",)),
}


def priors_together(repeats: int) -> list[Record]:
    """1, 2 and 5 priors on random latents, by kind of update and sizes."""
    return [
        _measure(f"{name}_{kind}", experiment, changes, kind, repeats)
        for name, (experiment, changes, kinds) in CASES.items()
        for kind in kinds
    ]


def _loop(experiment: str, changes: dict[str, Any], kind: str, seed: int) -> Loop:
    """A run with initial weights that stays at one kind of update."""
    config = Library(ROOT).experiment(experiment)
    section = type(config.prior).model_validate(config.prior.model_dump() | changes)
    config = config.model_copy(update={"prior": section})
    draws, latent = numpy_generator(seed, "bench-latents"), config.backbone.latent
    mu, logvar = draws.standard_normal((2, ROWS, latent)).astype(np.float32)
    labels = draws.integers(0, section.classes, ROWS)
    prior = build_prior(latent, section, generator(seed, "prior-init"))
    assert isinstance(prior, EnergyPrior)
    task = PriorTask(prior, mu, logvar / 4 - 2, labels, config, seed, torch.device("cpu"))
    task.warm_updates = 10**9 if kind == "matching" else 0
    return Loop(task, section.training, None, experiment, [])


def _alone(loop: Loop) -> None:
    loop.begin_update()
    loop.record(loop.update())


def _together(runs: StackedRuns) -> None:
    for loop, terms in runs.update()[0]:
        loop.record(terms)


def _rate(rows: int, hidden: int) -> float:
    """FLOP per processor second of one layer's products at their best."""
    a, b = torch.randn(rows, hidden), torch.randn(hidden, hidden)
    seconds = []
    for _ in range(200):
        start = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - start)
    return 2 * rows * hidden**2 / min(seconds)


def _measure(
    name: str, experiment: str, changes: dict[str, Any], kind: str, repeats: int
) -> Record:
    make = partial(_loop, experiment, changes, kind)
    one = make(0)
    groups = {count: StackedRuns([make(seed) for seed in range(count)]) for count in (2, 5)}
    same = groups[2].agrees()
    works: dict[str, Callable[[], Any]] = {"1": partial(_alone, one)}
    works |= {str(count): partial(_together, runs) for count, runs in groups.items()}
    turns = alternating(works, max(5, repeats))
    times = {count: mine.summary() for count, mine in turns.items()}
    flops = sum(count_flops(works["1"]).values())
    energy = one.task.prior.net.config  # type: ignore[attr-defined]
    rows, hidden = one.config.batch, energy.hidden
    rate, cpu = _rate(rows, hidden), times["1"]["cpu"]
    return {
        "name": f"priors_{name}",
        "threads": torch.get_num_threads(),
        "value": times["5"]["cpu"] / cpu,
        "unit": "times one, for 5",
        "seconds": times,
        "two_over_one": times["2"]["cpu"] / cpu,
        "same_bits": same,
        "gflops": flops / cpu / 1e9,
        "rate_gflops": rate / 1e9,
        "roofline": cpu * rate / flops,
        "outside_products": max(0.0, 1 - flops / rate / cpu),
        "sizes": f"{hidden} wide, {energy.blocks} blocks, {energy.activation}, batch {rows}",
        "data": "random latents",
    }
