"""Facts that compared runs share (data, length, program), unless a setting that differs decides them."""

import json

import pytest

from orca_cli.exceptions import DataError
from orca_cli.report.collect import collect
from orca_cli.report.layout import notes_of
from orca_cli.report.paired import compare
from orca_cli.report.ranks import rank
from orca_cli.report.selection import select_study
from orca_cli.report.table import build_table
from orca_cli.runs import studies
from tests.commands.called import read_json, read_text, refused
from tests.report.trees import add_run, compared, csv_lines, report, table_of

AGAINST = ("--against", "metric=none")
OURS, OTHERS = "a" * 64, "b" * 64


def record(
    train=OURS, val=OURS, test=OURS, learned=80, steps=400, members=1, program=OURS, **fields
):
    """Return fields of a result record that describe how a run was made: its data, length and program."""
    digests = {"train": train, "val": val, "test": test}
    return {
        "splits": {name: {"n": 80, "sha256": digest} for name, digest in digests.items()},
        "selected": {"sha256": val, "learned": learned, "members": members, "n": 100},
        "curves": {"finetune": [{"epoch": 1, "step": 9}, {"epoch": 2, "step": steps}]},
        "program": {"version": "0.1.0", "commit": None, "sha256": program},
        **fields,
    }


CHANGES = [
    ("training data", {"train": OTHERS}),
    ("validation data", {"val": OTHERS}),
    ("samples learned", {"learned": 100}),
    ("steps", {"steps": 800}),
    ("members", {"members": 2}),
    ("program", {"program": OTHERS}),
    ("program", {"program": None}),
    ("program", {"inexact": ["threads", "program"]}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_pair_that_differs_in_more_is_left_out(tmp_path, name, change):
    for seed in (0, 1, 2):
        add_run(tmp_path, metric="none", seed=seed, value=0.5, **record())
        add_run(tmp_path, seed=seed, value=0.4, **record(**change if seed == 1 else {}))
    comparison = compared(tmp_path)
    assert [block.seeds for block in comparison.blocks] == [(0, 2)]
    (pair,) = comparison.left_out
    assert (pair.arm, pair.seed, pair.differs) == ("otdd", 1, [name])
    assert comparison.unpaired == 0


def test_runs_that_record_no_program_are_of_one(tmp_path):
    for metric in ("none", "otdd"):
        add_run(tmp_path, metric=metric, **record(program=None))
    assert compared(tmp_path).programs == ["unknown"]


# The setting that is compared, the facts that differ with it, and the facts that no pair may differ in.
SET = [
    ("train.epochs", {"steps": 800}, []),
    ("train.batch_size", {"steps": 800}, []),
    ("budget", {"steps": 800, "members": 2}, []),
    ("train.members", {"members": 2}, []),
    ("train.members", {"steps": 800}, ["steps"]),
    ("train.refit", {"learned": 100, "steps": 500}, []),
    ("task.train_fraction", {"train": OTHERS, "learned": 8, "steps": 4, "members": 2}, []),
    ("task.gaps", {"test": OTHERS, "val": OTHERS}, []),
    ("task.gaps", {"program": OTHERS}, ["program"]),
    ("train.lr", {"steps": 800}, ["steps"]),
    ("embedder", {"members": 2}, ["members"]),
    ("align.epochs", {"train": OTHERS, "steps": 800}, ["training data", "steps"]),
]


@pytest.mark.parametrize(("axis", "change", "differs"), SET)
def test_an_axis_may_set_what_pairs_have_in_common(tmp_path, axis, change, differs):
    add_run(tmp_path, value=0.5, variant={axis: "1"}, **record())
    add_run(tmp_path, value=0.4, variant={axis: "2"}, **record(**change))
    if differs:
        with pytest.raises(DataError, match=f"digits, 2: {' and '.join(differs)} .seed 0"):
            compared(tmp_path, f"{axis}=1")
    else:
        assert [block.seeds for block in compared(tmp_path, f"{axis}=1").blocks] == [(0,)]


def test_an_arm_of_a_study_may_set_what_its_choice_types(tmp_path):
    """The arm quick sets the budget; the arm none does not, and still has fewer steps."""
    typed = {"default": {}, "quick": {"budget": "quick"}, "none": {}}
    for arm, variant in typed.items():
        steps = 400 if arm == "default" else 100
        add_run(tmp_path, identity=arm, variant=variant, **record(steps=steps))
        labels = {"set": "digits", "arm": arm, "seed": "0"}
        studies.add(tmp_path, "small", [studies.Member(identity=arm, labels=labels)])
    table = build_table(select_study(collect([tmp_path]), [tmp_path], "small"))
    comparison = compare(table, "arm", "default")
    assert [block.arm for block in comparison.blocks] == ["quick"]
    assert [(pair.arm, pair.differs) for pair in comparison.left_out] == [("none", ["steps"])]


@pytest.fixture(scope="module")
def three_left_out(tmp_path_factory):
    """Return runs of four pairs, three of which differ in more than the metric."""
    root = tmp_path_factory.mktemp("left out")
    for seed, change in enumerate(({}, {"train": OTHERS}, {"train": OTHERS}, {"program": None})):
        add_run(root, metric="none", seed=seed, value=0.5, **record())
        add_run(root, seed=seed, value=0.4, **record(**change))
    return root


@pytest.mark.parametrize("form", ["table", "md", "latex", "html"])
def test_what_was_left_out_is_named_in_formats_for_people(three_left_out, form):
    text = (
        "left out: 3 pairs whose runs differ in more than metric: "
        "digits, otdd: training data (seed 1,2); digits, otdd: program (seed 3)"
    )
    assert text in report(three_left_out, *AGAINST, "--format", form)


def test_what_was_left_out_is_in_records(three_left_out):
    left_out = read_json("report", three_left_out, *AGAINST)["left_out"]
    assert [(pair["seeds"], pair["differs"]) for pair in left_out] == [
        ([1], ["training data"]),
        ([2], ["training data"]),
        ([3], ["program"]),
    ]
    lines = csv_lines(read_text("report", three_left_out, *AGAINST, "--format", "csv"))
    assert [(line["seeds"], line["differs"]) for line in lines[2:]] == [
        ("1", "training data"),
        ("2", "training data"),
        ("3", "program"),
    ]


def test_an_error_says_why_no_pair_is_left(tmp_path):
    add_run(tmp_path, metric="none", **record())
    add_run(tmp_path, **record(train=OTHERS))
    error = refused(11, "report", tmp_path, *AGAINST)
    assert (
        "no pair is left: 1 pair whose runs differ in more than metric: digits, otdd: training"
        in error
    )
    assert "run both arms on the same data" in error


@pytest.fixture
def two_programs(tmp_path):
    """Six seeds of two methods, the arm's by another program than the baseline's."""
    for seed in range(6):
        add_run(tmp_path, metric="none", seed=seed, value=0.5 + seed / 100, **record())
        add_run(tmp_path, seed=seed, value=0.4, **record(program=None))
    return tmp_path


def test_any_program_compares_runs_of_several_and_says_so(two_programs):
    first = "runs of several program versions are compared (--any-program): aaaaaaaa, unknown"
    assert "also pairs runs of different" in refused(11, "report", two_programs, *AGAINST)
    assert report(two_programs, *AGAINST, "--any-program").startswith(first)
    record = read_json("report", two_programs, *AGAINST, "--any-program")
    assert (record["arms"][0]["pairs"], record["left_out"]) == (6, [])
    assert "nothing to compare" in report(two_programs, "--compare")
    assert report(two_programs, "--compare", "--any-program").startswith(first)
    assert read_json("report", two_programs, "--compare", "--any-program")["tasks"] == ["digits"]


def test_runs_that_are_not_alike_earn_no_mark_and_no_rank(two_programs):
    table = table_of(two_programs)
    assert not any(row.cells[0].earned for row in table.rows)
    (note,) = [note for note in notes_of(table) if "methods differ" in note]
    assert note.startswith("digits: methods differ in program, and no setting explains why")
    assert rank(table).holes == {"digits": ["methods differ in program"]}
    rows = read_json("report", two_programs, "--any-program")["rows"]
    assert [row["metric"] for row in rows if row["cells"][0]["earned"]] == ["otdd"]


def test_a_mean_over_runs_that_are_not_alike_is_noted(tmp_path):
    for seed in range(4):
        fields = record(program=OURS if seed < 2 else OTHERS, train=OTHERS if seed == 3 else OURS)
        add_run(tmp_path, seed=seed, **fields)
    notes = " ".join(notes_of(table_of(tmp_path)))
    mean = "minilm otdd full is a mean over runs that differ in"
    assert f"{mean} program: aaaaaaaa (seed 0,1), bbbbbbbb (seed 2,3)" in notes
    assert f"{mean} training data: aaaaaaaa (seed 0,1,2), bbbbbbbb (seed 3)" in notes
    assert "methods differ" not in notes


@pytest.mark.parametrize("name", ["validation samples", "program"])
def test_only_errors_on_equal_validation_samples_choose(tmp_path, name):
    """The lowest validation error was measured on other samples, or by another version, than the other errors."""
    change = {"val": OTHERS} if name == "validation samples" else {"program": OTHERS}
    for rate, error in (("1e-3", 0.1), ("1e-4", 0.4), ("2e-4", 0.3), ("5e-4", 0.5)):
        for seed in (0, 1):
            fields = record(**change if rate == "1e-3" else {}, validation_error=error)
            add_run(tmp_path, seed=seed, variant={"train.lr": rate}, **fields)
    words = ("report", tmp_path, "--choose", "train.lr")
    (row,) = read_json(*words)["rows"]
    assert row["cells"][0]["chosen"] == "0.0002"
    reason = "values left out of the choice, since their runs differ from the arm's other runs in more than train.lr"
    assert f"{reason}: digits minilm otdd full 0.001 ({name})" in report(*words[1:])
    assert "--any-program" not in report(*words[1:])
    if name == "program":
        (row,) = read_json(*words, "--any-program")["rows"]
        assert row["cells"][0]["chosen"] == "0.001 (edge)"


def test_of_equally_many_values_the_newest_choose(tmp_path):
    for rate, train in (("1e-4", OURS), ("2e-4", OURS), ("5e-4", OTHERS), ("1e-3", OTHERS)):
        for seed in (0, 1):
            fields = record(train=train, validation_error=float(rate))
            add_run(tmp_path, seed=seed, variant={"train.lr": rate}, **fields)
    (row,) = read_json("report", tmp_path, "--choose", "train.lr")["rows"]
    assert row["cells"][0]["chosen"] == "0.0005 (edge)"


def test_runs_of_a_program_are_found_by_its_name(two_programs):
    rows = json.loads(read_text("report", two_programs, "--where", "program=unknown", "--json"))
    assert [row["metric"] for row in rows["rows"]] == ["otdd"]
    assert "no run has program=12345678" in refused(
        11, "report", two_programs, "--where", "program=12345678"
    )
