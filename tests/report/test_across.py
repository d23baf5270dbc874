"""Methods over tasks: profiles, ranks and pairs, by hand and against scipy and scikit-posthocs."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orca_cli.cli import main
from orca_cli.exceptions import DataError
from orca_cli.report.page.document import page
from orca_cli.report.records.collect import collect
from orca_cli.report.records.filters import where
from orca_cli.report.records.study_members import Origin
from orca_cli.report.statistics.across import MOST, across, matrix, mean_ranks, profiles
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.table import build_table
from tests.properties import examples
from tests.report.trees import add_run

NATS = {"percent": False, "name": "nats"}
errors = st.lists(st.one_of(st.none(), st.integers(0, 60).map(lambda n: n / 20)), min_size=4, max_size=4)
tables = st.lists(errors, min_size=2, max_size=5).map(lambda rows: dict(zip("abcde", rows, strict=False)))


def test_profiles_by_hand():
    # The last two tasks have one error only, and do not count.
    a, b = profiles({"a": [1.0, 3.0, None, 5.0], "b": [2.0, 2.0, 3.0, None]})[:2]
    assert (a.ratios, a.missing) == ((1.0, 1.5), 0)
    a, b, c = profiles({"a": [1.0, 3.0, None], "b": [2.0, 2.0, 3.0], "c": [4.0, 2.0, 3.0]})
    assert (a.ratios, b.ratios, c.ratios) == ((1.0, 1.5, math.inf), (1.0, 1.0, 2.0), (1.0, 1.0, 4.0))
    assert [a.share(factor) for factor in (1, 1.4, 1.5, 100)] == [1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert (a.points, a.missing) == ([(1.0, 1 / 3), (1.5, 2 / 3)], 1)
    assert profiles({"a": [1.0], "b": [None]}) == []
    # A hole takes its task out of the ranks.
    ranks = mean_ranks({"a": [1.0, 3.0, None], "b": [2.0, 2.0, 1.0]})
    assert (ranks.mean, ranks.tasks) == ({"a": 1.5, "b": 1.5}, (0, 1))
    assert mean_ranks({"a": [1.0, None], "b": [None, 1.0]}).mean == {}


def test_nothing_is_a_multiple_of_an_error_of_0_or_below(tmp_path, capsys):
    a, b = profiles({"a": [0.0, -1.0, 1.0], "b": [0.1, 0.5, 2.0]})
    assert (a.ratios, b.ratios) == ((1.0,), (2.0,))
    for task, value, error in (("zero", 0.0, None), ("below", -3.0, NATS), ("plain", 0.2, None)):
        for metric, more in (("none", 0.1), ("otdd", 0.0)):
            add_run(tmp_path, task=task, metric=metric, value=value + more, error=error)
    text = compared(tmp_path, capsys)
    assert "not in the profiles, since nothing is a multiple of an error of 0 or below: below, zero" in text
    assert "not in the pairs, since an error is below 0: below" in text
    assert "inf" not in text


@given(tables)
@examples(40)
def test_a_profile_is_a_distribution_function_of_ratios(table):
    known_values = [[value for value in task if value is not None] for task in zip(*table.values(), strict=True)]
    counted = [values for values in known_values if len(values) > 1 and min(values) > 0]
    curves = profiles(table)
    assert len(curves) == (len(table) if counted else 0)
    for one in curves:
        shares = [one.share(factor) for factor in (1, 1.1, 1.5, 3, 1e9)]
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)
        assert one.points[-1][1] == one.share(1e9)
    if counted:  # somebody is best on every task
        assert sum(one.share(1) for one in curves) >= 1 - 1e-9


@given(tables, st.randoms(use_true_random=False))
@examples(40)
def test_the_order_of_methods_and_tasks_does_not_matter(table, random):
    places = random.sample(range(4), 4)
    names = random.sample(list(table), len(table))
    turned = {name: [table[name][place] for place in places] for name in names}
    assert {one.method: one for one in profiles(turned)} == {one.method: one for one in profiles(table)}
    assert mean_ranks(turned).mean == pytest.approx(mean_ranks(table).mean)


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=3, max_size=6))
@examples(40)
def test_mean_ranks_and_friedman_are_scipys(rows):
    ranks = mean_ranks({str(place): [float(value) for value in row] for place, row in enumerate(rows)})
    expected = stats.rankdata(np.array(rows), axis=0).mean(axis=1)
    assert list(ranks.mean.values()) == pytest.approx(list(expected))
    if any(len(set(task)) > 1 for task in zip(*rows, strict=True)):
        assert ranks.friedman == pytest.approx(stats.friedmanchisquare(*rows).pvalue)
    else:
        assert ranks.friedman is None


def by_seed(rows):
    return {name: [{} if value is None else {0: value} for value in row] for name, row in rows.items()}


def compared(root, capsys, *words):
    assert main(["report", str(root), "--compare", *words]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_pairs_by_hand():
    rows = {"a": [0.10, 0.20, 0.30], "b": [0.20, 0.20, 0.25], "c": [0.50, None, 0.40]}
    pairs = {(one.row, one.column): one for one in matrix(by_seed(rows), [True, True, True])}
    ab, ac = pairs["a", "b"], pairs["a", "c"]
    assert (ab.tasks, ab.wins, ab.ties, ab.losses, ab.gain) == (3, 1, 1, 1, pytest.approx((10 + 0 - 5) / 3))
    # 10 and -5 have signed ranks 2 and -1, sum 1: every sign pattern is at least as extreme.
    assert (ab.p, ab.smallest) == (1.0, 0.5)
    assert (ac.tasks, ac.wins, ac.gain, ac.p) == (2, 2, pytest.approx((40 + 10) / 2), 0.5)
    assert pairs["c", "a"].turned() == ac
    assert pairs["c", "a"].gain == -ac.gain
    # A pair is of equal seeds.
    seeds = {"a": [{0: 0.1, 1: 0.3}, {0: 0.2}], "b": [{1: 0.4, 2: 0.9}, {1: 0.1}]}
    one = matrix(seeds, [True, True])[0]
    assert (one.tasks, one.gain) == (1, pytest.approx(10))


def test_pairs_over_units_that_differ_are_in_per_cent_of_the_error():
    one = matrix(by_seed({"a": [0.1, 3.0, 0.0], "b": [0.3, 5.0, 0.2]}), [True, False, True])[0]
    assert one.is_relative
    # 0.2 of a mean of 0.2, 2 of 4, and 0.2 of 0.1.
    assert (one.gain, one.points) == (pytest.approx((100 + 50 + 200) / 3), pytest.approx((20 + 20) / 2))


def test_a_third_method_changes_nothing_about_a_pair_but_the_correction():
    rows = {"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "b": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
    (alone, _) = matrix(by_seed(rows), [True] * 6)
    assert (alone.p, alone.is_earned) == (2 / 64, True)
    more = matrix(by_seed(rows | {"c": [0.3] * 6}), [True] * 6)
    assert (more[0].p, more[0].gain, more[0].corrected, more[0].is_earned) == (2 / 64, alone.gain, 6 / 64, False)


@pytest.fixture
def tree(tmp_path):
    for place, task in enumerate("stuvwxyz"):
        for seed in range(3):
            for metric, gain in (("otdd", 0.1), ("none", 0.0), ("mmd", 0.05)):
                if (task, metric) != ("z", "mmd"):
                    value = 0.5 + place / 100 - gain - seed / 1000 * place
                    add_run(tmp_path, task=task, seed=seed, metric=metric, value=value)
    return tmp_path


def test_a_table_as_a_whole_with_a_hole(tree, capsys):
    add_run(tree, task="alone", value=0.1)
    comparison = across(build_table(collect([tree])))
    assert [column.task for column in comparison.counted] == list("stuvwxyz")  # not the task of one method
    assert comparison.methods == ["otdd", "mmd", "none"]  # named by what they differ in, the best first
    assert comparison.ranks.mean == {"otdd": 1.0, "mmd": 2.0, "none": 3.0}
    assert len(comparison.ranks.tasks) == 7
    assert comparison.holes == {"mmd": ["alone", "z"], "none": ["alone"]}
    assert {one.method: one.share(1e9) for one in comparison.profiles} == {"otdd": 1, "none": 1, "mmd": 7 / 8}
    pair = next(one for one in comparison.pairs if (one.row, one.column) == ("otdd", "none"))
    assert (pair.tasks, pair.wins, pair.p, pair.gain) == (8, 8, 2 / 2**8, pytest.approx(10))
    text = compared(tree, capsys)
    assert "tasks with an error of one method at most do not count: alone" in text
    assert "no error on z, which counts as infinitely bad in the profile: mmd" in text


def test_all_formats_hold_the_same(tree, capsys):
    words = ["report", str(tree), "--compare"]
    record = json.loads(compared(tree, capsys, "--json"))
    assert record["methods"] == ["otdd", "mmd", "none"]
    assert record["profiles"][1]["ratios"][-1] is None  # the hole
    assert main([*words, "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["measure"] for line in lines} == {"mean rank", "profile", "gain"}
    gain = next(line for line in lines if line["measure"] == "gain")
    assert (float(gain["value"]), gain["unit"]) == (record["pairs"][0]["gain"], "points")
    for form, number in (("md", "+10.0"), ("latex", "+10.0"), ("table", "* +10.0")):
        text = compared(tree, capsys, "--format", form)
        for phrase in (number, "8/0/0", "no error on z, which counts as infinitely bad", "over the 7 of 8 tasks"):
            assert phrase in text, form


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    add_run(tmp_path)
    assert "nothing to compare" in compared(tmp_path, capsys)
    for number in range(MOST + 1):
        for seed in range(2):
            add_run(tmp_path, metric=f"m{number:02}", seed=seed, value=0.1 + number / 1000)
    assert f"pairs are left out: {MOST + 2} methods" in compared(tmp_path, capsys)


def test_a_task_measured_in_two_ways_is_not_two_sets(tmp_path):
    for task in "ab":
        for protocol in ("clean", "paper"):
            for metric, value in (("none", 0.5), ("otdd", 0.4)):
                add_run(tmp_path, task=task, protocol=protocol, metric=metric, value=value)
                data = {"splits": {"test": {"n": 497, "sha256": metric * 16}}}
                add_run(tmp_path / "data", metric=metric, **data)
    ways = (
        "a was measured in 2 ways (protocol: clean, paper), which would count as 2 sets; narrow with --where protocol="
    )
    with pytest.raises(DataError, match=re.escape(f"--compare: {ways}")):
        across(table := build_table(collect([tmp_path])))
    with pytest.raises(DataError, match=re.escape(f"--against: {ways}")):
        compare(table, "metric", "none", 0.5)
    assert "measured in 2 ways" in page(table, None, "orca report", Origin())
    table = build_table(where(collect([tmp_path]), "protocol=clean"))
    assert [one.sets for one in compare(table, "metric", "none", 0.5).overall] == [2]
    assert {pair.tasks for pair in across(table).pairs} == {2}
    with pytest.raises(DataError, match="digits were tested on 2 different test sets; narrow with --where test_set="):
        across(build_table(collect([tmp_path / "data"])))
