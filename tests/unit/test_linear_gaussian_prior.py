"""Priors on the latents of a two-layer linear-Gaussian generator, where the truth is known exactly.

What is learnt is compared with the exact aggregate posterior by quadrature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldebm.config import ExperimentConfig, PriorConfig
from ldebm.evaluate.quadrature import prior_grid
from ldebm.image_prior_task import ImagePriorTask
from ldebm.priors import build_prior
from ldebm.seeding import generator
from ldebm.trainer import train
from tests.unit.image_worlds import LinearGaussian, packed_images
from tests.unit.test_hierarchical_priors import ENERGY, EVERY_LEVEL


def mixture_images(apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """300 pictures of 1 x 2 pixels in two heaps, and which heap each is in."""
    stream = np.random.default_rng(0)
    heap = np.arange(300) % 2
    centre = np.where(heap[:, None] == 0, [-0.22, 0.12], [0.2, 0.02])
    x = apart * centre + 0.06 * stream.standard_normal((300, 2))
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8).reshape(300, 1, 1, 2), heap


def experiment(updates: int, lr: float = 2e-3, **prior: Any) -> ExperimentConfig:
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
    images, heap = mixture_images() if world is None else world
    split = packed_images(tmp_path / "packed", images, {"heap": heap}).split("train")
    config = experiment(updates, **prior)
    learnt: Any = build_prior(LinearGaussian(), config.prior, generator(seed, "prior-init"))
    task = ImagePriorTask(learnt, split, heap.astype(np.int64), config, seed, torch.device("cpu"))
    result = train(task, config.prior.training, None, title="test")
    learnt.load_state_dict(result.state)
    return learnt.eval(), images


def divergence(prior: Any, images: np.ndarray) -> float:
    """KL(aggregate posterior || prior) in nats, by quadrature."""
    grid = prior_grid(prior, prior.to_standard(_draws(prior, images)))
    axis = grid.axis_G
    u = torch.cartesian_prod(axis, axis)
    log_q = prior.backbone.aggregate_log_density(prior.from_standard(u), images)
    log_q = log_q + prior.log_det()
    mass = torch.softmax(log_q, 0)
    assert float(torch.logsumexp(log_q, 0).exp() * grid.cell**2) == pytest.approx(1, abs=0.01)
    log_p = grid.mass_GG.flatten().clamp(min=1e-30).log()
    return float((mass * (mass.clamp(min=1e-30).log() - log_p)).sum())


def _draws(prior: Any, images: np.ndarray) -> Tensor:
    x = torch.from_numpy(images).float().div(127.5).sub(1)
    noise = torch.randn(len(x), 2, generator=generator(9, "draws"))
    drawn: Tensor = prior.backbone.posterior(x, noise).u_BD
    return drawn


@pytest.mark.parametrize(
    "hierarchy",
    [
        {"inputs": "context", "label_groups": [0], "cached_draws": 4},
        EVERY_LEVEL | {"label_training": "class"},
    ],
)
def test_the_learnt_prior_is_the_exact_aggregate_posterior(
    tmp_path: Path, hierarchy: dict[str, Any]
) -> None:
    prior, images = trained(tmp_path, 600, hierarchy=hierarchy)
    reference: Any = build_prior(
        LinearGaussian(), PriorConfig.model_validate({"kind": "gaussian", "standardise": "none",
                                                      "training": {"updates": 1}})
    )  # fmt: skip
    assert divergence(reference, images) > 0.3
    assert divergence(prior, images) < 0.05
    drawn = prior.sample(2000, generator(1, "sample"))
    again = torch.cat([_draws(prior, images) for _ in range(4)])
    torch.testing.assert_close(drawn.mean(0), again.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), again.std(0), atol=0.1, rtol=0)


def four_heaps() -> tuple[np.ndarray, np.ndarray]:
    """1,200 pictures in four heaps at the corners of a rectangle in u, and which heap each is in.

    Within a heap they differ by less than the posterior's own spread.
    """
    backbone = LinearGaussian()
    stream = np.random.default_rng(0)
    heap = np.repeat(np.arange(4), 300)
    u_1, u_2 = 0.9 * (2 * (heap % 2) - 1), 1.55 * (2 * (heap // 2) - 1)
    z_1 = u_1
    z_2 = backbone.slope * z_1 + backbone.spread * u_2
    # The picture whose posterior has its mean path at (z_1, z_2).
    own, narrow = (4 * backbone.noise) ** 2, backbone.spread**2
    wide = narrow + own
    x_2 = (z_2 * (1 / narrow + 1 / own) - backbone.slope * z_1 / narrow) * own
    x_1 = (z_1 * (1 + 1 / own + backbone.slope**2 / wide) - backbone.slope * x_2 / wide) * own
    x = np.stack([x_1, x_2], 1) / 4 + 0.01 * stream.standard_normal((1200, 2))
    assert np.abs(x).max() < 1
    return ((x + 1) * 127.5).round().astype(np.uint8).reshape(1200, 1, 1, 2), heap


def heap_distances(prior: Any, images: np.ndarray, heap: np.ndarray) -> list[float]:
    """Between the heaps of the aggregate posterior, in standard deviations within a heap."""
    u = _draws(prior, images)
    centres = [u[heap == k].mean(0) for k in range(4)]
    within = torch.cov(torch.cat([u[heap == k] - centres[k] for k in range(4)]).t())
    root = torch.linalg.cholesky(torch.linalg.inv(within))
    return [float(((centres[i] - centres[j]) @ root).norm()) for i in range(4) for j in range(i)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_learnt_prior_has_heaps_that_lie_far_apart(tmp_path: Path, seed: int) -> None:
    images, heap = four_heaps()
    prior, _ = trained(
        tmp_path,
        900,
        (images, heap),
        seed=seed,
        classes=4,
        score_matching=0.5,
        sampler={"steps": 10, "training_start": "data"},
        lr=4e-3,
    )
    assert min(heap_distances(prior, images, heap)) > 4.5
    assert divergence(prior, images) < 0.05


@pytest.mark.parametrize(
    ("training", "sampling"), [("logits", "langevin"), ("class", "langevin"), ("class", "filtered")]
)
def test_conditional_samples_fall_into_their_heap(
    tmp_path: Path, training: str, sampling: str
) -> None:
    hierarchy = EVERY_LEVEL | {"label_training": training, "label_sampling": sampling}
    prior, images = trained(tmp_path, 400, mixture_images(apart=2.0), hierarchy=hierarchy)
    centre = [_draws(prior, images[heap::2]).mean(0) for heap in (0, 1)]
    for heap in (0, 1):
        u = prior.sample(300, generator(heap, "class"), label=heap)
        own, other = ((u - centre[k]).norm(dim=1) for k in (heap, 1 - heap))
        assert float((own < other).float().mean()) > 0.95


@pytest.mark.parametrize("sampler", ["sir", "langevin"])
def test_the_contrastive_prior_resamples_towards_the_aggregate_posterior(
    tmp_path: Path, sampler: str
) -> None:
    prior, images = trained(
        tmp_path,
        300,
        kind="nce",
        score_matching=0.0,
        sampler={"steps": 40},
        standardise="none",
        hierarchy={"inputs": "context", "nce_sampler": sampler, "cached_draws": 4},
    )
    drawn = prior.sample(2000, generator(0, "sample"))
    wanted = torch.cat([_draws(prior, images) for _ in range(4)])
    assert float((drawn.mean(0) - wanted.mean(0)).abs().max()) < 0.15
    assert float((torch.cov(drawn.t()) - torch.cov(wanted.t())).abs().max()) < 0.25


def test_a_resumed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    images, heap = mixture_images()
    split = packed_images(tmp_path / "packed", images, {"heap": heap}).split("train")
    config = experiment(30, hierarchy={"label_groups": [0]})
    states = []
    for stop in (None, 21):
        checkpoint = None if stop is None else tmp_path / "prior.pt"
        for last in (True,) if stop is None else (False, True):
            prior = build_prior(LinearGaussian(), config.prior, generator(0, "prior-init"))
            task = ImagePriorTask(
                prior,  # type: ignore[arg-type]
                split,
                heap.astype(np.int64),
                config,
                0,
                torch.device("cpu"),
            )
            training = config.prior.training
            if last:
                result = train(task, training, checkpoint, title="test")
            else:
                with pytest.raises(SystemExit):
                    train(task, training, checkpoint, title="test", stop_after=stop)
        states.append(result.state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
