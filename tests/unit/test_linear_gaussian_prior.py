"""Priors on the latents of a two-layer linear-Gaussian generator, where the truth is known exactly.

What is learnt is compared with the exact aggregate posterior by quadrature.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.config import PriorConfig
from ldebm.seeding import generator
from ldebm.training.image_prior_task import ImagePriorTask
from ldebm.training.trainer import train
from tests.unit.exact_priors import (
    divergence,
    draws,
    experiment,
    mixture_images,
    sampled_by,
    trained,
)
from tests.unit.image_worlds import EVERY_LEVEL, LinearGaussian, packed_images


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
    again = torch.cat([draws(prior, images) for _ in range(4)])
    torch.testing.assert_close(drawn.mean(0), again.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), again.std(0), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("training", "samplings"), [("logits", ["langevin"]), ("class", ["langevin", "filtered"])]
)
def test_conditional_samples_fall_into_their_heap(
    tmp_path: Path, training: str, samplings: list[str]
) -> None:
    hierarchy = EVERY_LEVEL | {"label_training": training}
    learnt, images = trained(tmp_path, 250, mixture_images(apart=2.0), hierarchy=hierarchy)
    centre = [draws(learnt, images[heap::2]).mean(0) for heap in (0, 1)]
    for sampling, heap in itertools.product(samplings, (0, 1)):
        prior = sampled_by(learnt, label_sampling=sampling)
        u = prior.sample(300, generator(heap, "class"), label=heap)
        own, other = ((u - centre[k]).norm(dim=1) for k in (heap, 1 - heap))
        assert float((own < other).float().mean()) > 0.95


def test_the_contrastive_prior_resamples_towards_the_aggregate_posterior(tmp_path: Path) -> None:
    prior, images = trained(
        tmp_path,
        300,
        kind="nce",
        score_matching=0.0,
        sampler={"steps": 40},
        standardise="none",
        hierarchy={"inputs": "context", "cached_draws": 4},
    )
    wanted = torch.cat([draws(prior, images) for _ in range(4)])
    for sampler in ("sir", "langevin"):
        drawn = sampled_by(prior, nce_sampler=sampler).sample(2000, generator(0, "sample"))
        assert float((drawn.mean(0) - wanted.mean(0)).abs().max()) < 0.15, sampler
        apart = (torch.cov(drawn.t()) - torch.cov(wanted.t())).abs().max()
        assert float(apart) < 0.25, sampler


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
