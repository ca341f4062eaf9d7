"""Options that no experiment of the library sets: each does what its description says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.assembly import build_backbone
from ldebm.baselines.codes import gumbel_softmax
from ldebm.config import BackboneConfig, ClusterConfig
from ldebm.errors import DivergenceError
from ldebm.seeding import generator
from ldebm.training.acceptance import MAX_ROLLBACKS, AcceptanceGuard
from ldebm.training.clustering import geometric_clusters
from ldebm.training.image_first_stage import hierarchical_terms
from ldebm.training.objectives import backbone_terms
from tests.unit.exact_priors import sampled_by, trained
from tests.unit.test_nn_hierarchy import META, TINY, images


def nvae(**section: Any) -> Any:
    content = {"arch": "nvae", "nvae": TINY["nvae"] | section, "training": {"updates": 1}}
    config = BackboneConfig.model_validate(content)
    return build_backbone(config, META, generator(0, "nvae")).eval(), config


def test_the_entropy_objective_charges_nothing_for_wide_posteriors() -> None:
    """The public code's rate: means are free, and so is a deviation above the mask."""
    nll_B, mu_BD, wide_BD = torch.zeros(4), torch.full((4, 2), 7.0), torch.zeros(4, 2)
    config = BackboneConfig.model_validate(
        {
            "arch": "mlp",
            "latent": 2,
            "objective": "entropy",
            "entropy_mask": 0.5,
            "training": {"updates": 1},
        }
    )
    assert float(backbone_terms(nll_B, mu_BD, wide_BD, config, 0).total) == 0.0
    narrow = backbone_terms(nll_B, mu_BD, torch.full((4, 2), -4.0), config, 0)
    assert float(narrow.total) > 1.0
    by_kl = config.model_copy(update={"objective": "kl"})
    assert float(backbone_terms(nll_B, mu_BD, wide_BD, by_kl, 0).total) == pytest.approx(49.0)


def test_a_residual_posterior_adds_to_the_prior_of_its_group() -> None:
    """With its own layer at zero the posterior is the prior there, and not where it is absolute."""
    for residual in (True, False):
        backbone, _ = nvae(residual_posterior=residual)
        with torch.no_grad():
            for layer in backbone.to_posterior:
                for parameter in layer.parameters():
                    parameter.zero_()
            x = images(3)
            kl_BG = backbone.posterior(x, torch.zeros(3, backbone.latent)).kl_BG
        assert float(kl_BG[:, 0].abs().max()) < 1e-4  # the top group's prior is N(0, I)
        assert bool((kl_BG[:, 1:].abs() < 1e-4).all()) == residual


def test_the_kl_is_balanced_during_the_warm_up_only_and_only_where_asked() -> None:
    kl_BG = torch.tensor([[1.0, 2.0, 6.0]])
    totals = {}
    for balance in (True, False):
        backbone, config = nvae(kl_balance=balance)
        config = config.model_copy(update={"kl_warmup": 10})
        for update in (4, 20):
            terms = hierarchical_terms(torch.zeros(1), kl_BG, backbone, config, update)
            totals[balance, update] = (terms.total.detach() - terms.parts.get("penalty", 0)).item()
    assert totals[False, 4] == pytest.approx(4.5)
    assert totals[True, 4] > 4.6  # a group that holds much costs more
    assert totals[True, 20] == totals[False, 20] == pytest.approx(9.0)


def test_more_proposals_bring_samples_of_nce_nearer_to_the_prior(tmp_path: Path) -> None:
    prior, _ = trained(tmp_path, 600, kind="nce")
    many = sampled_by(prior, nce_sampler="sir")
    means = {}
    for proposals in (2, 200):
        prior.section = many.section.model_copy(update={"proposals": proposals})
        means[proposals] = prior.sample(2000, generator(0, "sample")).mean(0)
    drawn = many.sample(20000, generator(3, "sample")).mean(0)
    error = {key: float((value - drawn).abs().max()) for key, value in means.items()}
    assert error[200] < 0.15
    assert error[2] > 2 * error[200]


@pytest.mark.parametrize(("temperature", "largest"), [(0.01, 1.0), (100.0, 0.26)])
def test_the_temperature_of_a_relaxed_code_runs_from_one_hot_to_uniform(
    temperature: float, largest: float
) -> None:
    log_q = torch.log_softmax(torch.randn(64, 3, 4, generator=generator(0, "q")), -1)
    uniform = torch.rand(64, 3, 4, generator=generator(0, "uniform"))
    drawn = gumbel_softmax(log_q, uniform, temperature)
    assert float(drawn.max(-1).values.median()) == pytest.approx(largest, abs=0.02)


def test_k_means_stops_after_the_stated_iterations() -> None:
    features = np.random.default_rng(0).normal(size=(500, 6))
    labels = {
        most: geometric_clusters(features, 8, ClusterConfig(iterations=most, restarts=1, dims=6), 0)
        for most in (1, 2, 300)
    }
    assert (labels[1] != labels[300]).any()
    assert np.array_equal(
        labels[300],
        geometric_clusters(features, 8, ClusterConfig(iterations=299, restarts=1, dims=6), 0),
    )


def guard(**config: float) -> Any:
    parameter = torch.nn.Parameter(torch.zeros(2))
    sampler = SimpleNamespace(method="mala", minimum_acceptance=config["minimum"])
    prior = SimpleNamespace(
        config=SimpleNamespace(sampler=sampler, rollback_acceptance=config["rollback"]),
        named_parameters=lambda: [("w", parameter)],
    )
    return AcceptanceGuard(prior), parameter  # type: ignore[arg-type]


def chain(acceptance: float) -> Any:
    return SimpleNamespace(acceptance_B=torch.full((4,), acceptance))


def test_weights_go_back_to_their_average_below_the_stated_acceptance() -> None:
    watch, parameter = guard(minimum=0.2, rollback=0.3)
    averaged = {"prior.w": torch.ones(2)}
    watch.check(chain(0.31), 50, averaged, "prior.")
    assert parameter.tolist() == [0.0, 0.0]
    watch.check(chain(0.29), 50, averaged, "prior.")
    assert parameter.tolist() == [1.0, 1.0]


def test_training_stops_where_the_acceptance_stays_below_the_minimum() -> None:
    watch, _ = guard(minimum=0.2, rollback=0.3)
    for _ in range(MAX_ROLLBACKS + 5):
        watch.check(chain(0.25), 50, None, "")  # rolled back, but above the minimum
    with pytest.raises(DivergenceError, match=r"accepts 0.10 .*below 0.2"):
        watch.check(chain(0.1), 50, None, "")
