"""Rank correlations against scipy, and what is known of them."""

import numpy as np
import pytest
from scipy import stats

from orca_cli.body_ranking import agreement


def pairs(scores, errors):
    return {str(place): pair for place, pair in enumerate(zip(scores, errors, strict=True))}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_correlations_are_those_of_scipy_with_and_without_ties(rng):
    for n in (3, 4, 7, 20):
        for many in (3, 1000):
            a, b = (list(map(float, rng.integers(many, size=n))) for _ in range(2))
            found, tau = agreement.correlation(pairs(a, b)), stats.kendalltau(a, b).statistic
            if np.isnan(tau):
                assert found is None
                continue
            assert found.tau == pytest.approx(tau)
            assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic)


def test_the_p_of_one_task_is_the_exact_one(rng):
    a, b = rng.normal(size=(2, 5)).tolist()
    exact = stats.kendalltau(a, b, alternative="greater", method="exact").pvalue
    assert agreement.pooled([[pairs(a, b)]]).p == pytest.approx(exact, abs=0.01)


def test_four_tasks_in_order_are_not_chance_and_shuffled_ones_are(rng):
    ordered = [[pairs(range(4), range(10 * task, 10 * task + 4))] for task in range(4)]
    found = agreement.pooled(ordered)
    assert (found.tasks, found.bodies, found.tau, found.interval) == (4, 16, 1.0, (1.0, 1.0))
    assert agreement.pooled(ordered[:3]).interval is None
    assert found.p < 0.001
    drawn = [agreement.pooled([[pairs(*task)] for task in rng.normal(size=(4, 2, 4)).tolist()]).p for _ in range(30)]
    assert 0.3 < np.mean(drawn) < 0.7


def test_two_bodies_and_equal_scores_have_no_correlation():
    assert agreement.correlation(pairs([1, 2], [1, 2])) is None
    assert agreement.correlation(pairs([1, 1, 1], [1, 2, 3])) is None
    assert agreement.pooled([[pairs([1, 2], [1, 2])]]) is None


def test_further_selections_of_a_task_are_no_further_evidence(rng):
    once, again = (pairs(range(4), errors) for errors in ([1, 2, 3, 4], [4, 3, 2, 1]))
    found, alone = agreement.pooled([[once] * 4]), agreement.pooled([[once]])
    assert (found.tasks, found.bodies, found.tau, found.interval, found.p) == (1, 4, 1.0, None, alone.p)
    assert agreement.pooled([[once, again, again], [once]]).tau == pytest.approx((-1 / 3 + 1) / 2)
    # In another order and with a body less or more, they are still shuffled together.
    more = dict(reversed(once.items())) | {"4": (9.0, 9.0)}
    assert agreement.pooled([[once, more]]).p == pytest.approx(1 / 120, abs=0.003)


def test_a_score_that_is_better_when_high_counts_the_other_way_round():
    bodies = [
        {"label": "a", "distance": 1.0, "logme": 3.0},
        {"label": "b", "distance": 2.0, "logme": 2.0},
        {"label": "c", "distance": 3.0, "logme": 1.0},
        {"label": "d", "distance": 4.0, "logme": None},
        {"label": "without runs", "distance": 0.0, "logme": 9.0},
    ]
    errors = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.05}
    logme = agreement.correlation(agreement.paired(bodies, errors, "logme"))
    assert (logme.n, logme.tau, logme.regret) == (3, 1.0, 0.0)
    distance = agreement.correlation(agreement.paired(bodies, errors, "distance"))
    assert distance.n == 4
    assert distance.tau == pytest.approx(0.0)
    assert distance.regret == pytest.approx(0.05)
