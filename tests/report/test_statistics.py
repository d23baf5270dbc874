"""Intervals and exact tests, and methods over tasks: by hand and against scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import collect
from orca_cli.report.records.filters import where
from orca_cli.report.statistics.across import across, mean_ranks, pairs_of, profiles
from orca_cli.report.statistics.differences import LARGEST_P, LEAST, effect, holm, interval, no_effect, sign_flip
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.table import build_table
from tests.commands.called import read_json, read_text
from tests.properties import examples
from tests.report.trees import NATS, add_arms, add_run, compared, csv_lines, report, table_of

SKEWED = [1, 2, 3, 4, 9, 30]


def test_the_interval_is_scipys_by_t():
    for values in (SKEWED, [-2, -1], [-5, 0, 0, 0], list(np.random.default_rng(3).normal(size=40))):
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert interval(values) == pytest.approx(expected)
    assert interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    assert interval([0.3]) is None


def test_no_effect_is_two_one_sided_t_tests():
    ends = [stats.ttest_1samp(SKEWED, end, alternative=side).pvalue for end, side in ((-20, "greater"), (20, "less"))]
    for values in (SKEWED, [-value for value in SKEWED]):
        assert no_effect(effect(values), 20.0) == pytest.approx(max(ends))
    assert no_effect(effect([0.1] * 6), 0.5) == 0.0
    assert no_effect(effect([0.6] * 6), 0.5) == no_effect(effect([0.1]), 0.5) == 1.0


def test_exact_tests_by_hand():
    # Of the 8 sums of 1, 2 and 4 with signs, +-7 are as far from 0 as 7; +-7 and +-5 as far as 1 - 2 - 4 = -5.
    assert (sign_flip([1, 2, 4]), sign_flip([1, -2, -4])) == ((2 / 8, 2 / 8), (4 / 8, 2 / 8))
    assert sign_flip([0.1, 0.2, -0.3]) == (1.0, 2 / 8)  # a sum of 0, up to rounding
    assert sign_flip([0, 0]) == (1.0, 1.0)
    assert sign_flip([1.0] * LEAST)[0] <= LARGEST_P < sign_flip([1.0] * (LEAST - 1))[0]
    # Many differences are tested by drawn signs, close to the normal limit.
    values = list(np.random.default_rng(3).normal(0.3, 1, size=25))
    p, smallest = sign_flip(values)
    assert p == pytest.approx(2 * stats.norm.sf(abs(sum(values)) / math.hypot(*values)), abs=0.03)
    assert smallest == 1 / 100_001


@given(st.lists(st.integers(1, 400), min_size=2, max_size=9, unique=True), st.randoms(use_true_random=False))
@examples(15)
def test_exact_tests_count_every_pattern_of_signs(sizes, random):
    values = [random.choice((-1, 1)) * size for size in sizes]
    sums = np.array(list(itertools.product((-1, 1), repeat=len(values)))) @ np.array(values) / 7
    assert sign_flip([value / 7 for value in values])[0] == np.mean(np.abs(sums) >= abs(sum(values)) / 7 - 1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.02, 0.02, 0.6]) == pytest.approx([1.0, 0.08, 0.08, 1.0])  # with ties


def test_profiles_and_ranks_by_hand():
    # The last two tasks have one error only, and do not count.
    a, b = profiles({"a": [1.0, 3.0, None, 5.0], "b": [2.0, 2.0, 3.0, None]})
    assert (a.ratios, a.missing) == ((1.0, 1.5), 0)
    a, b, c = profiles({"a": [1.0, 3.0, None], "b": [2.0, 2.0, 3.0], "c": [4.0, 2.0, 3.0]})
    assert (a.ratios, b.ratios, c.ratios) == ((1.0, 1.5, math.inf), (1.0, 1.0, 2.0), (1.0, 1.0, 4.0))
    assert [a.share(factor) for factor in (1, 1.4, 1.5, 100)] == [1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert (a.points, a.missing) == ([(1.0, 1 / 3), (1.5, 2 / 3)], 1)
    # Nothing is a multiple of an error of 0 or below.
    a, b = profiles({"a": [0.0, -1.0, 1.0], "b": [0.1, 0.5, 2.0]})
    assert (a.ratios, b.ratios) == ((1.0,), (2.0,))
    # A hole takes its task out of the ranks.
    ranks = mean_ranks({"a": [1.0, 3.0, None], "b": [2.0, 2.0, 1.0]})
    assert (ranks.mean, ranks.tasks) == ({"a": 1.5, "b": 1.5}, (0, 1))
    assert mean_ranks({"a": [1.0, None], "b": [None, 1.0]}).mean == {}


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=3, max_size=6))
@examples(15)
def test_mean_ranks_and_friedman_are_scipys(rows):
    ranks = mean_ranks({str(place): [float(value) for value in row] for place, row in enumerate(rows)})
    expected = stats.rankdata(np.array(rows), axis=0).mean(axis=1)
    assert list(ranks.mean.values()) == pytest.approx(list(expected))
    if any(len(set(task)) > 1 for task in zip(*rows, strict=True)):
        assert ranks.friedman == pytest.approx(stats.friedmanchisquare(*rows).pvalue)
    else:
        assert ranks.friedman is None


def test_methods_of_equal_name_are_told_apart_by_their_source(tmp_path):
    for source in ("docs", "tweets"):
        for task in "ab":
            add_run(tmp_path, task=task, source=source)
    names = ["minilm otdd full source=docs", "minilm otdd full source=tweets"]
    assert across(table_of(tmp_path)).methods == names


def by_seed(rows):
    return {name: [{} if value is None else {0: value} for value in row] for name, row in rows.items()}


def test_pairs_by_hand():
    rows = {"a": [0.10, 0.20, 0.30], "b": [0.30, 0.20, 0.20], "c": [0.30, None, 0.50]}
    ab, ac, bc = pairs_of(by_seed(rows))
    # In per cent of the mean of both errors: 0.2 of 0.2, 0 of 0.2, -0.1 of 0.25.
    assert (ab.tasks, ab.wins, ab.ties, ab.losses, ab.gain) == (3, 1, 1, 1, pytest.approx((100 + 0 - 40) / 3))
    assert (ab.p, ac.p) == (1.0, 0.5)  # of the four sums of +-100 and +-40 those as far from 0 as 60; all for two wins
    assert (ac.method, ac.other, ac.tasks, ac.wins, ac.gain) == ("a", "c", 2, 2, pytest.approx((100 + 50) / 2))
    # A pair is of equal seeds; an error below 0 has no per cent.
    seeds = {"a": [{0: 0.1, 1: 0.1}, {0: 0.2}, {1: -0.1}], "b": [{1: 0.3, 2: 0.9}, {1: 0.1}, {1: 0.2}]}
    (one,) = pairs_of(seeds)
    assert (one.tasks, one.gain) == (1, pytest.approx(100))
    # A third method changes nothing about a pair but the correction.
    rows = {"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "b": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
    one, two = pairs_of(by_seed(rows))[0], pairs_of(by_seed(rows | {"c": [0.3] * 6}))[0]
    assert (one.p, one.is_earned, two.p, two.holm_p, two.is_earned) == (2 / 64, True, 2 / 64, 6 / 64, False)


def test_a_table_with_a_hole_is_the_same_in_all_formats(tmp_path):
    for place, task in enumerate("stuvwxyz"):
        for metric, gain in (("otdd", 0.1), ("none", 0.0), ("mmd", 0.05)):
            if (task, metric) != ("z", "mmd"):
                errors = [0.5 + place / 100 - gain - seed / 1000 * place for seed in range(3)]
                add_arms(tmp_path, task=task, arms={metric: errors})
    comparison = across(table_of(tmp_path))
    assert [column.task for column in comparison.counted] == list("stuvwxyz")
    assert comparison.methods == ["otdd", "mmd", "none"]  # named by what they differ in, the best first
    assert comparison.ranks.mean == {"otdd": 1.0, "mmd": 2.0, "none": 3.0}
    assert comparison.holes == {"mmd": ["z"]}
    pair = next(one for one in comparison.pairs if (one.method, one.other) == ("otdd", "none"))
    assert (pair.tasks, pair.wins, pair.p) == (8, 8, 2 / 2**8)
    words = ["report", tmp_path, "--compare"]
    record = read_json(*words)
    assert record["methods"] == comparison.methods
    assert record["profiles"][1]["ratios"][-1] is None  # the hole
    gain = next(line for line in csv_lines(read_text(*words, "--format", "csv")) if line["measure"] == "gain")
    assert float(gain["value"]) == record["pairs"][0]["gain"]
    phrases = ("8/0/0", "a missing error counts as infinitely bad in the profile: mmd (z)", "over the 7 of 8 tasks")
    for form in ("md", "latex", "table"):
        text = report(tmp_path, "--compare", "--format", form)
        assert not [phrase for phrase in (f"+{pair.gain:.1f}", *phrases) if phrase not in text], form


def test_what_cannot_be_compared_is_said(tmp_path):
    add_run(tmp_path / "one")
    assert "nothing to compare" in report(tmp_path / "one", "--compare")
    for task, value, error in (("zero", 0.0, None), ("below", -3.0, NATS), ("plain", 0.2, None)):
        add_arms(tmp_path / "low", task=task, arms={"none": value + 0.1, "otdd": value}, error=error)
    text = report(tmp_path / "low", "--compare")
    assert "a lowest error of 0 or below has no multiples and does not count" in text
    assert "otdd none +120.0 2 2/0/0" in text  # of three tasks one is below 0


def test_a_task_measured_in_two_ways_is_not_two_sets(tmp_path):
    for task in "ab":
        for protocol in ("clean", "paper"):
            add_arms(tmp_path, task=task, protocol=protocol)
    ways = r"a was measured in 2 ways, which would count as 2 sets; narrow with --where protocol="
    with pytest.raises(DataError, match=f"--compare: {ways}"):
        across(table_of(tmp_path))
    with pytest.raises(DataError, match=f"--against: {ways}"):
        compared(tmp_path)
    table = build_table(where(collect([tmp_path]), "protocol=clean"))
    assert [one.sets for one in compare(table, "metric", "none").overall] == [2]
