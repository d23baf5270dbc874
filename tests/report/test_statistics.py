"""Intervals and exact tests, and methods over tasks: by hand and against scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orca_cli.exceptions import DataError
from orca_cli.report.collect import collect
from orca_cli.report.differences import (
    LARGEST_P,
    LEAST,
    effect,
    holm,
    interval,
    no_effect,
    sign_flip,
    signs,
)
from orca_cli.report.paired import compare
from orca_cli.report.ranks import rank, ranked
from orca_cli.report.selection import Values, where
from orca_cli.report.table import build_table
from tests.commands.called import read_json, read_text
from tests.properties import examples
from tests.report.trees import add_arms, add_run, compared, csv_lines, report, table_of

SKEWED = [1, 2, 3, 4, 9, 30]
NORMAL = list(np.random.default_rng(3).normal(size=40))


@pytest.mark.parametrize("values", [SKEWED, [-2, -1], [-5, 0, 0, 0], NORMAL])
def test_the_interval_is_scipys_by_t(values):
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx(expected)


def test_intervals_of_equal_values_and_of_one():
    assert interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    assert interval([0.3]) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_no_effect_is_two_one_sided_t_tests(sign):
    above = stats.ttest_1samp(SKEWED, -20, alternative="greater").pvalue
    below = stats.ttest_1samp(SKEWED, 20, alternative="less").pvalue
    values = [sign * value for value in SKEWED]
    assert no_effect(effect(values), 20.0) == pytest.approx(max(above, below))


def test_no_effect_of_equal_differences_and_of_one():
    assert no_effect(effect([0.1] * 6), 0.5) == 0.0
    assert no_effect(effect([0.6] * 6), 0.5) == no_effect(effect([0.1]), 0.5) == 1.0


def test_exact_tests_by_hand():
    # Of the 8 sums of 1, 2 and 4 with signs, +-7 are as far from 0 as 7; +-7 and +-5 as far as
    # 1 - 2 - 4 = -5.
    assert (sign_flip([1, 2, 4]), sign_flip([1, -2, -4])) == (2 / 8, 4 / 8)
    assert sign_flip([0.1, 0.2, -0.3]) == 1.0  # a sum of 0, up to rounding
    assert sign_flip([0, 0]) == 1.0
    assert sign_flip([1.0] * LEAST) <= LARGEST_P < sign_flip([1.0] * (LEAST - 1))
    # Many differences are tested by drawn signs, close to the normal limit.
    values = list(np.random.default_rng(3).normal(0.3, 1, size=25))
    assert sign_flip(values) == pytest.approx(
        2 * stats.norm.sf(abs(sum(values)) / math.hypot(*values)), abs=0.03
    )


@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=9, unique=True),
    st.randoms(use_true_random=False),
)
@examples(15)
def test_exact_tests_count_every_pattern_of_signs(sizes, random):
    values = [random.choice((-1, 1)) * size for size in sizes]
    sums = np.array(list(itertools.product((-1, 1), repeat=len(values)))) @ np.array(values) / 7
    assert sign_flip([value / 7 for value in values]) == np.mean(
        np.abs(sums) >= abs(sum(values)) / 7 - 1e-9
    )


def test_gains_that_are_0_but_for_rounding_are_ties():
    gains = [0.3, 1e-9, 0.1 + 0.2 - 0.3, 0.0, 0.3 - 0.1 - 0.2, -1e-9]
    assert signs(gains) == {"wins": 2, "ties": 3, "losses": 1}


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.02, 0.02, 0.6]) == pytest.approx([1.0, 0.08, 0.08, 1.0])  # with ties


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=3, max_size=6))
@examples(15)
def test_mean_ranks_and_friedman_are_scipys(rows):
    standings, friedman = ranked(
        {str(i): [float(error) for error in row] for i, row in enumerate(rows)}
    )
    expected = stats.rankdata(np.array(rows), axis=0).mean(axis=1)
    rank_by_method = {standing.method: standing.rank for standing in standings}
    assert rank_by_method == pytest.approx({str(i): mean for i, mean in enumerate(expected)})
    ranks = [standing.rank for standing in standings]
    assert ranks == sorted(ranks)
    if any(len(set(task)) > 1 for task in zip(*rows, strict=True)):
        assert friedman == pytest.approx(stats.friedmanchisquare(*rows).pvalue)
    else:
        assert friedman is None


def test_methods_of_equal_name_are_told_apart_by_their_source(tmp_path):
    for source in ("docs", "tweets"):
        for task in "ab":
            add_run(tmp_path, task=task, source=source)
    names = ["docs", "tweets"]
    assert [standing.method for standing in rank(table_of(tmp_path)).standings] == names


def test_each_method_against_the_first_by_hand():
    (a, b), _ = ranked({"b": [0.30, 0.20, 0.20], "a": [0.10, 0.20, 0.30]})
    assert (a.method, a.p, a.holm_p) == ("a", None, None)
    assert (a.gain, a.wins, a.ties, a.losses) == (0.0, 0, 3, 0)
    # In per cent of the mean of both errors: 0.2 of 0.2, 0 of 0.2, -0.1 of 0.25.
    assert b.gain == pytest.approx((100 + 0 - 40) / 3)
    assert (b.wins, b.ties, b.losses) == (1, 1, 1)
    # All of the four sums of +-100 and +-40 are as far from 0 as 60.
    assert (b.p, b.holm_p) == (1.0, 1.0)


def test_a_third_method_changes_the_correction_alone():
    """The first method was chosen among all methods."""
    rows = {"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "b": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
    (_, of_two), _ = ranked(rows)
    (_, of_three, _), _ = ranked(rows | {"c": [0.8] * 6})
    assert (of_two.p, of_two.holm_p) == (2 / 64, 2 / 64)
    assert (of_three.p, of_three.holm_p) == (2 / 64, 6 / 64)


def test_a_method_alone_has_no_rank():
    assert ranked({"a": [1.0]}) == ([], None)


@pytest.fixture(scope="module")
def with_hole(tmp_path_factory):
    """Return runs of three methods on eight tasks; mmd has no run of the last."""
    root = tmp_path_factory.mktemp("hole")
    for i, task in enumerate("stuvwxyz"):
        for metric, gain in (("otdd", 0.1), ("none", 0.0), ("mmd", 0.05)):
            if (task, metric) != ("z", "mmd"):
                errors = [0.5 + i / 100 - gain - seed / 1000 * i for seed in range(3)]
                add_arms(root, task=task, arms={metric: errors})
    return root


def test_a_task_without_errors_of_all_does_not_count(with_hole):
    ranking = rank(table_of(with_hole))
    assert (ranking.tasks, ranking.holes) == (list("stuvwxy"), {"z": ["no error of mmd"]})
    # Methods are named by the settings in which they differ, the best method first.
    ranks = [(standing.method, standing.rank) for standing in ranking.standings]
    assert ranks == [("otdd", 1.0), ("mmd", 2.0), ("none", 3.0)]
    none = ranking.standings[-1]
    assert (none.wins, none.p) == (7, 2 / 2**7)


def test_records_of_a_ranking_have_the_same_numbers(with_hole):
    none = rank(table_of(with_hole)).standings[-1]
    words = ["report", with_hole, "--compare"]
    assert read_json(*words)["standings"][-1]["gain"] == none.gain
    *_, line = csv_lines(read_text(*words, "--format", "csv"))
    assert (line["method"], float(line["gain"])) == ("none", none.gain)


@pytest.mark.parametrize("form", ["md", "latex", "table"])
def test_formats_for_people_show_a_ranking(with_hole, form):
    none = rank(table_of(with_hole)).standings[-1]
    text = report(with_hole, "--compare", "--format", form)
    gain = f"+{none.gain:.1f}"
    phrases = (gain, "7/0/0", "left out: z (no error of mmd)", "over the 7 of 8 tasks")
    assert [phrase for phrase in phrases if phrase not in text] == []


def test_what_cannot_be_compared_is_said(tmp_path):
    add_run(tmp_path / "one")
    assert "nothing to compare" in report(tmp_path / "one", "--compare")


def test_a_task_measured_in_two_ways_is_not_two_sets(tmp_path):
    for task in "ab":
        for protocol in ("clean", "paper"):
            add_arms(tmp_path, task=task, protocol=protocol)
    ways = (
        "the data set 'a' was measured in 2 ways, so it would count as 2 data sets; "
        "select runs that were measured in one way: use --where protocol="
    )
    with pytest.raises(DataError, match=f"--compare: {ways}"):
        rank(table_of(tmp_path))
    with pytest.raises(DataError, match=f"--against: {ways}"):
        compared(tmp_path)
    table = build_table(where(collect([tmp_path]), "protocol=clean", Values()))
    (otdd,) = compare(table, "metric", "none").overall
    assert otdd.sets == 2


@pytest.mark.parametrize(("count", "is_tested"), [(20, True), (21, False)])
def test_pairs_of_up_to_twenty_methods_are_tested(count, is_tested):
    standings, friedman = ranked(
        {f"{number:02}": [number, 2.0 * number] for number in range(count)}
    )
    assert {standing.p is not None for standing in standings[1:]} == {is_tested}
    assert {standing.holm_p is not None for standing in standings[1:]} == {is_tested}
    assert len(standings) == count
    assert friedman is not None
