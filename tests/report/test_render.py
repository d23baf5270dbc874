"""The formats: their content, that it can be read back, and that names from the disk stay names."""

import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orca_cli.report.formats import FORMATS, Page
from orca_cli.report.layout import clean, decimals_of
from orca_cli.report.table import Cell, Column, Method, Row, Table
from tests.properties import examples
from tests.report.trees import HOSTILE, RELATIVE, add_arms, add_run, csv_lines, hostile, table_of


@pytest.fixture
def table(tmp_path):
    add_arms(tmp_path, arms={"otdd": [0.118, 0.126, 0.134], "none": 0.2})
    add_run(tmp_path, seed=3, state="failed")
    add_run(tmp_path, task="darcy", value=0.5, error=RELATIVE, synthetic=True, size="small")
    return table_of(tmp_path)


def markdown_cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def printed(table, width, **console):
    shown = Console(file=io.StringIO(), width=width, **console)
    for thing in Page(table).renderables(width):
        shown.print(thing)
    return shown.file.getvalue()


def test_text_formats_show_means_with_n_and_what_failed(table):
    text = Page(table).text("md")
    rows = [markdown_cells(line) for line in text.splitlines() if line.startswith("|")]
    columns = ["darcy<br>relative_l2<br>synthetic, small", "digits<br>zero_one, %"]
    assert rows[0] == ["body", "metric", "finetune", *columns]
    assert rows[2] == ["minilm", "none", "full", "-", "20.0 \u00b1 - (1)"]
    assert rows[3] == [
        "minilm",
        "otdd",
        "full",
        "0.500 \u00b1 - (1)",
        "12.6 \u00b1 0.8 (3) +1 failed",
    ]
    assert rows[4] == ["trivial", "", "", "0.900", "90.0"]
    assert "NonFiniteError: the loss became NaN" in text
    text = Page(table).text("latex")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    assert r"12.6 $\pm$ 0.8 (3) +1 failed" in text


@pytest.mark.parametrize(
    ("form", "text"),
    [("md", "**\\* 10.7"), ("latex", r"\textbf{{*} 10.7"), ("table", "* 10.7")],
)
def test_an_error_that_is_shown_to_be_best_is_bold_with_a_star(tmp_path, form, text):
    errors = [0.1 + seed / 1000 for seed in range(4, 10)]
    add_arms(tmp_path, arms={"otdd": errors, "none": 0.2}, seeds=range(6))
    assert text in Page(table_of(tmp_path)).text(form)


def test_csv_and_json_have_raw_numbers(table):
    rows = csv_lines(Page(table).text("csv"))
    assert len(rows) == 6  # two rows for the best constant
    (row,) = [row for row in rows if row["task"] == "digits" and row["metric"] == "otdd"]
    assert (float(row["mean"]), float(row["standard_deviation"])) == pytest.approx((0.126, 0.008))
    assert (row["n"], row["seeds"], row["missing.failed"]) == ("3", "0,1,2", "1")
    assert (row["best"], row["percent"]) == ("true", "true")
    record = json.loads(Page(table).text("json"))
    cell = record["rows"][1]["cells"][1]
    errors = {run["seed"]: run["value"] for run in cell["values"]}
    assert errors == {0: 0.118, 1: 0.126, 2: 0.134}
    assert cell["missing"] == {"failed": 1}
    column = {
        "task": "darcy",
        "protocol": "clean",
        "error_name": "relative_l2",
        "percent": False,
        "synthetic": True,
        "size": "small",
    }
    assert column.items() <= record["columns"][0].items()
    assert record["references"] == {"trivial": [{"low": 0.9, "high": 0.9, "words": ""}] * 2}


@pytest.mark.parametrize("width", [72, 140])
def test_the_terminal_shows_every_cell_whole_within_its_width(tmp_path, width):
    for task in ("darcy", "deepsea", "digits", "ecg", "listops", "ninapro", "satellite"):
        add_arms(tmp_path, task=task, arms={"none": [0.1, 0.11], "otdd_gaussian": [0.2, 0.21]})
    text = printed(table_of(tmp_path), width, color_system=None)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("10.5 \u00b1 0.7 (2)") == text.count("20.5 \u00b1 0.7 (2)") == 7


def test_hostile_names_stay_names(tmp_path):
    """Control characters and formulas: tests/reliability/test_output.py."""
    page = Page(hostile(tmp_path))
    lines = [line for line in page.text("md").splitlines() if line.startswith("|")]
    assert {len(markdown_cells(line)) for line in lines} == {4}
    rows = [line for line in page.text("latex").splitlines() if not line.startswith("%")]
    assert [line for line in rows if r"\end{tabular}" in line] == [r"\end{tabular}"]
    assert {row["body"] for row in json.loads(page.text("json"))["rows"]} == {HOSTILE}


@given(st.text(alphabet=st.characters(codec="utf-8")) | st.text())
@examples(30)
def test_any_text_is_one_printable_line(text):
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert not {unicodedata.category(char) for char in cleaned} & {"Cc", "Cf", "Cs"}
    assert cleaned.encode() or not text


@given(st.text(alphabet=st.characters(codec="utf-8")) | st.text())
@examples(30)
def test_any_text_in_latex_has_no_bare_specials(text):
    column = Column(task=text, protocol="clean", error_name="e")
    method = Method(body="b", source="s", metric="m", finetune="f")
    row = Row(method=method, cells=[Cell()])
    table = Table(columns=[column], rows=[row], unfinished=[], superseded=[], broken=[])
    lines = Page(table).text("latex").splitlines()
    name = lines[lines.index(r"\toprule") + 1].rpartition(" & ")[2].removesuffix(r" \\")
    bare = re.sub(r"\\(text[a-z]+\{\}|[{}$&#_%])|\{[\[\]*]\}|\$\\pm\$", "", name)
    assert not set(bare) & set("\\{}$&#_%^~[]*")


@pytest.mark.parametrize(
    ("means", "decimals"),
    [
        ([12.6, 20.0], 1),
        ([6.53, 99.0], 2),
        ([0.0123], 4),
        ([0.0], 2),
        ([], 2),
        ([5e-5], None),
        ([3e6], None),
        ([123.4], 0),
    ],
)
def test_decimals_give_the_smallest_mean_three_digits(means, decimals):
    assert decimals_of(means) == decimals


@pytest.mark.parametrize("has_failed", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_failures_and_broken_folders_alone_still_render(tmp_path, form, has_failed):
    (tmp_path / "digits" / "2026-01-01_00-00-00.000000_x").mkdir(parents=True)
    if has_failed:
        add_run(tmp_path, state="failed")
    text = Page(table_of(tmp_path)).text(form)
    # On a terminal they are counted; orca runs list says why.
    reason = "1 broken" if form == "table" else "no status.json"
    assert form == "csv" or reason in text
    assert ("failed" in text) == has_failed


CHOSEN = "The model weights for digits (release) were chosen on the test split"
MARKS = [
    ("md", "CHOSEN ON TEST"),
    ("md", f"**{CHOSEN}"),
    ("latex", "CHOSEN ON TEST"),
    ("latex", rf"\textbf{{{CHOSEN}"),
    ("csv", "method,digits,release,zero_one,true,false,true,"),
]


@pytest.fixture
def chosen_on_test(tmp_path):
    for protocol, on in (("release", "test"), ("clean", "validation")):
        add_run(tmp_path, protocol=protocol, selected={"by": "best", "epoch": 3, "on": on})
    return table_of(tmp_path)


@pytest.mark.parametrize(("form", "mark"), MARKS)
def test_errors_that_the_test_split_chose_are_marked(chosen_on_test, form, mark):
    assert Page(chosen_on_test).text(form).count(mark) == 1


def test_errors_that_the_test_split_chose_are_red(chosen_on_test):
    text = printed(chosen_on_test, 100, color_system="standard", force_terminal=True)
    assert "\x1b[1;31mCHOSEN ON TEST" in text
    assert f"\x1b[1;31m{CHOSEN}" in text
