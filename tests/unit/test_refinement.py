"""All parameters together from where the two stages have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.assembly import build_backbone, build_prior
from ldebm.config import ExperimentConfig, parse
from ldebm.errors import UsageError
from ldebm.priors import EnergyPrior, Posteriors
from ldebm.seeding import configure, generator
from ldebm.training.objectives import gaussian_kl
from ldebm.training.refinement import RefinementTask
from ldebm.training.trainer import train
from tests.unit.text_worlds import packed_documents


def experiment(**prior: Any) -> ExperimentConfig:
    training = {"batch": 64, "validate_every": 1, "updates": 40}
    content = {
        "data": "documents",
        "backbone": {
            "arch": "bow", "latent": 4, "hidden": 24, "layers": 1, "kl_weight": 0.2,
            "training": {**training, "optimiser": {"lr": 1e-2}},
        },
        "cluster": {"labels": "gc", "refresh": 2, "dims": 3},
        "prior": {
            "classes": 3, "levels": 3, "sampler": {"steps": 4}, "standardise": "diagonal",
            "scheme": "refined", "energy": {"hidden": 16, "blocks": 1, "spectral_norm": False},
            "refinement": {"warmup": 3, "backbone_lr": 3e-3, "training": training},
            "training": training,
        } | prior,
    }  # fmt: skip
    return parse(ExperimentConfig, content, "experiment")


@pytest.fixture
def task(tmp_path: Path) -> RefinementTask:
    configure(1)
    config, packed = experiment(), packed_documents(tmp_path)
    assert config.prior.refinement is not None
    section = config.prior.model_copy(update={"training": config.prior.refinement.training})
    backbone = build_backbone(config.backbone, packed.meta, generator(0, "backbone"))
    prior = build_prior(backbone, config.prior, generator(0, "prior"))
    assert isinstance(prior, EnergyPrior)
    mu = torch.randn(200, 4, generator=generator(0, "mu")) * 0.4 + 0.2
    posteriors = Posteriors(mu, torch.full_like(mu, -1.0))
    prior.fit(posteriors, posteriors, 0)
    refined = RefinementTask(
        backbone, prior, packed.split("train"), np.arange(packed.split("train").n) % 3,
        config.model_copy(update={"prior": section}), 0, torch.device("cpu"),
    )  # fmt: skip
    refined.valid_split = packed.split("valid")
    return refined


def test_the_rate_is_the_divergence_from_the_gaussian_of_the_coordinates(task: RefinementTask):
    mu, logvar = torch.randn(2, 5, 4, generator=generator(1, "q"))
    mean, standard, u = task.coordinates(mu, logvar, mu)
    torch.testing.assert_close(u, task.prior.to_standard(mu))
    torch.testing.assert_close(mean, u)
    prior = task.prior
    gaussian = torch.distributions.Normal(prior.shift_D, prior.scale_DD.diagonal())
    posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
    exact = torch.distributions.kl_divergence(posterior, gaussian).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, standard), exact)


def test_refinement_trains_both_parts_with_rates_of_their_own_and_lowers_the_bound(
    task: RefinementTask,
):
    prior, backbone = task.groups()
    assert (prior.config.lr, backbone.config.lr) == (1e-3, 3e-3)
    before = {name: value.clone() for name, value in task.module.named_parameters()}
    task.module.eval()
    score = task.validate(0)["score"]
    result = train(task, task.section.training, None, title="refinement")
    changed = [name for name, value in task.module.named_parameters()
               if not torch.equal(value, before[name])]  # fmt: skip
    assert any(name.startswith("prior.") for name in changed)
    assert any(name.startswith("backbone.") for name in changed)
    scores = [row["score"] for row in result.validation]
    assert min(scores) < score - 0.5
    task.module.load_state_dict(result.state)
    task.module.eval()
    assert task.validate(0)["score"] == pytest.approx(min(scores))


def test_clusters_are_found_anew_in_the_encoder_that_moves(task: RefinementTask, capsys):
    before = task.labels
    task.begin_epoch(1)
    assert task.labels is before
    task.begin_epoch(2)
    assert task.labels is not before
    assert "clusters:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({"scheme": "two_stage"}, "go together"),
        ({"refinement": None}, "go together"),
        ({"standardise": "full"}, "needs prior.standardise"),
    ],
)
def test_what_cannot_be_refined_is_refused(prior: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        experiment(**prior)
