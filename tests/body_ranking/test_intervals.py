"""Intervals over seeds, and what is concluded from them."""

import numpy as np
import pytest
from scipy import stats

from orca_cli.body_ranking.intervals import Distance, conclusions, distance
from orca_cli.body_ranking.measure import Measured


def seeds(*values, deviation=0.1, unit_error=0.0):
    rest = {"scale": "floor", "unit": 1.0, "unit_error": unit_error, "steps": 1, "logme": 0.0, "probe": 0.0}
    rest |= {"reason": "", "error": "zero_one", "percent": True, "seconds": 1.0, "before": 9.0}
    return [Measured(seed=seed, after=value, deviation=deviation, **rest) for seed, value in enumerate(values)]


def test_the_interval_of_seeds_is_that_of_the_t_test():
    values = [1.1, 1.4, 0.9]
    found = distance(seeds(*values))
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((known.low, known.high))
    assert (found.mean, found.of) == (pytest.approx(np.mean(values)), "seeds")


def test_intervals_of_seeds_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = [low <= 2.0 <= high for low, high in (distance(seeds(*rng.normal(2, 0.3, 3))).interval for _ in range(2000))]
    assert 0.93 < np.mean(held) < 0.97


def test_the_scale_has_an_error_too():
    narrow, wide = (distance(seeds(1.0, 1.0, 1.0, unit_error=error)).interval for error in (0.0, 0.05))
    assert narrow == (1.0, 1.0)
    assert wide[1] - 1 == pytest.approx(stats.t.ppf(0.975, 7) * 0.05)


def test_one_seed_has_an_interval_of_points():
    found = distance(seeds(1.0, deviation=0.2))
    assert found.of == "points"
    assert found.interval[1] - 1 == pytest.approx(stats.t.ppf(0.975, 7) * 0.2 / 8**0.5)


def test_only_intervals_apart_decide():
    a, b, c = (
        Distance(1.0, (0.9, 1.1), "seeds"),
        Distance(1.2, (1.05, 1.35), "seeds"),
        Distance(3.0, (2.5, 3.5), "seeds"),
    )
    assert conclusions({"c": c, "a": a}) == ["a is nearest: its interval lies below that of c"]
    assert conclusions({"c": c, "b": b, "a": a}) == [
        "undecided which is nearest: the interval of b overlaps that of a",
        "farther than a: c",
    ]
    assert conclusions({"a": a}) == []
