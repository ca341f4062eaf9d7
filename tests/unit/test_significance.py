"""Verdicts on differences, against answers that are known."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.compare.significance import difference, holm

# Student 1908: hours of sleep gained with two drugs by ten patients; t = 4.062, p = 0.00283.
FIRST_DRUG = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SECOND_DRUG = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def seeded(values, start=0):
    return dict(enumerate(values, start))


def test_students_own_data_give_his_paired_answer():
    result = difference(seeded(FIRST_DRUG), seeded(SECOND_DRUG))
    assert result.method == "paired"
    assert result.value == pytest.approx(1.58)
    assert result.p == pytest.approx(0.002833, rel=1e-3)
    assert result.half == pytest.approx(2.262157 * 1.229995 / math.sqrt(10), rel=1e-5)
    assert result.differs is True


def test_the_same_data_with_other_seeds_are_judged_unpaired_and_do_not_differ():
    result = difference(seeded(FIRST_DRUG), seeded(SECOND_DRUG, start=100))
    assert result.method == "welch"
    assert result.freedom == pytest.approx(17.776, rel=1e-3)
    assert result.p == pytest.approx(0.07939, rel=1e-3)
    assert result.differs is False


VALUES = st.lists(st.integers(-50, 50).map(lambda n: n / 7), min_size=2, max_size=8).filter(
    lambda values: len(set(values)) > 1
)


@given(VALUES, VALUES)
@settings(max_examples=50, deadline=None)
def test_welch_agrees_with_scipy(one, other):
    result = difference(seeded(one), seeded(other, start=50))
    reference = stats.ttest_ind(other, one, equal_var=False)
    assert result.p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)
    interval = reference.confidence_interval(0.95)
    assert result.value - result.half == pytest.approx(interval.low, rel=1e-6, abs=1e-9)
    assert result.value + result.half == pytest.approx(interval.high, rel=1e-6, abs=1e-9)


def test_three_seeds_in_common_are_paired_and_the_others_left_out():
    result = difference({0: 1.0, 1: 2.0, 2: 3.0, 9: 100.0}, {0: 1.1, 1: 2.2, 2: 3.1, 8: -50.0})
    assert result.method == "paired"
    assert result.seeds == ((0, 1, 2), (0, 1, 2))
    assert result.first == pytest.approx(2.0)


def test_two_seeds_of_three_in_common_are_not_paired():
    result = difference({0: 1.0, 1: 2.0}, {0: 1.1, 1: 2.2, 2: 3.1})
    assert result.method == "welch"
    assert result.seeds == ((0, 1), (0, 1, 2))


@pytest.mark.parametrize("other", [{0: 99.0}, {0: 99.0, 1: 99.5, 2: 98.0}, {7: 99.0}])
def test_one_seed_on_a_side_never_gives_a_verdict_however_large_the_difference(other):
    for pair in (({0: 1.0}, other), (other, {0: 1.0})):
        result = difference(*pair)
        assert result.method == "one seed"
        assert result.differs is None
        assert result.half is None
        assert result.p is None


def test_equal_values_are_equal_even_with_one_seed_and_rounding():
    assert difference({0: 1.0}, {0: 1.0}).method == "equal"
    assert difference({0: 0.1, 1: 0.2}, {0: 0.1 + 1e-17, 1: 0.2}).differs is False


def test_the_same_difference_in_every_seed_leaves_no_spread_to_judge_by():
    result = difference({0: 16.0, 1: 16.0, 2: 16.0}, {0: 15.0, 1: 15.0, 2: 15.0})
    assert result.method == "constant"
    assert result.differs is None


def test_verdicts_without_an_effect_are_wrong_as_rarely_as_they_say():
    import numpy as np

    stream = np.random.default_rng(0)
    runs = 2000
    wrong = sum(
        difference(seeded(stream.normal(size=3)), seeded(stream.normal(size=3), start)).differs
        for start in (0, 10)
        for _ in range(runs // 2)
    )
    assert wrong / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert wrong > 0


def test_holm_keeps_what_bonferroni_keeps_and_stops_at_the_first_that_fails():
    assert holm({"a": 0.0004, "b": 0.3, "c": 0.026, "d": 0.02}) == {"a"}
    assert holm({"a": 0.01, "b": 0.024, "c": 0.049}) == {"a", "b", "c"}
    assert holm({}) == set()
