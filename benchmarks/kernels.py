"""Whole first-stage updates of the Penn Treebank with and without compiled kernels, in one process.

Updates take turns on the same batches, so that what else the machine does falls on both. The
roofline column is the processor time of an update over that of its products alone, at the rate that
this machine's bfloat16 products reach.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.problems import ptb_split
from benchmarks.timing import Record, record
from ldebm import kernels
from ldebm.assembly import build_backbone
from ldebm.config.library import Library
from ldebm.optimisers import apply_gradients, make_optimiser
from ldebm.seeding import generator
from ldebm.training.backbone_task import BackboneTask

__all__ = ["alternating", "first_stage"]

EXPERIMENT = "ptb-ldebm"
ROOT = Path(__file__).resolve().parents[1]


def alternating(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median, least, spread (quartiles) of wall and median CPU seconds of works that take turns."""
    walls: dict[str, list[float]] = {name: [] for name in works}
    cpus: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:  # the first is not counted
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    found = {}
    for name in works:
        low, median, high = statistics.quantiles(walls[name], n=4)
        found[name] = {"median": median, "least": min(walls[name]), "quartiles": high - low}
        found[name]["cpu"] = statistics.median(cpus[name])
    return found


def _updates(split: Any, plain: bool) -> Callable[[], None]:
    """Whole updates, from the choice of rows to the optimiser, of a model of its own."""
    config = Library(ROOT).experiment(EXPERIMENT)
    model = build_backbone(config.backbone, split.meta, generator(0, "backbone-init"))
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

    return update


def _rate() -> float:
    """FLOP per processor second of bfloat16 products at their best."""
    x = torch.randn(2048, 2048, generator=generator(0, "bench-matmul")).bfloat16()
    seconds = []
    for _ in range(20):
        start = time.process_time()
        torch.mm(x, x)
        seconds.append(time.process_time() - start)
    return 2 * 2048**3 / min(seconds)


def first_stage(repeats: int) -> list[Record]:
    """An update at batch 128 on one thread and on two."""
    split, source = ptb_split()
    with FlopCounterMode(display=False) as counter:
        _updates(split, plain=True)()
    flop, records, before = counter.get_total_flops(), [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        works = {name: _updates(split, plain=name == "plain") for name in ("plain", "kernels")}
        times = alternating(works, max(repeats, 5))
        rate = _rate()
        now, plain = times["kernels"], times["plain"]
        more: Record = {"seconds": times, "data": source, "batch": 128, "threads_used": threads}
        more |= {"kernels": kernels.state(), "times_faster": plain["median"] / now["median"]}
        more |= {"times_faster_cpu": plain["cpu"] / now["cpu"], "gflop": flop / 1e9}
        more |= {"rate_gflops": rate / 1e9, "roofline": now["cpu"] * rate / flop}
        more |= {"roofline_plain": plain["cpu"] * rate / flop, "experiment": EXPERIMENT}
        name = f"ptb_first_stage_{threads}_thread{'s' * (threads > 1)}"
        records.append(record(name, now["median"], "s", **more))
    torch.set_num_threads(before)
    return records
