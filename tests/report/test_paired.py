"""Paired comparisons: against numbers computed by hand and against scipy, and what is said about them."""

import csv
import io
import json

import pytest

from orca_cli.cli import main
from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import collect
from orca_cli.report.statistics.paired import compare
from orca_cli.report.statistics.verdicts import claim_of, layouts_of
from orca_cli.report.tables.table import build_table
from tests.report.trees import add_run

NATS = {"percent": False, "name": "nats"}


def comparison(root, against="metric=none", margin=0.5):
    return compare(build_table(collect([root])), *against.split("="), margin)


def add_pairs(root, gains, *, base=0.5, metric="otdd", task="digits", error=None, **fields):
    for seed, gain in enumerate(gains):
        add_run(root, task=task, seed=seed, metric="none", value=base, error=error, **fields)
        add_run(root, task=task, seed=seed, metric=metric, value=base - gain, error=error, **fields)


def sentence(compared):
    return claim_of(compared.overall[0], compared).sentence


def test_pairs_by_seed_and_all_other_settings_by_hand(tmp_path):
    for lr, shift in (("1e-3", 0.0), ("1e-4", 0.1)):
        for seed, (none, otdd) in enumerate([(0.50, 0.40), (0.60, 0.45), (0.40, 0.45)]):
            add_run(tmp_path, seed=seed, metric="none", value=none + shift, variant={"train.lr": lr})
            add_run(tmp_path, seed=seed, metric="otdd", value=otdd + 2 * shift, variant={"train.lr": lr})
    add_run(tmp_path, seed=3, metric="otdd", value=0.01, variant={"train.lr": "1e-3"})  # no partner of seed 3
    compared = comparison(tmp_path)
    gains = {dict(block.others)["train.lr"]: block.gains for block in compared.blocks}
    assert gains == {"1e-3": pytest.approx([10, 15, -5]), "1e-4": pytest.approx([0, 5, -15])}
    assert compared.unpaired == 1
    (otdd,) = compared.overall
    assert otdd.points.mean == pytest.approx(5 / 3)  # by seed: 5, 10, -10
    assert (otdd.sets, otdd.pairs, otdd.points.n) == (1, 6, 3)


def test_over_sets_each_set_counts_once_whatever_its_seeds(tmp_path):
    add_pairs(tmp_path, [0.02], task="a")
    add_pairs(tmp_path, [0.00, 0.01, -0.13], task="b")  # mean -0.04
    add_pairs(tmp_path, [0.0, 0.0], task="c")
    add_run(tmp_path, seed=7, metric="mmd", value=0.3)  # an arm without a pair
    compared = comparison(tmp_path)
    (otdd,) = compared.overall
    assert compared.unpaired == 1
    assert otdd.points.mean == pytest.approx((2 - 4 + 0) / 3)
    assert (otdd.wins, otdd.ties, otdd.losses, otdd.pairs, otdd.seeds) == (1, 1, 1, 6, (1, 3))
    assert otdd.worst == ("b", pytest.approx(-4))
    assert not otdd.is_relative
    assert (otdd.points.p, otdd.points.smallest) == (1, 0.5)


def test_units_that_differ_are_judged_by_the_relative_difference_of_mean_errors(tmp_path):
    add_pairs(tmp_path, [0.05, 0.05], base=0.5, task="a")  # 0.50 > 0.45
    add_pairs(tmp_path, [1.0, 1.0], base=10.0, task="b", error=NATS)  # 10 > 9
    compared = comparison(tmp_path)
    (otdd,) = compared.overall
    assert otdd.is_relative
    assert otdd.relative.mean == pytest.approx(200 * 0.1 / 1.9)
    assert (otdd.points.n, otdd.points.mean) == (1, pytest.approx(5))
    few = "2 differences cannot reach p = 0.05"
    expected = f"otdd: undecided, +10.5 % of the error [10.5, 10.5] (n = 2 sets x 2 seeds, p = 0.50; {few}); "
    assert sentence(compared) == expected + "about 4 more sets, not more seeds"
    add_pairs(tmp_path, [0.2], base=0.2, task="none left")  # an error of 0 counts: 0.2 of a mean of 0.1
    add_pairs(tmp_path, [0.0], base=0.0, task="tied")
    (otdd,) = comparison(tmp_path).overall
    assert (otdd.sets, otdd.relative.n, otdd.wins, otdd.ties, otdd.losses) == (4, 4, 3, 1, 0)
    assert otdd.relative.mean == pytest.approx((2 * 20 / 1.9 + 200 + 0) / 4)


SETS = "abcdefgh"


def test_small_gains_are_shown_as_more_than_zero(tmp_path):
    for task in SETS[:6]:
        add_pairs(tmp_path / "nats", [0.0001 + seed * 2e-6 for seed in range(6)], base=0.0003, task=task, error=NATS)
        add_pairs(tmp_path / "points", [0.0002 + seed * 1e-6 for seed in range(6)], base=0.003, task=task)
    by_set = layouts(tmp_path / "nats")[1].rows[0][1][0]
    assert by_set.main.startswith("+0.000105 [0.00010")
    assert by_set.rest == "0.000300 > 0.000195"
    assert sentence(comparison(tmp_path / "points")).startswith("otdd: helps by 0.02 points [0.02, 0.02] (")
    assert layouts(tmp_path / "points")[1].rows[0][1][0].main == "+0.02 [0.02, 0.02] (6)"
    for seed, (base, value) in enumerate([(0.1 + 0.2, 0.3), (0.5, 0.4), (0.4, 0.5)]):  # a gain by rounding is 0
        add_run(tmp_path / "rounded", seed=seed, metric="none", value=base)
        add_run(tmp_path / "rounded", seed=seed, value=value)
    over, by_set = layouts(tmp_path / "rounded")
    assert by_set.rows[0][1][0].main == "+0.0 [-24.8, 24.8] (3)"
    assert over.rows[0][1][2].main == "+0.00 [-24.84, 24.84]"


def test_seeds_of_one_set_are_those_that_were_tested(tmp_path):
    for body, seeds in (("one", range(3)), ("other", range(3, 6))):
        for seed in seeds:
            add_run(tmp_path, body=body, seed=seed, metric="none", value=0.5)
            add_run(tmp_path, body=body, seed=seed, value=0.4 - seed / 1000)
    compared = comparison(tmp_path)
    assert "helps by 10.2 points" in (text := sentence(compared))
    assert "(n = 6 seeds, one set, p = 0.031)" in text


def test_runs_that_leave_a_setting_open_are_an_arm(tmp_path):
    multiscale = "embedder:\n  _target_: orca_cli.models.embedders.multiscale.Multiscale\n"
    for seed in range(2):
        for name, config, variant, decided in (
            ("left", f"train:\n  lr: 0.0001\n{multiscale}", {"train.lr": "1e-3"}, {}),
            ("part", multiscale, {"embedder": "patch"}, {}),
            ("decided", "", {"train.epochs": "3"}, {"decided": {"train.epochs": {"value": 7, "why": ""}}}),
        ):
            (add_run(tmp_path / name, seed=seed, value=0.3, **decided) / "config.yaml").write_text(config)
            add_run(tmp_path / name, seed=seed, value=0.4, variant=variant)
    for name, against, other, gain in (
        ("left", "train.lr=1e-3", "0.0001", 10),
        ("left", "train.lr=1e-4", "1e-3", -10),  # what nobody typed
        ("part", "embedder=patch", "multiscale", 10),
        ("decided", "train.epochs=3", "decided", 10),
    ):
        (arm,) = comparison(tmp_path / name, against).overall
        assert (arm.arm, arm.points.mean, arm.pairs) == (other, pytest.approx(gain), 2), against


def test_a_default_that_was_typed_for_some_seeds_is_one_arm(tmp_path):
    for seed, typed in enumerate(({}, {"train.optimizer": "adamw"}, {"train.optimizer": "adamw"})):
        folder = add_run(tmp_path, seed=seed, value=0.3, settings="a" * 64, variant=typed)
        (folder / "config.yaml").write_text("train:\n  optimizer: adamw\n")
        add_run(tmp_path, seed=seed, value=0.4, variant={"train.optimizer": "sgd"})
    (arm,) = comparison(tmp_path, "train.optimizer=adamw").overall
    assert (arm.arm, arm.pairs) == ("sgd", 3)
    folder = add_run(tmp_path, seed=3, settings="b" * 64)  # another default than it had
    (folder / "config.yaml").write_text("train:\n  optimizer: adamw\n")
    with pytest.raises(DataError, match="optimizer=adamw differ in something that no setting shows.*orca runs rm"):
        comparison(tmp_path, "train.optimizer=adamw")


@pytest.mark.parametrize(
    ("sets", "phrase"),
    [
        ([[gain] * 2 for gain in (0.020, 0.019, 0.021, 0.018, 0.022, 0.020, 0.017, 0.023)], "helps by 2.0 points ["),
        ([[gain] * 2 for gain in (-0.020, -0.019, -0.021, -0.018, -0.022, -0.02, -0.017, -0.023)], "harms by 2.0 points [1."),
        ([[gain] * 2 for gain in (0.001, -0.001, 0.002, -0.002, 0.001, -0.001, 0.001, -0.001)],
         "no effect beyond ±0.5 points (n = 8 sets x 2 seeds, p = 1.00; two one-sided t tests: p = 1.1e-05)"),
        ([[0.001, -0.001, 0.0, 0.001, -0.001, 0.0]], "no effect beyond ±0.5 points"),
        ([[gain] * 2 for gain in (0.05, -0.05, 0.08, -0.02, 0.01, -0.09, 0.10, 0.03)], "undecided, +1.4 points [-"),
        ([[-0.05] * 2, *[[0.0] * 2] * 7], "undecided, -0.6 points [-2.1, 0.9]"),
        ([[-0.0001, 0.0, -0.0001, 0.01, -0.01]], "undecided, +0.0 points [-"),
        ([[0.001, -0.001, 0.0]], "undecided, "),
        ([[0.1, 0.11, 0.12, 0.13, 0.1]], "undecided, +11.2 points [9.6, 12.8]"),
        ([[0.1, 0.11, 0.12, 0.13, 0.1]], "n = 5 seeds, one set, p = 0.062; 5 differences cannot reach p = 0.05"),
        ([[0.1, 0.11, 0.0, 0.13, 0.1, 0.0]],
         "(n = 6 seeds, one set, p = 0.12; 4 differences other than 0 cannot reach p = 0.05)"),
        ([[0.1]], "in the only pair (n = 1 seed, one set); at least 5 more seeds"),
        ([[0.02] * 2] * 3, "cannot reach p = 0.05); about 3 more sets, not more seeds"),
    ],
)  # fmt: skip
def test_what_is_said_about_an_arm(tmp_path, sets, phrase):
    for task, gains in zip(SETS, sets, strict=False):
        add_pairs(tmp_path, gains, task=task)
    assert phrase in sentence(comparison(tmp_path))


def test_bodies_with_a_source_of_their_own_are_an_axis(tmp_path):
    for body, source, value in (("minilm", "docs", 0.5), ("swin", "cifar10", 0.4)):
        for metric in ("none", "otdd"):
            add_run(tmp_path, body=body, source=source, metric=metric, value=value)
    (swin,) = comparison(tmp_path, "body=minilm").overall
    assert (swin.arm, swin.pairs, swin.points.mean) == ("swin", 2, pytest.approx(10))
    add_run(tmp_path, body="swin", source="digits", value=0.3)  # which of the two is the body's?
    with pytest.raises(DataError, match="they differ in source as well"):
        comparison(tmp_path, "body=minilm")


def test_more_arms_need_a_smaller_p(tmp_path):
    for task in SETS[:6]:
        add_pairs(tmp_path, [0.02, 0.02], task=task)
    assert comparison(tmp_path).overall[0].corrected == 2 / 64
    for task in SETS[:6]:
        for seed in (0, 1):
            add_run(tmp_path, task=task, seed=seed, metric="mmd", value=0.48)
    compared = comparison(tmp_path)
    assert [(one.arm, one.corrected) for one in compared.overall] == [("mmd", 4 / 64), ("otdd", 4 / 64)]
    assert all("undecided" in claim_of(one, compared).sentence for one in compared.overall)
    assert "6 differences cannot reach p = 0.05" in sentence(compared)  # nor can they after the correction


def test_only_gains_that_are_shown_are_marked(tmp_path):
    for task, count in (("a", 6), ("b", 5), ("c", 8)):
        add_pairs(tmp_path / "some", [0.1 + seed / 100 for seed in range(count)], task=task)
    over, by_set = layouts(tmp_path / "some")
    assert not any(entry.best for _, entries, _ in over.rows for entry in entries)  # three sets
    # p = 2/2^6, 2/2^5 and 2/2^8; after Holm's correction 2 * 2/2^6 = 0.0625, 0.0625 and 3 * 2/2^8 = 0.023.
    assert [entry.best for entry in by_set.rows[0][1]] == [False, False, True]
    assert by_set.rows[0][1][2].main.startswith("* +")
    assert "fewer than 6 seeds in 1 of 3 gains" in " ".join(by_set.notes)
    add_pairs(tmp_path / "alone", [0.1 + seed / 100 for seed in range(6)])
    over, by_set = layouts(tmp_path / "alone")
    assert [entry.best for entry in over.rows[0][1]] == [False, False, True, *[False] * 5]  # the judged gain alone
    assert by_set.rows[0][1][0].best


def test_arms_that_were_run_on_different_sets_are_reported_not_to_be_compared(tmp_path):
    for task in "ab":
        add_pairs(tmp_path, [0.02, 0.02], task=task)
    assert "compare no arm" not in str(layouts(tmp_path))
    add_run(tmp_path, task="a", seed=0, metric="mmd", value=0.48)
    assert layouts(tmp_path)[0].notes[-1].endswith("compare no arm with another: mmd 1, otdd 4 pairs")


def test_pairs_that_are_the_same_computation_are_left_out(tmp_path, capsys):
    """On two of three seeds the arm changed nothing: such pairs are not observations."""
    for seed, weights, value in ((0, "a", 0.5), (1, "b", 0.5), (2, "c", 0.4), (3, "", 0.5)):
        base = {"weights_sha256": weights and f"{seed}{'x' if weights == 'c' else weights}"}
        add_run(tmp_path / "some", seed=seed, metric="none", value=0.5, **base)
        add_run(tmp_path / "some", seed=seed, value=value, weights_sha256=weights and f"{seed}{weights}")
        if weights in ("a", "b"):
            for metric in ("none", "otdd"):
                add_run(tmp_path / "all", seed=seed, metric=metric, value=0.5, **base)
    compared = comparison(tmp_path / "some")
    block = compared.blocks[0]
    assert (block.seeds, block.gains, compared.unpaired) == ((2, 3), pytest.approx([10, 0]), 0)
    left_out = "2 of {} pairs are the same computation (equal final weights"
    assert main(["report", str(tmp_path / "some"), "--against", "metric=none"]) == 0
    assert left_out.format(4) + "): left out" in " ".join(capsys.readouterr().out.split())
    assert main(["report", str(tmp_path / "all"), "--against", "metric=none"]) != 0
    assert left_out.format(2) + " and errors): none is left" in capsys.readouterr().err


def test_a_set_with_an_error_below_0_has_no_relative_difference(tmp_path, capsys):
    add_pairs(tmp_path, [1.0, 1.0], base=10.0, task="nats", error=NATS)
    add_pairs(tmp_path, [0.02, 0.03], base=0.01, task="below", error=NATS)
    (otdd,) = comparison(tmp_path).overall
    assert (otdd.sets, otdd.relative.mean) == (1, pytest.approx(200 / 19))
    assert main(["report", str(tmp_path), "--against", "metric=none"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "left out over all sets, since an error below 0 has no per cent of it: below" in text
    assert "+0.0250" in text  # its own gain is shown


def on_data(name):
    return {"splits": {"test": {"n": 497, "sha256": name * 64}}}


def test_runs_on_other_test_data_are_no_partners(tmp_path, capsys):
    """A file was changed between the runs of two arms, then between all of them."""
    for seed in range(6):
        add_run(tmp_path / "arms", seed=seed, metric="none", value=0.4 + seed / 100, **on_data("a"))
        add_run(tmp_path / "arms", seed=seed, value=0.3, **on_data("b"))
        for data, base in (("a", 0.5), ("b", 0.3)):
            for metric, gain in (("none", 0.0), ("otdd", 0.1 if data == "a" else 0.02)):
                settings = f"{metric}{data}".ljust(64, "0")
                fields = {"metric": metric, "seed": seed, "settings": settings, "identity": f"{settings}{seed}"}
                add_run(tmp_path / "both", value=base - gain, **fields, **on_data(data))
    with pytest.raises(
        DataError, match="on the same test data, differ.*a file was changed: run the same tasks and seeds"
    ):
        comparison(tmp_path / "arms")
    table = build_table(collect([tmp_path / "arms"]))
    assert [str(row.method).split()[-1] for row in table.rows] == ["test_set=aaaaaaaa", "test_set=bbbbbbbb"]
    assert not any(row.cells[0].earned or row.rank for row in table.rows)
    compared = comparison(tmp_path / "both")
    gains = {dict(block.others)["test_set"]: block.gains for block in compared.blocks}
    assert gains == {"aaaaaaaa": pytest.approx([10] * 6), "bbbbbbbb": pytest.approx([2] * 6)}
    assert (compared.overall[0].points.mean, compared.unpaired) == (pytest.approx(6), 0)
    assert main(["report", str(tmp_path / "both"), "--where", "test_set=bbbbbbbb", "--against", "metric=none"]) == 0
    assert "helps by 2.0 points" in capsys.readouterr().out


@pytest.fixture
def tree(tmp_path):
    for task, gain in zip(SETS[:6], (0.02, 0.03, 0.01, 0.02, 0.03, 0.025), strict=True):
        add_pairs(tmp_path, [gain, gain + 0.001], task=task)
    add_pairs(tmp_path, [1.0, 2.0], base=10.0, task="nats", error=NATS)
    return tmp_path


def test_all_formats_hold_the_same_numbers(tree, capsys):
    words = ["report", str(tree), "--against", "metric=none"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (arm,) = record["arms"]
    assert (arm["arm"], arm["sets"], arm["wins"], arm["judged"]) == ("otdd", 7, 7, "relative")
    assert arm["sentence"].startswith("otdd: helps by ")
    assert main([*words, "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["task"] for line in lines] == [*SETS[:6], "nats", "all sets", "all sets"]
    assert float(lines[-1]["gain"]) == arm["relative"]["mean"]
    assert float(lines[6]["gain"]) == pytest.approx(1.5)
    over = [[line[key] for key in ("unit", "sets", "n", "pairs", "wins", "ties", "losses")] for line in lines[-2:]]
    assert over == [["points", "6", "6", "12", "6", "0", "0"], ["relative", "7", "7", "14", "7", "0", "0"]]
    assert main(["report", str(tree), "--task", "a", "--against", "metric=none", "--format", "csv"]) == 0
    one_set = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))[-1]
    assert (one_set["sets"], one_set["n"]) == ("1", "2")
    for form, mark in (("md", "| otdd |"), ("latex", r"\begin{tabular}"), ("table", "otdd")):
        assert main([*words, "--format", form]) == 0
        text = capsys.readouterr().out
        assert mark in text
        assert "7/0/0" in text
        assert "::" not in text
        assert "otdd: helps by" in text.replace("\n", " ")


def test_runs_that_kept_no_alignment_step_are_shown_as_such(tmp_path, capsys):
    for seed, steps in enumerate((0, 20, 60, 0)):
        add_run(tmp_path, seed=seed, alignment={"steps": steps})
        add_run(tmp_path, seed=seed, metric="none", alignment={"steps": 0})
    assert main(["report", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 unaligned" in text
    assert (
        "minilm otdd full: alignment steps that selection kept, by seed: 0, 20, 60, 0; 2 of 4 runs kept 0 steps" in text
    )
    assert "none full: alignment" not in text
    assert main(["report", str(tmp_path), "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["steps"] for line in lines] == ["0 0 0 0", "0 20 60 0"]


def layouts(root):
    table = build_table(collect([root]))
    return layouts_of(compare(table, "metric", "none", 0.5), table)
