"""Priors trained on latents of the linear-Gaussian generator, and how far they are from exact."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldebm.assembly import build_prior, prior_task
from ldebm.config import ExperimentConfig
from ldebm.evaluate.quadrature import prior_grid
from ldebm.seeding import generator
from ldebm.training.trainer import train
from tests.unit.image_worlds import ENERGY, LinearGaussian, packed_images


def mixture_images(apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """300 pictures of 1 x 2 pixels in two heaps, and which heap each is in."""
    stream = np.random.default_rng(0)
    heap = np.arange(300) % 2
    centre = np.where(heap[:, None] == 0, [-0.22, 0.12], [0.2, 0.02])
    x = apart * centre + 0.06 * stream.standard_normal((300, 2))
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8).reshape(300, 1, 1, 2), heap


def experiment(updates: int, lr: float = 2e-3, **prior: Any) -> ExperimentConfig:
    """A diffusion prior on the generator's latents; ``prior`` changes keys of its section."""
    section: dict[str, Any] = {
        "levels": 3,
        "classes": 2,
        "energy": ENERGY | {"hidden": 32, "blocks": 2},
        "standardise": "diagonal",
        "mi_weight": 0.0,
        "class_weight": 0.5,
        "sampler": {"steps": 10},
        "hierarchy": {"inputs": "context", "label_groups": [0], "cached_draws": 4},
        "score_matching": 0.75,
        "training": {
            "updates": updates,
            "batch": 256,
            "validate_every": None,
            "optimiser": {
                "lr": lr,
                "betas": [0.9, 0.99],
                "clip": 1.0,
                "schedule": "linear",
                "ema": 0.99,
            },
        },
    } | prior
    content = {
        "data": "two-heaps",
        "backbone": {
            "arch": "hvae",
            "hvae": {"layers": [{"dense": 1}], "widths": [1]},
            "training": {"updates": 1},
        },
        "cluster": {"labels": "given", "column": "heap"},
        "prior": section,
    }
    return ExperimentConfig.model_validate(content)


def trained(
    tmp_path: Path,
    updates: int,
    world: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    **prior: Any,
) -> tuple[Any, np.ndarray]:
    """The learnt prior, and the images whose latents it learnt."""
    images, heap = mixture_images() if world is None else world
    split = packed_images(tmp_path / "packed", images, {"heap": heap}).split("train")
    config = experiment(updates, **prior)
    learnt: Any = build_prior(LinearGaussian(), config.prior, generator(seed, "prior-init"))
    kind = prior_task(config, learnt, learnt.backbone)
    task = kind(learnt, split, heap.astype(np.int64), config, seed, torch.device("cpu"))
    result = train(task, config.prior.training, None, title="test")
    learnt.load_state_dict(result.state)
    return learnt.eval(), images


def sampled_by(prior: Any, **section: str) -> Any:
    """The same prior with other ways of sampling, which training does not read."""
    other = copy.copy(prior)
    other.section = prior.section.model_copy(update=section)
    return other


def divergence(prior: Any, images: np.ndarray) -> float:
    """KL(aggregate posterior || prior) in nats, by quadrature."""
    grid = prior_grid(prior, prior.to_standard(draws(prior, images)))
    axis = grid.axis_G
    u = torch.cartesian_prod(axis, axis)
    log_q = prior.backbone.aggregate_log_density(prior.from_standard(u), images)
    log_q = log_q + prior.log_det()
    mass = torch.softmax(log_q, 0)
    assert float(torch.logsumexp(log_q, 0).exp() * grid.cell**2) == pytest.approx(1, abs=0.01)
    log_p = grid.mass_GG.flatten().clamp(min=1e-30).log()
    return float((mass * (mass.clamp(min=1e-30).log() - log_p)).sum())


def draws(prior: Any, images: np.ndarray) -> Tensor:
    """One posterior draw of u for every image, (n, 2)."""
    x = torch.from_numpy(images).float().div(127.5).sub(1)
    noise = torch.randn(len(x), 2, generator=generator(9, "draws"))
    drawn: Tensor = prior.backbone.posterior(x, noise).u_BD
    return drawn
