"""A replayed chain is the plain chain with the same noise, at the weights of the moment."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from ldebm.config import PriorConfig
from ldebm.priors import DiffusionPrior, graphs
from ldebm.priors.langevin import Conditional, draw_noise, mala, ula
from ldebm.seeding import generator


def make() -> DiffusionPrior:
    content = {"training": {"updates": 1}, "classes": 4, "energy": {"hidden": 16, "blocks": 2}}
    return DiffusionPrior(3, PriorConfig.model_validate(content), generator(0, "prior"))


def problem(rows: int = 6, seed: int = 0) -> Conditional:
    stream = generator(seed, "problem")
    start, mean = (torch.randn(rows, 3, generator=stream) for _ in range(2))
    ones = torch.ones(rows, 1)
    return Conditional(start, mean, 0.5 * ones, ones, 0.2 * ones, torch.arange(rows) % 6)


@pytest.fixture(autouse=True)
def _plain_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(work: Callable[[], None]) -> Callable[[], None]:
        return work

    monkeypatch.setattr(graphs, "_capture", capture)


@pytest.mark.parametrize("method", ["mala", "ula"])
@torch.no_grad()
def test_a_replay_uses_the_present_weights_states_and_noise(method: str) -> None:
    prior, move = make(), mala if method == "mala" else ula
    for seed in range(3):
        for parameter in prior.net.parameters():
            parameter.mul_(1.1)
        given, frozen = problem(seed=seed), prior.net.freeze()
        stream = generator(seed, "noise")
        got = graphs.replay_chain(prior, frozen.packed, given, method, 5, stream)
        noise = draw_noise(given.start_BD, 5, generator(seed, "noise"))
        target = given.target(frozen.value_and_gradient)
        want = move(target, given.start_BD, given.step2_B1, 5, None, noise)
        assert got is not None
        torch.testing.assert_close(got.x_BD, want.x_BD)
        torch.testing.assert_close(got.acceptance_B, want.acceptance_B)


def test_results_of_earlier_replays_are_not_overwritten() -> None:
    prior, packed = make(), make().net.freeze().packed
    first = graphs.replay_chain(prior, packed, problem(), "mala", 4, generator(0, "a"))
    assert first is not None
    kept = first.x_BD.clone()
    graphs.replay_chain(prior, packed, problem(seed=1), "mala", 4, generator(1, "a"))
    assert torch.equal(first.x_BD, kept)


def test_a_failed_capture_is_logged_once_and_left_to_the_plain_chain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "_capture", refuse)
    prior = make()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            packed = prior.net.freeze().packed
            assert graphs.replay_chain(prior, packed, problem(), "mala", 2, None) is None
    assert [record.getMessage() for record in caplog.records] == [
        "sampler: no CUDA graph (not permitted when stream is capturing); "
        "chains are launched kernel by kernel"
    ]


def test_only_the_latest_shapes_are_kept() -> None:
    prior, packed = make(), make().net.freeze().packed
    for rows in range(1, graphs.MOST_GRAPHS + 4):
        graphs.replay_chain(prior, packed, problem(rows), "ula", 1, None)
    assert len(graphs._graphs[prior]) == graphs.MOST_GRAPHS
