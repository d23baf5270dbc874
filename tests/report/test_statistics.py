"""Intervals, exact tests and numbers of seeds: against scipy, statsmodels and hand-computed numbers; their symmetries."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from orca_cli.report.statistics import differences
from orca_cli.report.statistics.differences import (
    LARGEST_P,
    LEAST,
    effect,
    interval,
    needed,
    no_effect,
    sign_flip,
    signed_rank,
)
from tests.properties import examples

SKEWED = [1, 2, 3, 4, 9, 30]
numbers = st.lists(st.integers(-40, 40).map(float), min_size=2, max_size=9)


def test_the_interval_is_scipys_by_t():
    for values in (SKEWED, [-2, -1], [-5, 0, 0, 0], list(np.random.default_rng(3).normal(size=40))):
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert interval(values) == pytest.approx(expected)
    assert interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    assert interval([0.3]) is None


@pytest.mark.parametrize("n", [3, 12])
def test_no_effect_is_rarely_said_of_an_effect(n):
    """Of normal differences whose mean is the margin "no effect" is said in 5 % at most."""
    drawn = np.random.default_rng(n).normal(0.5, 0.3, size=(1000, n))
    effects = [effect(list(values)) for values in drawn]
    assert np.mean([no_effect(one, 0.5) <= 0.05 for one in effects]) <= 0.07  # 0.05 and three standard errors
    assert np.mean([no_effect(one, 5.0) <= 0.05 for one in effects]) > 0.99


def test_no_effect_is_two_one_sided_t_tests():
    ends = [stats.ttest_1samp(SKEWED, end, alternative=side).pvalue for end, side in ((-20, "greater"), (20, "less"))]
    for values in (SKEWED, [-value for value in SKEWED]):
        assert no_effect(effect(values), 20.0) == pytest.approx(max(ends))
    assert no_effect(effect([0.1] * 6), 0.5) == 0.0
    assert no_effect(effect([0.6] * 6), 0.5) == no_effect(effect([0.1]), 0.5) == 1.0


@given(numbers, st.randoms(use_true_random=False), st.sampled_from([0.25, 2.0, 1024.0]))
def test_neither_order_nor_sign_nor_unit_change_a_p(values, random, scale):
    changed = [-scale * value for value in random.sample(values, len(values))]
    assert sign_flip(changed) == sign_flip(values)
    assert signed_rank(changed) == signed_rank(values)
    low, high = interval(values)
    assert interval(changed) == pytest.approx((-scale * high, -scale * low))


def test_sign_flip_by_hand():
    # Of the 8 sums of 1, 2 and 4 with signs, +-7 are as far from 0 as 7; +-7 and +-5 as far as 1 - 2 - 4 = -5.
    assert sign_flip([1, 2, 4]) == (2 / 8, 2 / 8)
    assert sign_flip([1, -2, -4]) == (4 / 8, 2 / 8)
    assert sign_flip([0, 0]) == (1.0, 1.0)
    assert sign_flip([0.1, 0.2, -0.3]) == (1.0, 2 / 8)  # a sum of 0, up to rounding


@given(st.lists(st.integers(-50, 50).map(lambda n: n / 7), min_size=2, max_size=8).filter(any))
@examples(40)
def test_sign_flip_counts_every_pattern_of_signs(values):
    nonzero = np.array([value for value in values if value])
    sums = np.array(list(itertools.product((-1, 1), repeat=len(nonzero)))) @ nonzero
    assert sign_flip(values)[0] == np.mean(np.abs(sums) >= abs(nonzero.sum()) - 1e-9)


def test_many_differences_are_tested_by_drawn_signs_close_to_the_normal_limit():
    values = list(np.random.default_rng(3).normal(0.25, 1, size=80))
    p, smallest = sign_flip(values)
    assert p == pytest.approx(2 * stats.norm.sf(abs(sum(values)) / math.hypot(*values)), abs=0.005)
    assert smallest == 1 / 100_001


@given(st.lists(st.integers(1, 400), min_size=2, max_size=12, unique=True), st.randoms(use_true_random=False))
@examples(40)
def test_signed_rank_is_scipys_exact_wilcoxon(sizes, random):
    values = [random.choice((-1, 1)) * size for size in sizes]
    expected = stats.wilcoxon(values, method="exact")
    assert signed_rank(values) == (pytest.approx(expected.pvalue), 2 / 2 ** len(values))


def test_signed_rank_with_ties_counts_every_pattern_of_signs():
    # |1|, |1|, |2| have the ranks 1.5, 1.5, 3: the sums above 0 are 0, 1.5, 1.5, 3, 3, 4.5, 4.5, 6; seen is 4.5.
    assert signed_rank([1, -1, 2]) == (6 / 8, 2 / 8)
    assert signed_rank([0, 0, 1, 1, 2]) == (2 / 8, 2 / 8)  # zeros are dropped
    assert signed_rank([0, 0]) == (1.0, 1.0)


def test_holm_is_that_of_statsmodels():
    for count in (1, 2, 5, 12):
        p = (np.random.default_rng(count).random(count) ** 3).round(2)  # with ties
        assert differences.holm(list(p)) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert differences.holm([]) == []


def test_the_fewest_differences_that_can_show_anything():
    assert sign_flip([1.0] * LEAST)[0] <= LARGEST_P < sign_flip([1.0] * (LEAST - 1))[0]
    assert signed_rank([1.0] * LEAST)[0] <= LARGEST_P < signed_rank([1.0] * (LEAST - 1))[0]
    assert needed(1.0, 0.0, 0.5) == LEAST
    # With three arms p has to be 0.0167: 2/2^7 = 0.0156 is, 2/2^6 is not.
    assert needed(1.0, 0.0, 0.5, LARGEST_P / 3) == 7
    assert needed(1.0, 0.0, 0.5, 2 / 2**9) == 9  # exactly reached


@pytest.mark.parametrize("size", [0.3, 0.5, 1.2])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_number_needed_is_that_of_a_t_test_of_power_80_percent(size, level):
    expected = TTestPower().solve_power(effect_size=size, power=0.8, alpha=level)
    assert abs(needed(size, 1.0, 0.0, level) - max(expected, 1 + math.log2(1 / level))) <= 1.5
