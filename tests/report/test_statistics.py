"""Intervals, exact tests and numbers of seeds: against scipy, statsmodels and hand-computed numbers; their symmetries."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orca_cli.report.statistics.differences import (
    LARGEST_P,
    LEAST,
    effect,
    holm,
    interval,
    needed,
    no_effect,
    sign_flip,
    signed_rank,
)

SKEWED = [1, 2, 3, 4, 9, 30]
numbers = st.lists(st.integers(-40, 40).map(float), min_size=2, max_size=9)


def test_the_interval_is_scipys_by_t():
    for values in (SKEWED, [-2, -1], [-5, 0, 0, 0], list(np.random.default_rng(3).normal(size=40))):
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert interval(values) == pytest.approx(expected)
    assert interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    assert interval([0.3]) is None


@pytest.mark.parametrize("n", [3, 6, 12])
def test_intervals_hold_the_mean_and_no_effect_is_rarely_said_of_an_effect(n):
    """Normal differences: 95 % of the intervals hold the true mean; at the margin "no effect" is said in 5 % at most."""
    drawn = np.random.default_rng(n).normal(0.5, 0.3, size=(4000, n))
    effects = [effect(list(values)) for values in drawn]
    held = np.mean([low <= 0.5 <= high for low, high in (one.interval for one in effects)])
    assert 0.93 <= held <= 0.97
    assert np.mean([no_effect(one, 0.5) <= 0.05 for one in effects]) <= 0.06  # 0.05 and three standard errors
    assert np.mean([no_effect(one, 5.0) <= 0.05 for one in effects]) > 0.99


def test_no_effect_is_two_one_sided_t_tests():
    skewed = effect(SKEWED)
    ends = [stats.ttest_1samp(SKEWED, end, alternative=side).pvalue for end, side in ((-20, "greater"), (20, "less"))]
    assert no_effect(skewed, 20.0) == pytest.approx(max(ends))
    assert no_effect(effect([0.1] * 6), 0.5) == 0.0
    assert no_effect(effect([0.6] * 6), 0.5) == no_effect(effect([0.1]), 0.5) == 1.0


@given(numbers, st.randoms(use_true_random=False))
def test_the_order_of_differences_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert interval(shuffled) == interval(values)
    assert sign_flip(shuffled)[0] == sign_flip(values)[0]
    assert signed_rank(shuffled) == signed_rank(values)


@given(numbers)
def test_what_helps_one_harms_the_other_as_much(values):
    turned = [-value for value in values]
    low, high = interval(values)
    assert interval(turned) == (-high, -low)
    assert sign_flip(turned) == sign_flip(values)
    assert signed_rank(turned) == signed_rank(values)


@given(numbers, st.sampled_from([0.25, 2.0, 1024.0]))
def test_another_unit_changes_no_p_and_scales_the_interval(values, scale):
    scaled = [scale * value for value in values]
    assert interval(scaled) == pytest.approx([scale * end for end in interval(values)])
    assert sign_flip(scaled) == sign_flip(values)
    assert signed_rank(scaled) == signed_rank(values)


@given(st.lists(st.integers(1, 400), min_size=2, max_size=12, unique=True), st.randoms(use_true_random=False))
def test_signed_rank_is_scipys_exact_wilcoxon(sizes, random):
    values = [random.choice((-1, 1)) * size for size in sizes]
    expected = stats.wilcoxon(values, method="exact")
    assert signed_rank(values) == (pytest.approx(expected.pvalue), 2 / 2 ** len(values))


def test_signed_rank_with_ties_counts_every_pattern_of_signs():
    # |1|, |1|, |2| have the ranks 1.5, 1.5, 3: the sums above 0 are 0, 1.5, 1.5, 3, 3, 4.5, 4.5, 6; seen is 4.5.
    assert signed_rank([1, -1, 2]) == (6 / 8, 2 / 8)
    assert signed_rank([1, 1, 2]) == (2 / 8, 2 / 8)
    assert signed_rank([0, 0, 1, 1, 2]) == (2 / 8, 2 / 8)  # zeros are dropped
    assert signed_rank([0, 0]) == (1.0, 1.0)
    values = [0.5, 0.5, -0.5, 1.5, 2.5, 2.5, -3.5]
    test = stats.wilcoxon(values, method=stats.PermutationMethod(n_resamples=10**6))
    assert signed_rank(values)[0] == pytest.approx(test.pvalue)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_holm_is_that_of_statsmodels(count):
    from statsmodels.stats.multitest import multipletests

    p = (np.random.default_rng(count).random(count) ** 3).round(2)  # with ties
    assert holm(list(p)) == pytest.approx(list(multipletests(p, method="holm")[1]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(0, 7), st.floats(0, 1))
def test_a_smaller_p_makes_no_corrected_p_larger(p, place, share):
    smaller = list(p)
    smaller[place % len(p)] *= share
    assert all(new <= old + 1e-12 for new, old in zip(holm(smaller), holm(p), strict=True))


def test_the_fewest_differences_that_can_show_anything():
    assert sign_flip([1.0] * LEAST)[0] <= LARGEST_P < sign_flip([1.0] * (LEAST - 1))[0]
    assert signed_rank([1.0] * LEAST)[0] <= LARGEST_P < signed_rank([1.0] * (LEAST - 1))[0]
    assert needed(1.0, 0.0, 0.5) == LEAST
    # With three arms p has to be 0.0167: 2/2^7 = 0.0156 is, 2/2^6 is not.
    assert needed(1.0, 0.0, 0.5, LARGEST_P / 3) == 7
    assert needed(1.0, 0.0, 0.5, 2 / 2**9) == 9  # exactly reached


@pytest.mark.parametrize("size", [0.3, 0.5, 0.8, 1.2])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_number_needed_is_that_of_a_t_test_of_power_80_percent(size, level):
    from statsmodels.stats.power import TTestPower

    expected = TTestPower().solve_power(effect_size=size, power=0.8, alpha=level)
    assert abs(needed(size, 1.0, 0.0, level) - max(expected, 1 + math.log2(1 / level))) <= 1.5


@given(st.floats(0.01, 5), st.floats(0, 5), st.floats(0.01, 5))
def test_more_spread_never_needs_fewer(mean, deviation, more):
    assert needed(mean, deviation + more, 0.5) >= needed(mean, deviation, 0.5) >= LEAST


def test_an_effect_holds_its_parts():
    skewed = effect(SKEWED)
    assert (skewed.n, skewed.interval, (skewed.p, skewed.smallest)) == (
        6,
        interval(SKEWED),
        sign_flip(SKEWED),
    )
