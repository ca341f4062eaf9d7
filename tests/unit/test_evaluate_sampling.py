"""Short chains are told from long ones, and chains that have forgotten their start are not."""

import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.config import PriorConfig
from ldebm.evaluate.sampling import sampler_acceptance, sampler_convergence
from ldebm.seeding import generator

ENERGY = {"hidden": 16, "blocks": 1, "activation": "silu", "spectral_norm": False}


def prior_of(kind: str, steps: int):
    """A prior whose energy pulls its samples away from where chains start."""
    pull = {"svebm": 1.5, "diffusion": 6.0}[kind]  # whose kernels are narrower
    config = PriorConfig.model_validate(
        {
            "kind": kind,
            "levels": 2,
            "classes": 1,
            "energy": ENERGY | ({"arch": "mlp"} if kind == "svebm" else {}),
            "sampler": {"method": "mala", "steps": steps, "adapt": False},
            "training": {"updates": 1},
        }
    )
    prior = build_prior(3, config, generator(0, "sampling-test")).eval()

    class Pull:
        def value_and_gradient(self, z_BD, t_B):
            return pull * z_BD.sum(-1), torch.full_like(z_BD, pull)

        def value(self, z_BD, t_B):
            return pull * z_BD.sum(-1)

    prior.net.freeze = Pull
    return prior


@pytest.mark.parametrize("kind", ["svebm", "diffusion"])
def test_one_short_move_is_told_from_eight_and_many_moves_are_not(kind: str):
    short = prior_of(kind, 1)
    short.step_T.fill_(0.05)
    convergence = sampler_convergence(short, 0)
    assert convergence["sampler_auc"] > 0.6
    assert convergence["sampler_energy_gap"] < -0.2
    enough = prior_of(kind, 40)
    enough.step_T.fill_(0.8)
    convergence = sampler_convergence(enough, 0)
    assert abs(convergence["sampler_auc"] - 0.5) < 0.05  # s.e. 0.013
    assert abs(convergence["sampler_energy_gap"]) < 0.1  # s.e. 0.03


def test_nothing_is_said_of_a_prior_without_chains():
    prior = build_prior(
        3, PriorConfig.model_validate({"kind": "gaussian", "training": {"updates": 1}})
    )
    assert sampler_convergence(prior, 0) == {}
    assert sampler_acceptance(prior, 10, 0) == {"acceptance": 1.0, "acceptance_min": 1.0}


def test_the_same_seed_gives_the_same_answer():
    prior = prior_of("diffusion", 2)
    assert sampler_convergence(prior, 3, draws=200) == sampler_convergence(prior, 3, draws=200)
    assert sampler_convergence(prior, 3, draws=200) != sampler_convergence(prior, 4, draws=200)
