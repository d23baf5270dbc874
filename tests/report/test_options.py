"""`--choose`, each arm at its own rate; `--baselines`, results of others; senseless options."""

import functools
import json
from pathlib import Path

import pytest

import orca_cli
from orca_cli.exceptions import DataError
from orca_cli.report.formats import Page
from orca_cli.report.layout import layout_of
from orca_cli.report.published import with_published
from tests.commands.called import read_text, refused
from tests.report.trees import RELATIVE, add_arms, add_run, csv_lines, report, table_of

AGAINST = ["--against", "metric=none"]
RATES = ("5e-5", "1e-4", "2e-4")
# Validation errors of seed 0 by rate. Its test errors are reversed, so that choosing by them would
# give another rate.
VALIDATION = {"none": (0.30, 0.20, 0.25), "otdd": (0.10, 0.15, 0.20)}
# Test errors of the other seeds by rate.
TEST = {"none": (0.55, 0.40, 0.35), "otdd": (0.30, 0.28, 0.26)}


def add_rated(
    root, task, metric, rate, seed, value, validation=None, on="validation", n=100, **fields
):
    variant = {"train.lr": rate}
    measured = {
        "validation_error": value if validation is None else validation,
        "selected": {"on": on, "n": n},
    }
    add_run(
        root, task=task, metric=metric, seed=seed, value=value, variant=variant, **measured | fields
    )


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Return runs of four tasks at several rates."""
    root = tmp_path_factory.mktemp("rated")
    add = functools.partial(add_rated, root)
    for task, n in (("plain", 100), ("tested", 100), ("few", 5)):
        for metric, errors in VALIDATION.items():
            for rate, validation, test in zip(RATES, errors, TEST[metric], strict=True):
                add(task, metric, rate, 0, 0.5 - validation, validation, n=n)
                for seed in (1, 2, 3):
                    add(task, metric, rate, seed, test + seed / 1000, 0.5 - validation, n=n)
    # Of equal errors the middle value counts; no other seed is left to test it.
    for rate in RATES:
        add("plain", "mmd", rate, 0, 0.1)
    # protocol=release validates on the test split, and a refit is not validated.
    for seed in (0, 1):
        add("tested", "otdd", "4e-4", seed, 0.0, on="test")
        add("tested", "otdd", "8e-4", seed, 0.0, on="nothing", validation_error=None)
    for rate, validation in (("5e-5", 0.3), ("1e-4", 0.2)):
        for seed in (0, 1):
            add("sparse", "otdd", rate, seed, 0.4, validation)
    add("sparse", "otdd", "2e-4", 0, None, state="failed")
    add("sparse", "otdd", "1e-3", 2, 0.01)
    # Most values were run with seed 1, which has its lowest validation error at 2e-4.
    for rate, by_seed in (
        ("1e-4", {0: 0.0, 1: 0.2, 2: 0.0}),
        ("2e-4", {1: 0.1, 2: 0.1}),
        ("4e-4", {1: 0.2, 2: 0.0}),
    ):
        for seed, validation in by_seed.items():
            add("sparse", "mmd", rate, seed, 0.4, validation)
    return root


@pytest.fixture(scope="module")
def chosen_cells(rated):
    """Return the cells with values of the report, by task and metric."""
    cells = {}
    for row in json.loads(report(rated, "--choose", "train.lr", "--json"))["rows"]:
        for cell in row["cells"]:
            if cell["values"]:
                cells[cell["task"], row["metric"]] = cell
    return cells


CHOSEN = {  # task and metric -> value, mean error of the other seeds, and these seeds
    ("plain", "none"): ("0.0001", 0.402, [1, 2, 3]),
    ("tested", "none"): ("0.0001", 0.402, [1, 2, 3]),
    ("few", "none"): ("0.0001", 0.402, [1, 2, 3]),
    ("plain", "otdd"): ("5e-05 (edge)", 0.302, [1, 2, 3]),
    ("tested", "otdd"): ("5e-05 (edge)", 0.302, [1, 2, 3]),
    ("few", "otdd"): ("5e-05 (edge)", 0.302, [1, 2, 3]),
    ("sparse", "otdd"): ("0.0001 (edge)", 0.4, [1]),
    ("sparse", "mmd"): ("0.0002", 0.4, [2]),
}


def test_nothing_else_is_chosen(chosen_cells):
    assert chosen_cells.keys() == CHOSEN.keys()


@pytest.mark.parametrize("arm", CHOSEN, ids=" ".join)
def test_validation_on_one_seed_chooses_and_the_others_judge(chosen_cells, arm):
    value, mean, seeds = CHOSEN[arm]
    cell = chosen_cells[arm]
    assert (cell["chosen"], cell["mean"]) == (value, pytest.approx(mean))
    assert [run["seed"] for run in cell["values"]] == seeds


def test_the_first_line_says_how_rates_were_chosen(rated):
    text = report(rated, "--choose", "train.lr")
    assert text.startswith(
        "each arm at its own train.lr, chosen by validation error on seed 0,1; arms are compared on the other seeds "
    )
    assert "CHOSEN ON TEST" not in text


LIMITS = {  # start of a note -> arms that it names
    "(edge): the chosen value is the lowest or the highest that was run; values beyond it may be better": [
        "few minilm otdd full 5e-05",
        "plain minilm otdd full 5e-05",
        "sparse minilm otdd full 0.0001",
    ],
    "chosen on fewer than 50 validation samples": ["few minilm none full (5)"],
    "not compared, since no other seed was run with the chosen value": [
        "plain minilm mmd full 0.0001"
    ],
}


@pytest.mark.parametrize("start", LIMITS)
def test_notes_say_what_limits_the_choice(rated, start):
    text = report(rated, "--choose", "train.lr")
    (note,) = [note for note in text.split(" - ") if note.startswith(start)]
    assert [arm for arm in LIMITS[start] if arm not in note] == []
    assert "plain minilm none full" not in note


def test_comparisons_are_of_what_was_chosen(rated):
    def chosen(*words):
        return report(rated, "--where", "task=plain", "--choose", "train.lr", *words)

    record = json.loads(chosen(*AGAINST, "--json"))
    (pair,) = record["sets"]
    assert (pair["seeds"], pair["chosen"]) == ([1, 2, 3], ["0.0001", "5e-05 (edge)"])
    assert record["arms"][0]["gain"]["mean"] == pytest.approx(10)
    text = chosen(*AGAINST)
    assert "40.2 > 30.2, at 0.0001 > 5e-05 (edge)" in text
    for shown in (record["rates"], text, chosen("--compare")):
        assert shown.startswith("each arm at its own train.lr")


@pytest.mark.parametrize("form", ["md", "latex", "html"])
def test_files_say_how_rates_were_chosen(rated, form):
    text = report(rated, "--where", "task=plain", "--choose", "train.lr", "--format", form)
    assert "each arm at its own train.lr" in text


SHIPPED = Path(orca_cli.__file__).parents[1] / "docs" / "published.csv"
COLUMNS = "task,method,error,source"


@pytest.fixture
def shown(tmp_path):
    """Return the table of two tasks, one generated, with the results of a csv file."""
    add_arms(tmp_path / "runs", arms={"otdd": 0.126, "none": 0.2})
    add_run(
        tmp_path / "runs", task="darcy", value=0.5, error=RELATIVE, synthetic=True, size="small"
    )

    def with_others(text):
        (tmp_path / "others.csv").write_text(text)
        return with_published(table_of(tmp_path / "runs"), tmp_path / "others.csv")

    return with_others


def test_others_are_in_tables_and_records_above_the_trivial(shown):
    lines = "digits,forest,0.05,p. 3\ndarcy,forest,0.008,p. 3\necg,CNN,0.28,p. 2\n"
    table = shown(f"{COLUMNS}\n{lines}")
    *_, (names, entries), trivial = layout_of(table).rows
    assert (names[0], trivial[0][0], [entry.main for entry in entries]) == (
        "forest [1]",
        "trivial",
        ["0.008", "5.0"],
    )
    assert [entry.rest for entry in entries] == ["on real data (our runs use synthetic data)", ""]
    assert not any(entry.best for entry in entries)
    lines = csv_lines(Page(table).text("csv"))
    assert [line["low"] for line in lines if line["row"] == "forest [1]"] == ["0.008", "0.05"]
    references = json.loads(Page(table).text("json"))["references"]["forest [1]"]
    assert [reference["low"] for reference in references] == [0.008, 0.05]


@pytest.mark.parametrize("form", ["md", "latex", "table"])
def test_formats_for_people_say_where_others_report(shown, form):
    table = shown(f"{COLUMNS}\ndigits,forest,0.05,p. 3\n")
    assert "reported by others, under their own conditions: p. 3" in Page(table).text(form)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("digits,m,12 %,s", "line 2.*to float: '12 %'.*0.1939"),
        ("digits,m,0.1,", "a field is empty"),
        ("digits,m,inf,s", "a field is empty, or the error 'inf' is not finite"),
        ("digits,m,19.39,s", "got 19.39.*0.1939"),
        (
            "digit,m,0.1,s",
            r"none of the file's tasks \(digit\) is in the report.*did you mean 'digits'",
        ),
    ],
)
def test_what_is_wrong_is_reported_with_its_place(shown, line, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        shown(f"{COLUMNS}\n{line}\n")


def test_the_shipped_results_name_tasks_that_exist(tmp_path):
    for task in {line["task"] for line in csv_lines(SHIPPED.read_text())}:
        assert (SHIPPED.parents[1] / "conf" / "task" / f"{task}.yaml").is_file()
    add_run(tmp_path, task="ninapro")
    out = read_text("report", tmp_path, "--baselines", SHIPPED)
    assert "einspace [2]" in out
    assert "6.4" in out  # as many decimals as its own errors have


@pytest.fixture
def tree(tmp_path):
    add_arms(tmp_path / "runs")
    for rate, metric in (("1e-3", "none"), ("1e-4", "otdd")):
        add_run(tmp_path / "unlike", metric=metric, variant={"train.lr": rate})
        add_run(tmp_path / "rates", variant={"train.lr": rate})
    (tmp_path / "others.csv").write_text("task,method,error,source\nnowhere,forest,0.05,notes\n")
    return tmp_path


REFUSALS = [
    (["--against", "metric"], 2, "--against: 'metric' is not KEY=VALUE"),
    (
        [*AGAINST, "--compare"],
        2,
        "--against, --compare, --baselines: cannot be combined with each other",
    ),
    (["--where", "task=digit"], 11, "--where: no run has task=digit; did you mean 'digits'?"),
    (["--where", "nonsense=1"], 11, "use a setting that the runs have"),
    (
        ["--baselines", "others.csv"],
        11,
        "others.csv: none of the file's tasks (nowhere) is in the report",
    ),
    (
        ["--against", "metric=otd"],
        11,
        "--against: no completed run has metric=otd; did you mean 'otdd'?",
    ),
    (
        ["unlike", *AGAINST],
        11,
        "differ only in 'metric'; run the same tasks and seeds with metric=none",
    ),
    (
        ["--choose", "train.lr", "--against", "train.lr=1e-3"],
        2,
        "--against: cannot compare by train.lr",
    ),
    (
        ["rates", "--choose", "train.lr"],
        11,
        "no other seed was run with the value of train.lr that was chosen by validation error on seed 0",
    ),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSALS)
def test_what_makes_no_sense_is_refused(tree, monkeypatch, words, code, message):
    monkeypatch.chdir(tree)
    folders = [] if (tree / words[0]).is_dir() else ["runs"]
    assert message in refused(code, "report", *folders, *words)


ONE_RATE = "all arms on a data set have the same learning rate "
SEVERAL_RATES = "the arms have different learning rates, which were not chosen on validation data; "
RATES_BY_TASK = [  # task -> rates of none and otdd; the first line of a comparison
    ({"a": (1, 1)}, ONE_RATE),
    ({"a": (1, 1), "b": (2, 2)}, ONE_RATE),
    ({"a": (1, 2)}, SEVERAL_RATES),
]


@pytest.mark.parametrize("option", [AGAINST, ["--compare"]], ids=lambda option: option[0])
@pytest.mark.parametrize(("rates_by_task", "start"), RATES_BY_TASK)
def test_a_comparison_says_whether_its_arms_had_one_rate(tmp_path, rates_by_task, start, option):
    for task, rates in rates_by_task.items():
        for metric, rate in zip(("none", "otdd"), rates, strict=True):
            path = add_run(tmp_path, task=task, metric=metric)
            (path / "config.yaml").write_text(f"train:\n  lr: {rate}\n")
    assert report(tmp_path, *option).startswith(start)


def test_the_first_of_several_unknown_tasks_gets_a_suggestion(shown):
    with pytest.raises(DataError, match=r"\(digit, zoo\).*did you mean 'digits'"):
        shown(f"{COLUMNS}\nzoo,m,0.1,s\ndigit,m,0.1,s\n")
