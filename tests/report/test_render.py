"""The formats: what is shown, that it can be read back, and that names from the disk stay names."""

import csv
import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orca_cli.report.records.collect import collect
from orca_cli.report.rendering.console import CSV_COLUMNS, FORMATS, Page
from orca_cli.report.tables.layout import decimals_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Cell, Column, Method, Row, Table, build_table
from tests.report.trees import add_run

HOSTILE = "=cmd()|[/red]x[/blue]\x1b[31m\n\u202e\\end{tabular}<script>&_%$#^~{}`*"


def _table(root):
    return build_table(collect([root]))


@pytest.fixture
def table(tmp_path):
    for seed, value in enumerate((0.118, 0.126, 0.134)):
        add_run(tmp_path, seed=seed, value=value)
    add_run(tmp_path, seed=3, state="failed")
    add_run(tmp_path, metric="none", value=0.2)
    add_run(
        tmp_path, task="darcy", value=0.5, error={"percent": False, "name": "relative_l2"}, synthetic=True, size="small"
    )
    return _table(tmp_path)


@pytest.fixture
def hostile(tmp_path):
    names = {"task": "digits", "body": HOSTILE, "name": "2026-01-01_00-00-00.000000_x", "protocol": HOSTILE}
    add_run(tmp_path, **names, metric=HOSTILE, variant={HOSTILE: HOSTILE}, error={"name": HOSTILE})
    add_run(tmp_path, body="minilm", protocol=HOSTILE)
    path = add_run(tmp_path, body="minilm", seed=1, state="failed", protocol=HOSTILE)
    status = json.loads((path / "status.json").read_text())
    status["error"] = {"kind": "X", "message": HOSTILE}
    (path / "status.json").write_text(json.dumps(status))
    return _table(tmp_path)


def _markdown_cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _printed(table, width, **console):
    shown = Console(file=io.StringIO(), width=width, **console)
    for thing in Page(table).renderables(width):
        shown.print(thing)
    return shown.file.getvalue()


def test_markdown_shows_means_with_n_and_what_failed(table):
    lines = Page(table).text("md").splitlines()
    rows = [_markdown_cells(line) for line in lines if line.startswith("|")]
    columns = ["darcy<br>relative_l2<br>synthetic, small", "digits<br>zero_one, %"]
    assert rows[0] == ["body", "metric", "finetune", *columns]
    assert rows[2] == ["minilm", "none", "full", "-", "20.0 \u00b1 - (1)"]
    assert rows[3] == ["minilm", "otdd", "full", "0.500 \u00b1 - (1)", "12.6 \u00b1 0.8 (3) +1 failed"]
    assert rows[4] == ["trivial", "", "", "0.900", "90.0"]
    assert any("NonFiniteError: the loss became NaN" in line for line in lines)
    assert any("Protocol: clean." in line for line in lines)


@pytest.fixture
def earned(tmp_path):
    for seed in range(6):
        add_run(tmp_path, seed=seed, value=0.1 + seed / 1000)
        add_run(tmp_path, seed=seed, metric="none", value=0.2)
    return _table(tmp_path)


def test_what_is_shown_to_be_best_is_bold_with_a_star(earned):
    assert r"**\* 10.2 \u00b1 0.2 (6)**".replace(r"\u00b1", "\u00b1") in Page(earned).text("md")
    assert r"\textbf{{*} 10.2 $\pm$ 0.2 (6)}" in Page(earned).text("latex")
    assert "* 10.2 \u00b1 0.2 (6)" in Page(earned).text("table")
    assert "Bold and *: lower than every other method" in Page(earned).text("md").replace(r"\*", "*")
    rows = list(csv.DictReader(io.StringIO(Page(earned).text("csv"))))
    assert [(row["metric"], row["best"], row["earned"]) for row in rows] == [
        ("none", "false", "false"),
        ("otdd", "true", "true"),
    ]
    cells = [row["cells"][0] for row in json.loads(Page(earned).text("json"))["rows"]]
    assert [cell["earned"] for cell in cells] == [False, True]


def test_latex_is_a_booktabs_tabular(table):
    text = Page(table).text("latex")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    assert r"\begin{tabular}{lllrr}" in text
    assert r"12.6 $\pm$ 0.8 (3) +1 failed" in text
    assert r"zero\_one, \%" in text


def test_csv_and_json_have_raw_numbers(table):
    rows = list(csv.DictReader(io.StringIO(Page(table).text("csv"))))
    assert (len(rows), tuple(rows[0])) == (4, CSV_COLUMNS)
    (row,) = [row for row in rows if row["task"] == "digits" and row["metric"] == "otdd"]
    assert float(row["mean"]) == pytest.approx(0.126)
    assert float(row["standard_deviation"]) == pytest.approx(0.008)
    assert (row["n"], row["seeds"], row["best"], row["failed"], row["percent"]) == ("3", "0-2", "true", "1", "true")
    (empty,) = [row for row in rows if row["task"] == "darcy" and row["metric"] == "none"]
    assert (empty["mean"], empty["standard_deviation"], empty["n"]) == ("", "", "0")
    record = json.loads(Page(table).text("json"))
    assert record["schema"] == 1
    cell = record["rows"][1]["cells"][1]
    assert [(one["seed"], one["value"]) for one in cell["values"]] == list(enumerate((0.118, 0.126, 0.134)))
    assert cell["unfinished"] == {"failed": 1}
    column = {"task": "darcy", "protocol": "clean", "error_name": "relative_l2", "percent": False, "synthetic": True}
    assert (column | {"size": "small", "trivial": [0.9, 0.9], "baselines": {}}).items() <= record["columns"][0].items()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_terminal_shows_every_cell_whole_within_its_width(tmp_path, width):
    for task in ("darcy", "deepsea", "digits", "ecg", "listops", "ninapro", "satellite"):
        for place, metric in enumerate(("none", "otdd_gaussian")):
            for seed in range(2):
                add_run(tmp_path, task=task, metric=metric, seed=seed, value=0.1 + place / 10 + seed / 100)
    text = _printed(_table(tmp_path), width, color_system=None)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("10.5 \u00b1 0.7 (2)") == text.count("20.5 \u00b1 0.7 (2)") == 7


def test_hostile_names_stay_names(hostile):
    lines = [line for line in Page(hostile).text("md").splitlines() if line.startswith("|")]
    assert {len(_markdown_cells(line)) for line in lines} == {6}
    assert not any(re.search(r"(?<!\\)<(?!br>)", line) for line in lines)
    rows = [line for line in Page(hostile).text("latex").splitlines() if not line.startswith("%")]
    assert [line for line in rows if r"\end{tabular}" in line] == [r"\end{tabular}"]
    for row in csv.DictReader(io.StringIO(Page(hostile).text("csv"))):
        assert not any(field.startswith(("=", "+", "-", "@")) for field in row.values())
    assert "[/red]x[/blue]\\x1b" in Page(hostile).text("table")
    names = {row["body"] for row in json.loads(Page(hostile).text("json"))["rows"]}
    assert names == {HOSTILE, "minilm"}
    for form in FORMATS:  # nor do they move the cursor
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", Page(hostile).text(form)), form


@given(st.text())
def test_clean_text_is_one_printable_line(text):
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert not [
        char for char in cleaned if unicodedata.category(char)[0] == "C" and unicodedata.category(char) not in "Cn Co"
    ]
    assert cleaned.encode() or not text


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_latex_text_has_balanced_braces_and_no_bare_specials(text):
    column, row = Column(text, "clean", "e", False, False), Row(Method("b", "s", "m", "f"), [Cell()])
    lines = Page(Table([column], [row], [None], [], [], [], baselines=[{}])).text("latex").splitlines()
    name = lines[lines.index(r"\toprule") + 1].rpartition(" & ")[2].removesuffix(r" \\")
    bare = re.sub(r"\\(text[a-z]+\{\}|[{}$&#_%])|\{[\[\]*]\}|\$\\pm\$", "", name)
    assert not set(bare) & set("\\{}$&#_%^~[]*")


def test_decimals_give_the_smallest_mean_three_digits():
    cases = [([12.6, 20.0], 1), ([6.53, 99.0], 2), ([0.0123], 4), ([0.0], 2), ([], 2), ([5e-5], None), ([3e6], None)]
    for means, expected in [*cases, ([123.4], 0)]:
        assert decimals_of(means) == expected, means


def test_failures_and_broken_folders_alone_still_render(tmp_path):
    (tmp_path / "digits" / "2026-01-01_00-00-00.000000_x").mkdir(parents=True)
    for has_failed in (False, True):
        if has_failed:
            add_run(tmp_path, state="failed")
        for form in FORMATS:
            text = Page(_table(tmp_path)).text(form)
            assert text.startswith(",".join(CSV_COLUMNS)) if form == "csv" else "no status.json" in text
            assert ("failed" in text.removeprefix(",".join(CSV_COLUMNS))) == (has_failed and form != "csv")


def test_numbers_that_the_test_split_chose_are_red_in_every_table(tmp_path):
    for protocol, on in (("release", "test"), ("clean", "validation")):
        add_run(tmp_path, protocol=protocol, selected={"by": "best", "epoch": 3, "on": on})
    table = _table(tmp_path)
    for form, red in (
        ("md", '<span style="color:red">CHOSEN ON TEST</span>'),
        ("latex", r"\textcolor{red}{CHOSEN ON TEST}"),
        ("csv", ",release,false,,true,"),
    ):
        assert Page(table).text(form).count(red) == 1, form
    text = _printed(table, 100, color_system="standard", force_terminal=True)
    assert "\x1b[1;31mCHOSEN ON TEST" in text
    assert "\x1b[1;31mThe test split chose the weights of digits (release)" in text
