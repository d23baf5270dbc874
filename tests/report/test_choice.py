"""`orca report --choose`: each arm at the rate that validation chose on one seed, judged by the other seeds."""

import csv
import io
import json

import pytest

from orca_cli.cli import main
from orca_cli.runs import studies
from tests.report.trees import add_run

RATES = ("5e-5", "1e-4", "2e-4")
# Validation errors of seed 0 by rate. Its test errors are reversed, so that choosing by them would give another rate.
VALIDATION = {"none": (0.30, 0.20, 0.25), "otdd": (0.10, 0.15, 0.20)}
# Test errors of the other seeds by rate.
TEST = {"none": (0.55, 0.40, 0.35), "otdd": (0.30, 0.28, 0.26)}


def add(root, metric, rate, seed, *, value, validation=None, on="validation", n=100, folds=None, **fields):
    variant = {"train.lr": rate} | ({"train.folds": folds} if folds else {})
    fields |= {"validation_error": value if validation is None else validation, "selected": {"on": on, "n": n}}
    return add_run(root, metric=metric, seed=seed, value=value, variant=variant | fields.pop("variant", {}), **fields)


def fill(root, **fields):
    for metric, errors in VALIDATION.items():
        for rate, validation, test in zip(RATES, errors, TEST[metric], strict=True):
            add(root, metric, rate, 0, value=0.5 - validation, validation=validation, **fields)
            for seed in (1, 2, 3):
                add(root, metric, rate, seed, value=test + seed / 1000, validation=0.5 - validation, **fields)


@pytest.fixture
def report(tmp_path, capsys):
    def shown(*words, code=0):
        assert main(["report", str(tmp_path), "--choose", "train.lr", *words]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return shown


def joined(text):
    return " ".join(text.split())


def cells(text):
    return {row["metric"]: row["cells"][0] for row in json.loads(text)["rows"]}


def test_validation_of_the_lowest_seed_chooses_and_the_other_seeds_are_shown(tmp_path, report):
    fill(tmp_path)
    for rate in RATES:
        add(tmp_path, "mmd", rate, 0, value=0.1)  # of equal errors the middle value counts; nothing is left to judge
    arms = cells(report("--json"))
    assert {metric: cell["chosen"] for metric, cell in arms.items()} == {"none": "1e-4", "otdd": "5e-5 (edge)"}
    assert {metric: cell["mean"] for metric, cell in arms.items()} == pytest.approx({"none": 0.402, "otdd": 0.302})
    assert all([one["seed"] for one in cell["values"]] == [1, 2, 3] for cell in arms.values())
    text = report()
    assert text.startswith("each arm at its own train.lr, chosen on validation, seed 0; judged by the other seeds\n")
    assert "at 5e-5 (edge)" in text
    marked = "(edge): the lowest or highest train.lr that was run, so that a better one may lie beyond: "
    assert f"{marked}digits minilm otdd full 5e-5" in joined(text)  # the other arm's is inside
    assert "fewer than 50 validation samples" not in text
    left = (
        "nothing is left to judge, since no other seed was run at what was chosen: digits minilm mmd full 1e-4 (seed 0)"
    )
    assert left in joined(text)


def test_comparisons_are_of_what_was_chosen(tmp_path, report, capsys):
    fill(tmp_path)
    start, against = "each arm at its own train.lr", ["--against", "metric=none"]
    record = json.loads(report(*against, "--json"))
    (pair,) = record["sets"]
    assert (pair["seeds"], pair["chosen"]) == ([1, 2, 3], ["1e-4", "5e-5 (edge)"])
    assert record["arms"][0]["points"]["mean"] == pytest.approx(10)
    assert "40.2 > 30.2, at 1e-4 > 5e-5 (edge)" in joined(report(*against))
    (line,) = [one for one in csv.DictReader(io.StringIO(report(*against, "--format", "csv"))) if one["chosen"]]
    assert (line["baseline_chosen"], line["chosen"]) == ("1e-4", "5e-5 (edge)")
    compared = joined(report("--compare"))
    assert "minilm none full: train.lr digits 1e-4 - minilm otdd full: train.lr digits 5e-5 (edge)" in compared
    assert all(text.startswith(start) for text in (record["rates"], report(*against), compared))
    for form in ("md", "latex", "html"):
        assert start in report("--format", form), form
    assert main(["report", str(tmp_path), "--compare"]) == 0
    assert not capsys.readouterr().out.startswith("each")


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_value_that_failed_or_is_missing_on_the_seed_is_left_out_and_said(tmp_path, report, is_missing):
    """With 2e-4 the run of seed 0 diverged; of 1e-3 there is another seed only; the seed that most values have chooses."""
    for rate, validation in (("5e-5", 0.3), ("1e-4", 0.2)):
        for seed in (0, 1):
            add(tmp_path, "otdd", rate, seed, value=0.4, validation=validation)
    add(tmp_path, "otdd", "2e-4", 0, value=None, state="failed")
    if is_missing:
        add(tmp_path, "otdd", "1e-3", 2, value=0.01)
    text = joined(report())
    assert "at 1e-4 (edge)" in text
    lacking = "2e-4, 1e-3 (seed 0)" if is_missing else "2e-4 (seed 0)"
    assert "left out of the choice, since no run of the seed has a validation error" in text
    assert f"digits minilm otdd full {lacking}" in text


def test_the_lowest_seed_that_all_values_have_chooses(tmp_path, report):
    for rate, seeds in (("1e-4", (0, 1, 2)), ("2e-4", (1, 2)), ("4e-4", (1, 2))):
        for seed in seeds:
            add(
                tmp_path, "otdd", rate, seed, value=0.4, validation=0.1 if rate == "2e-4" else 0.0 if seed != 1 else 0.2
            )
    cell = cells(report("--json"))["otdd"]
    assert (cell["chosen"], [one["seed"] for one in cell["values"]]) == ("2e-4", [2])


def test_the_test_split_never_chooses(tmp_path, report):
    """protocol=release validates on the test split, and a refit validates on nothing."""
    fill(tmp_path)
    for rate, on in (("4e-4", "test"), ("8e-4", "nothing")):
        for seed in (0, 1):
            path = add(tmp_path, "otdd", rate, seed, value=0.0, on=on)
            record = json.loads((path / "result.json").read_text())
            record |= {"validation_error": None} if on == "nothing" else {}
            (path / "result.json").write_text(json.dumps(record))
    text = joined(report("--metric", "otdd"))
    assert "at 5e-5 (edge)" in text
    assert "CHOSEN ON TEST" not in text
    assert "digits minilm otdd full 8e-4 (seed 0)" in text  # left out, with a note
    assert "digits minilm otdd full 4e-4 (seed 0)" in text


def test_folds_choose_for_the_arm_without_and_few_samples_are_said(tmp_path, report):
    """Five validation samples say 5e-5, folds over all training samples say 1e-4."""
    fill(tmp_path, n=5)
    text = joined(report("--metric", "otdd"))
    assert "at 5e-5 (edge)" in text
    assert "chosen by fewer than 50 validation samples" in text
    assert "digits minilm otdd full (5)" in text
    for rate, validation in zip(RATES, (0.3, 0.2, 0.25), strict=True):
        add(tmp_path, "otdd", rate, 0, value=0.9, validation=validation, on="folds", n=45, folds="5")
    add(tmp_path, "otdd", "1e-4", 1, value=0.9, on="folds", n=45, folds="5")  # does not judge
    cell = cells(report("--metric", "otdd", "--json"))["otdd"]
    assert (cell["chosen"], cell["mean"]) == ("1e-4", pytest.approx(0.282))


def test_a_rate_that_is_an_axis_of_a_study(tmp_path, report):
    members = []
    for arm, metric in (("naive", "none"), ("orca", "otdd")):
        for rate, validation, test in zip(RATES, VALIDATION[metric], TEST[metric], strict=True):
            for seed in range(3):
                identity = f"{arm}-{rate}-{seed}"
                labels = {"set": "digits", "arm": arm, "train.lr": rate, "seed": str(seed)}
                add(tmp_path, metric, rate, seed, value=test, validation=validation, identity=identity)
                members.append(studies.Member(identity, labels))
    studies.add(tmp_path, "rates", members)
    text = joined(report("--study", "rates", "--against", "arm=naive"))
    assert "40.0 > 30.0, at 1e-4 > 5e-5 (edge)" in text
    assert "orca: undecided, +10.0 points" in text
    # A command for more seeds covers the chosen rates only; the choosing seed has already run.
    assert "study=rates set=digits arm=naive,orca train.lr=1e-4,5e-5 seed=3,4,5,6 paths" in text


def test_a_comparison_at_one_rate_says_so(tmp_path, capsys):
    for name, rates in (("one", {"none": 0.0005, "otdd": 0.0005}), ("two", {"none": 0.0005, "otdd": 0.001})):
        for metric, rate in rates.items():
            (add_run(tmp_path / name, metric=metric) / "config.yaml").write_text(f"train:\n  lr: {rate}\n")
    for words in (["--against", "metric=none"], ["--compare"]):
        assert main(["report", str(tmp_path / "one"), *words]) == 0
        assert capsys.readouterr().out.startswith("one rate for all arms: train.lr=0.0005\n")
        assert main(["report", str(tmp_path / "two"), *words]) == 0
        assert capsys.readouterr().out.startswith("arms at different rates, not chosen on validation")
    assert main(["report", str(tmp_path / "one")]) == 0
    assert "one rate" not in capsys.readouterr().out
