"""Random streams depend on their names alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ldebm.seeding import (
    VECTOR_FUNCTIONS,
    configure,
    derive_seed,
    generator,
    numerics,
    numpy_generator,
)

PATHS = st.lists(
    st.one_of(st.integers(0, 1000), st.text("abc", min_size=1, max_size=3)), max_size=3
)


@given(st.integers(0, 2**31), PATHS)
def test_a_stream_is_the_same_whenever_it_is_asked_for(seed, path):
    draws = []
    for _ in range(2):
        torch.rand(3)  # the global stream plays no part
        draws.append(torch.randn(4, generator=generator(seed, *path)))
    assert torch.equal(*draws)


@given(st.integers(0, 1000), st.integers(0, 1000), PATHS)
def test_different_seeds_give_different_streams(one, other, path):
    assert (derive_seed(one, *path) == derive_seed(other, *path)) == (one == other)


def test_the_order_of_a_path_counts():
    assert derive_seed(0, "a", 1) != derive_seed(0, 1, "a")
    assert derive_seed(0, 1, 2) != derive_seed(0, 12)


def test_streams_of_neighbouring_steps_are_uncorrelated():
    one, other = (torch.randn(20000, generator=generator(0, "step", step)) for step in (1, 2))
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.03


def test_numpy_streams_follow_the_same_rule():
    assert numpy_generator(1, "x").random() == numpy_generator(1, "x").random()
    assert numpy_generator(1, "x").random() != numpy_generator(2, "x").random()


def test_every_vector_function_is_called_by_one_thread_before_two_may_call_it(monkeypatch):
    """See `start_vector_functions`: the race itself shows in one process of twenty."""
    called = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: called.append("products"))
    for name in VECTOR_FUNCTIONS:
        function = getattr(torch, name)

        def spy(x, name=name, function=function):
            assert x.numel() <= 2048  # the smallest part that torch gives to a thread
            called.append((name, x.dtype))
            return function(x)

        monkeypatch.setattr(torch, name, spy)
    configure(1)
    before = called[: called.index("products")]
    assert {name for name, _ in before} == set(VECTOR_FUNCTIONS)
    assert {kind for _, kind in before} == {torch.float32, torch.float64}


def test_configured_products_are_exact_to_float32():
    configure(1)
    a = torch.randn(200, 200, generator=generator(0))
    exact = (a.double() @ a.double().T).float()
    assert torch.allclose(a @ a.T, exact, rtol=1e-4, atol=1e-3)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


def test_what_can_change_the_last_bits_is_listed():
    facts = numerics(torch.device("cpu"))
    assert {"torch", "threads", "device", "matmul_precision", "deterministic"} <= facts.keys()
