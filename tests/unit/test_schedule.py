"""The schedule reproduces the published tables, and the forward process has the stated moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ldebm.priors.schedule import make_schedule
from ldebm.seeding import generator

# docs/method.md, section 2.2
A_6 = [0.999950, 0.946167, 0.856290, 0.774796, 0.700918, 0.633956, 0.022776]
SIGMA_6 = [0.010000, 0.323680, 0.516495, 0.632211, 0.713242, 0.773369, 0.999741]
ABAR_6 = [0.999950, 0.946119, 0.810152, 0.627703, 0.439968, 0.278921, 0.006353]
A_3 = [0.999950, 0.722132, 0.386265, 0.022776]


def test_the_six_level_table_is_the_published_one() -> None:
    schedule = make_schedule(6)
    np.testing.assert_allclose(schedule.a, A_6, atol=1e-6)
    np.testing.assert_allclose(schedule.sigma, SIGMA_6, atol=1e-6)
    np.testing.assert_allclose(schedule.abar, ABAR_6, atol=1e-6)
    np.testing.assert_allclose(make_schedule(3).a, A_3, atol=1e-6)


def test_steps_compose_to_the_marginals() -> None:
    schedule = make_schedule(6)
    np.testing.assert_allclose(np.cumprod(schedule.a), schedule.abar, rtol=1e-12)
    np.testing.assert_allclose(schedule.a**2 + schedule.sigma**2, 1, rtol=1e-12)


def test_the_published_step_sizes_and_weights_are_reproduced() -> None:
    schedule = make_schedule(6)
    steps = [2.095e-4, 1.728e-2, 4.686e-2, 7.920e-2, 1.074e-1, 1.920e-1]
    np.testing.assert_allclose(schedule.published_step(2e-3), steps, rtol=1e-3)
    weights = [1.000, 0.627, 0.512, 0.454, 0.419, 0.324]
    np.testing.assert_allclose(schedule.published_weight(), weights, atol=1e-3)


def test_only_the_last_level_is_not_rescaled() -> None:
    schedule = make_schedule(4)
    np.testing.assert_allclose(schedule.scale[:-1], schedule.a[:-1])
    assert schedule.scale[-1] == 1.0


def test_fewer_than_two_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        make_schedule(1)


def test_forward_samples_have_the_moments_of_the_tables() -> None:
    schedule = make_schedule(6)
    stream = generator(0, "forward")
    z = torch.full((200_000, 1), 2.0)
    level = torch.full((200_000,), 3)
    u = schedule.marginal(z, level, torch.randn(z.shape, generator=stream))
    assert float(u.mean()) == pytest.approx(2 * schedule.abar[3], abs=0.01)
    assert float(u.std()) == pytest.approx(schedule.sbar[3], abs=0.01)
    after = schedule.step(u, level + 1, torch.randn(z.shape, generator=stream))
    assert float(after.mean()) == pytest.approx(2 * schedule.abar[4], abs=0.01)
    assert float(after.std()) == pytest.approx(schedule.sbar[4], abs=0.01)
