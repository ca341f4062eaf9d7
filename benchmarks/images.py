"""Updates of the hierarchical image models, both stages, in one process by turns.

Every kind of update is made as its experiment says (``own``), without compiled kernels (``plain``),
and by plain PyTorch with products in float32, which both are compared with. ``cpu_minutes`` is what
all updates of this kind take in a training of the experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.problems import SyntheticSplit
from benchmarks.timing import Record, alternating, compare, count_flops
from ldebm import kernels
from ldebm.assembly import build_backbone, build_prior
from ldebm.config import ExperimentConfig
from ldebm.priors import EnergyPrior
from ldebm.seeding import generator, numpy_generator
from ldebm.training.image_first_stage import ImageTask
from ldebm.training.image_prior_task import ImagePriorTask
from ldebm.training.trainer import Loop
from pipelines.library import Library

__all__ = ["images", "random_images"]

ROOT = Path(__file__).resolve().parents[1]
ROWS = 2000
SETS = {"mnist-hvae": (28, 1, 55_000), "cifar10-hvae": (32, 3, 45_000)}  # side, colours, rows
CPU = torch.device("cpu")


def random_images(side: int, colours: int) -> SyntheticSplit:
    """Random pixels."""
    x = numpy_generator(0, "bench-images").integers(0, 256, (ROWS, colours, side, side))
    meta = {"kind": "images", "size": side, "channels": colours, "labels": {}}
    return SyntheticSplit(meta, ROWS, np.empty(0), np.zeros(1, np.int64), x.astype(np.uint8))


def _with(config: ExperimentConfig, section: str, precision: str) -> ExperimentConfig:
    """The experiment with another precision of one stage."""
    part = getattr(config, section)
    training = part.training.model_copy(update={"precision": precision})
    return config.model_copy(update={section: part.model_copy(update={"training": training})})


def _loop(config: ExperimentConfig, split: Any, kind: str) -> tuple[Loop, int]:
    """A run with initial weights, and the update at which its kind of update begins."""
    backbone: Any = build_backbone(config.backbone, split.meta, generator(0, "backbone-init"))
    if kind == "first":
        task: Any = ImageTask(backbone, split, split, config, 0, CPU)
        return Loop(task, config.backbone.training, None, kind, []), 0
    prior = build_prior(backbone, config.prior, generator(0, "prior-init"))
    assert isinstance(prior, EnergyPrior)
    labels = numpy_generator(0, "bench-labels").integers(0, config.prior.classes, split.n)
    task = ImagePriorTask(prior, split, labels, config, 0, CPU)
    loop = Loop(task, config.prior.training, None, kind, [])
    return loop, 0 if kind == "matching" else task.warm_updates


def _update(loop: Loop, start: int, *, plain: bool) -> Callable[[], None]:
    def update() -> None:
        loop.step = start
        with kernels.plain() if plain else nullcontext():
            loop.begin_update()
            loop.update()

    return update


def _measure(name: str, kind: str, repeats: int) -> list[Record]:
    side, colours, rows = SETS[name]
    given, split = Library(ROOT).experiment(name), random_images(side, colours)
    section = "backbone" if kind == "first" else "prior"
    training = getattr(given, section).training
    exact = _with(given, section, "float32")
    variants = {"eager": (exact, True), "own": (given, False), "plain": (given, True)}
    works = {
        key: _update(*_loop(config, split, kind), plain=plain)
        for key, (config, plain) in variants.items()
    }
    flops = {key: count_flops(works["plain"]) for key in ("own", "plain")}
    turns = alternating(works, max(repeats, 5))
    updates = training.updates or round(training.epochs * -(-rows // training.batch))
    if kind != "first":
        warm = round(given.prior.score_matching * updates)
        updates = warm if kind == "matching" else updates - warm
    more: Record = {"data": f"random pixels, {colours} x {side} x {side}", "batch": training.batch}
    more |= {"kernels": kernels.state(), "experiment": name, "updates": updates}
    more["cpu_minutes"] = updates * turns["own"].summary()["cpu"] / 60
    return compare(
        f"images_{name}_{kind}", turns, flops, against="plain PyTorch in float32", **more
    )


def images(repeats: int) -> list[Record]:
    """An update of the first stage, of score matching and of the contrast."""
    lines: list[Record] = []
    for name in SETS:
        for kind in ("first", "matching", "contrast"):
            lines += _measure(name, kind, repeats)
    return lines
