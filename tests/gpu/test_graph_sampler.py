"""On CUDA the captured chain is the plain chain: with the same noise, and in distribution."""

from __future__ import annotations

import pytest
import torch

from ldebm.config import PriorConfig
from ldebm.priors import DiffusionPrior, graphs
from ldebm.priors.langevin import Conditional, draw_noise, mala, ula
from ldebm.seeding import generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def make(method: str = "mala", graph: bool = True) -> DiffusionPrior:
    content = {
        "training": {"updates": 1},
        "classes": 4,
        "energy": {"hidden": 32, "blocks": 3},
        "sampler": {"method": method, "graph": graph},
    }
    prior = DiffusionPrior(3, PriorConfig.model_validate(content), generator(0, "prior"))
    return prior.cuda().eval()


@pytest.mark.parametrize("method", ["mala", "ula"])
@torch.no_grad()
def test_a_replay_equals_the_plain_chain_with_the_same_noise(method: str) -> None:
    prior, move, device = make(method), mala if method == "mala" else ula, torch.device("cuda")
    for seed in range(3):
        for parameter in prior.net.parameters():
            parameter.mul_(1.05)
        stream = generator(seed, "problem", device=device)
        start = torch.randn(64, 3, generator=stream, device=device)
        ones = torch.ones(64, 1, device=device)
        t_B = torch.arange(64, device=device) % 6
        given = Conditional(start, 0.3 * start, 0.5 * ones, ones, 0.2 * ones, t_B)
        folded = prior.net.freeze()
        got = graphs.replay_chain(
            prior, folded.packed, given, method, 12, generator(seed, "noise", device=device)
        )
        noise = draw_noise(start, 12, generator(seed, "noise", device=device))
        target = given.target(folded.value_and_gradient)
        want = move(target, start, given.step2_B1, 12, None, noise)
        assert got is not None
        torch.testing.assert_close(got.x_BD, want.x_BD, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.acceptance_B, want.acceptance_B)


def test_samples_with_and_without_graphs_have_the_same_moments() -> None:
    moments = []
    for graph in (True, False):
        prior = make(graph=graph)
        u = prior.sample_standard(20_000, generator(1, "sample", device="cuda"))
        moments.append((u.mean(0), torch.cov(u.t())))
        assert (prior in graphs._graphs) == graph
    (mean, covariance), (plain_mean, plain_covariance) = moments
    torch.testing.assert_close(mean, plain_mean, rtol=0, atol=0.05)
    torch.testing.assert_close(covariance, plain_covariance, rtol=0, atol=0.06)


def test_equal_generators_give_equal_samples() -> None:
    prior = make()
    first, again = (
        prior.sample_standard(100, generator(2, "sample", device="cuda")) for _ in range(2)
    )
    assert torch.equal(first, again)
