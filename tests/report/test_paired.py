"""Paired comparisons: their numbers against numbers computed by hand, and their sentences."""

import pytest

from orca_cli.exceptions import DataError
from orca_cli.report.gains import layouts_of, sentence
from tests.commands.called import read_json, read_text, refused
from tests.report.trees import (
    NATS,
    add_arms,
    add_pairs,
    add_run,
    compared,
    csv_lines,
    report,
    table_of,
)

SETS = "abcdefgh"


def said(root):
    comparison = compared(root)
    return sentence(comparison.overall[0], comparison)


def test_pairs_by_seed_and_all_other_settings_by_hand(tmp_path):
    for lr, none, otdd in (
        ("1e-3", [0.50, 0.60, 0.40], [0.40, 0.45, 0.45]),
        ("1e-4", [0.60, 0.70, 0.50], [0.60, 0.65, 0.65]),
    ):
        add_arms(tmp_path, arms={"none": none, "otdd": otdd}, variant={"train.lr": lr})
    # A run without a partner of seed 3.
    add_run(tmp_path, seed=3, metric="otdd", value=0.01, variant={"train.lr": "1e-3"})
    comparison = compared(tmp_path)
    gains = {dict(block.others)["train.lr"]: block.gains for block in comparison.blocks}
    assert gains == {"0.001": pytest.approx([10, 15, -5]), "0.0001": pytest.approx([0, 5, -15])}
    (otdd,) = comparison.overall
    assert (comparison.unpaired, otdd.gain.mean) == (1, pytest.approx(5 / 3))  # by seed: 5, 10, -10
    assert (otdd.sets, otdd.pairs, otdd.gain.n) == (1, 6, 3)


def test_over_sets_each_set_counts_once_whatever_its_seeds(tmp_path):
    add_pairs(tmp_path, [0.02], task="a")
    add_pairs(tmp_path, [0.00, 0.01, -0.13], task="b")  # mean -0.04
    add_pairs(tmp_path, [0.0, 0.0], task="c")
    add_run(tmp_path, seed=7, metric="mmd", value=0.3)  # an arm without a pair
    comparison = compared(tmp_path)
    (otdd,) = comparison.overall
    assert otdd.gain.mean == pytest.approx((2 - 4 + 0) / 3)
    assert (otdd.wins, otdd.ties, otdd.losses, otdd.pairs, otdd.seeds) == (1, 1, 1, 6, (1, 3))
    assert (comparison.unpaired, comparison.unit, otdd.gain.p, otdd.gain.smallest) == (
        1,
        "points",
        1,
        0.5,
    )


@pytest.fixture
def two_units(tmp_path):
    """Return pairs of two tasks with errors in different units: 0.50 > 0.45 and 10 > 9 nats."""
    add_pairs(tmp_path, [0.05, 0.05], base=0.5, task="a")
    add_pairs(tmp_path, [1.0, 1.0], base=10.0, task="b", error=NATS)
    return tmp_path


def test_units_that_differ_are_judged_by_relative_differences(two_units):
    (otdd,) = compared(two_units).overall
    assert otdd.gain.mean == pytest.approx(200 * 0.1 / 1.9)
    assert said(two_units) == (
        "otdd: undecided, +10.5 [10.5, 10.5] % of the error "
        "(n = 2 data sets x 2 seeds, p = 0.50; too few differences to reach p = 0.05)"
    )


def test_an_error_of_0_counts_among_relative_differences(two_units):
    add_pairs(two_units, [0.2], base=0.2, task="none left")  # 0.2 of a mean of 0.1
    add_pairs(two_units, [0.0], base=0.0, task="tied")
    (otdd,) = compared(two_units).overall
    assert (otdd.sets, otdd.gain.n, otdd.wins, otdd.ties, otdd.losses) == (4, 4, 3, 1, 0)
    assert otdd.gain.mean == pytest.approx((2 * 20 / 1.9 + 200 + 0) / 4)


@pytest.mark.parametrize(
    ("against", "name", "gain"),
    [("train.lr=1e-3", "0.0001", 10), ("train.lr=1e-4", "0.001", -10)],
)
def test_runs_that_leave_a_setting_open_are_an_arm(tmp_path, against, name, gain):
    for seed in range(2):
        path = add_run(tmp_path, seed=seed, value=0.3)
        (path / "config.yaml").write_text("train:\n  lr: 0.0001\n")
        add_run(tmp_path, seed=seed, value=0.4, variant={"train.lr": "1e-3"})
    (arm,) = compared(tmp_path, against).overall
    assert (arm.arm, arm.gain.mean, arm.pairs) == (name, pytest.approx(gain), 2)


HELPS = (0.020, 0.019, 0.021, 0.018, 0.022, 0.020, 0.017, 0.023)
NOTHING = (0.001, -0.001, 0.002, -0.002, 0.001, -0.001, 0.001, -0.001)
TWO_SEEDS = [  # gains of the data sets -> sentence
    (HELPS, "helps, +2.0 ["),
    (NOTHING, "points (n = 8 data sets x 2 seeds, p = 1.00; two one-sided t tests: p = 1.1e-05)"),
    ((0.05, -0.05, 0.08, -0.02, 0.01, -0.09, 0.10, 0.03), "undecided, +1.4 [-"),
    ((0.02, 0.02, 0.02), "too few differences to reach p = 0.05)"),
]
ONE_SET = [  # gains of its seeds -> sentence
    ((0.001, -0.001, 0.0, 0.001, -0.001, 0.0), "no effect beyond ±0.5 points"),
    (
        (0.1, 0.11, 0.12, 0.13, 0.1),
        "[9.6, 12.8] points (n = 5 seeds, one data set, p = 0.062; too few differences to",
    ),
    ((0.1, 0.11, 0.0, 0.13, 0.1, 0.0), "p = 0.12; too few differences to reach p = 0.05)"),
    ((0.1,), "undecided, +10.0 points (n = 1 seed, one data set, p = 1.00; too few"),
]


@pytest.mark.parametrize(("gains", "phrase"), TWO_SEEDS)
def test_what_is_said_about_an_arm_on_several_sets(tmp_path, gains, phrase):
    for task, gain in zip(SETS, gains, strict=False):
        add_pairs(tmp_path, [gain, gain], task=task)
    assert phrase in said(tmp_path)


@pytest.mark.parametrize(("gains", "phrase"), ONE_SET)
def test_what_is_said_about_an_arm_on_one_set(tmp_path, gains, phrase):
    add_pairs(tmp_path, gains)
    assert phrase in said(tmp_path)


def test_bodies_with_a_source_of_their_own_are_an_axis(tmp_path):
    for body, source, value in (("minilm", "docs", 0.5), ("swin", "cifar10", 0.4)):
        add_arms(tmp_path, arms={"none": value, "otdd": value}, body=body, source=source)
    (swin,) = compared(tmp_path, "body=minilm").overall
    assert (swin.arm, swin.pairs, swin.gain.mean) == ("swin", 2, pytest.approx(10))
    add_run(tmp_path, body="swin", source="digits", value=0.3)  # which of the two is the body's?
    with pytest.raises(DataError, match="differ only in 'body'"):
        compared(tmp_path, "body=minilm")


def test_more_arms_need_a_smaller_p(tmp_path):
    for task in SETS[:6]:
        add_pairs(tmp_path, [0.02, 0.02], task=task)
    assert compared(tmp_path).overall[0].holm_p == 2 / 64
    for task in SETS[:6]:
        add_run(tmp_path, task=task, metric="mmd", value=0.48)
    holm = {arm.arm: arm.holm_p for arm in compared(tmp_path).overall}
    assert holm == {"mmd": 4 / 64, "otdd": 4 / 64}
    # Six differences cannot reach p = 0.05 after the correction.
    assert "too few differences to reach" in said(tmp_path)


def test_only_gains_that_are_shown_are_marked(tmp_path):
    for task, count in (("a", 6), ("b", 5), ("c", 8)):
        add_pairs(tmp_path, [0.1 + seed / 100 for seed in range(count)], task=task)
    over_sets, by_set = layouts_of(compared(tmp_path))
    (otdd,) = over_sets.rows
    assert not any(entry.best for entry in otdd.entries)  # three data sets
    # p = 2/2^6, 2/2^5 and 2/2^8; after Holm's correction 2 * 2/2^6 = 0.0625, 0.0625 and
    # 3 * 2/2^8 = 0.023.
    (otdd,) = by_set.rows
    assert [entry.best for entry in otdd.entries] == [False, False, True]


def test_pairs_that_are_the_same_computation_are_left_out(tmp_path):
    """On two of three seeds the arm changed nothing; a fourth seed has no recorded weights."""
    for seed, base, weights, value in (
        (0, "a", "a", 0.5),
        (1, "b", "b", 0.5),
        (2, "x", "c", 0.4),
        (3, "", "", 0.5),
    ):
        add_run(tmp_path, seed=seed, metric="none", value=0.5, weights_sha256=base)
        add_run(tmp_path, seed=seed, value=value, weights_sha256=weights)
    comparison = compared(tmp_path)
    (block,) = comparison.blocks
    assert (block.seeds, block.gains, comparison.unpaired) == ((2, 3), pytest.approx([10, 0]), 0)
    same = "since both runs of such a pair computed the same model (equal final weights)"
    assert f"left out: 2 of 4 pairs, {same}" in report(tmp_path, "--against", "metric=none")


def test_pairs_that_are_all_the_same_computation_are_refused(tmp_path):
    for seed, weights in enumerate("ab"):
        for metric in ("none", "otdd"):
            add_run(tmp_path, seed=seed, metric=metric, value=0.5, weights_sha256=weights)
    refusal = refused(11, "report", tmp_path, "--against", "metric=none")
    assert "no pair is left: in 2 pairs, both runs computed the same model (equal" in refusal


def test_runs_on_other_test_data_are_no_partners(tmp_path):
    """A file was changed between the runs of two arms."""
    for metric, value, data in (("none", 0.4, "a"), ("otdd", 0.3, "b")):
        splits = {"test": {"n": 497, "sha256": data * 64}}
        add_arms(tmp_path, arms={metric: [value + seed / 100 for seed in range(6)]}, splits=splits)
    with pytest.raises(
        DataError, match="no two runs with the same task, seed and test data differ"
    ):
        compared(tmp_path)
    rows = table_of(tmp_path).rows
    assert [str(row.method).split()[-1] for row in rows] == [
        "test_set=aaaaaaaa",
        "test_set=bbbbbbbb",
    ]
    assert not any(row.cells[0].earned for row in rows)


def test_all_formats_hold_the_same_numbers(tmp_path):
    for task, gain in zip(SETS, (0.02, 0.03, 0.01, 0.02, 0.03, 0.025), strict=False):
        add_pairs(tmp_path, [gain, gain + 0.001], task=task)
    add_pairs(tmp_path, [1.0, 2.0], base=10.0, task="nats", error=NATS)
    words = ["report", tmp_path, "--against", "metric=none"]
    record = read_json(*words)
    (arm,) = record["arms"]
    assert (arm["arm"], arm["sets"], arm["wins"], record["unit"]) == (
        "otdd",
        7,
        7,
        "% of the error",
    )
    lines = csv_lines(read_text(*words, "--format", "csv"))
    assert [line["task"] for line in lines] == [*SETS[:6], "nats", "all sets"]
    assert float(lines[-1]["gain.mean"]) == arm["gain"]["mean"]
    for form in ("md", "latex", "table"):
        text = report(*words[1:], "--format", form)
        assert "7/0/0" in text
        assert "otdd: helps, +" in text
