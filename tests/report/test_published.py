"""Other people's results: read from a csv file, shown with their source, never ranked and never best."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from orca_cli.commands import report
from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import collect
from orca_cli.report.rendering.console import Page
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.published import fitting, read
from orca_cli.report.tables.table import Published, build_table
from tests.commands.called import read_text
from tests.report.test_render import HOSTILE, table  # noqa: F401 - a fixture
from tests.report.trees import add_run

SHIPPED = Path(report.__file__).parents[2] / "docs" / "published.csv"
COLUMNS = "task,method,error,source"
LINES = f"{COLUMNS}\ndigits,forest,0.05,notes p. 3\ndarcy,FNO,0.008,Table 2\necg,CNN,0.28,Table 2\n"


def with_others(table, folder, text):  # noqa: F811
    path = folder / "others.csv"
    path.write_text(text)
    return replace(table, published=fitting(read(path), table, str(path)))


def test_rows_stand_between_the_own_and_the_trivial_with_their_sources(table, tmp_path):  # noqa: F811
    layout = layout_of(with_others(table, tmp_path, LINES))
    *ours, forest, fno, trivial = layout.rows
    assert trivial[0][0] == "trivial"
    assert (forest[0][0], [entry.main for entry in forest[1]], forest[2]) == ("forest [1]", ["-", "5.0"], "")
    assert (fno[0][0], [entry.main for entry in fno[1]]) == ("FNO [2]", ["0.008", "-"])
    assert not any(entry.best for row in (forest, fno) for entry in row[1])
    assert layout.names.index("from") == 3
    others = ["published, other protocol", "published, real data, ours are synthetic, other protocol"]
    assert [row[0][3] for row in layout.rows] == ["ours"] * len(ours) + others + ["ours"]
    assert "[1] reported by others, under their conditions: notes p. 3" in layout.notes


def test_every_number_says_whose_it_is_and_of_what(table, tmp_path):  # noqa: F811
    text = "task,method,error,source,protocol\ndigits,forest,0.05,p. 3,clean\ndarcy,forest,0.008,p. 3,\n"
    shown = with_others(table, tmp_path, text)
    *_, forest, _ = layout_of(shown).rows
    # The two differ, so that each number says it itself: the paper's darcy is of real data, ours is generated.
    assert forest[0][3] == "published"
    assert [entry.rest for entry in forest[1]] == ["real data, ours are synthetic, other protocol", ""]
    lines = list(csv.DictReader(io.StringIO(Page(shown).text("csv"))))
    tags = {(line["origin"], line["task"]): line["tags"] for line in lines}
    assert tags == {
        ("ours", "darcy"): "ours; synthetic data; protocol clean",
        ("ours", "digits"): "ours; protocol clean",
        ("published", "darcy"): "published; real data, ours are synthetic; other protocol",
        ("published", "digits"): "published",
    }
    assert (lines[-2]["body"], float(lines[-2]["mean"]), lines[-2]["settings"]) == ("forest", 0.05, "published: p. 3")
    record = json.loads(Page(shown).text("json"))
    assert record["published"][0].pop("tags") == {"clean": ["published"]}
    assert record["published"][0] == vars(Published("digits", "forest", 0.05, "p. 3", "clean"))
    assert record["rows"][0]["cells"][0]["tags"] == ["ours", "synthetic data", "protocol clean"]
    for form in ("md", "latex", "table"):
        words = " ".join(Page(shown).text(form).split())
        assert "published" in words, form
        assert "real data, ours are synthetic" in words, form


def test_of_two_results_that_of_the_columns_protocol_is_shown(tmp_path):
    for protocol in ("paper", "clean"):
        add_run(tmp_path, protocol=protocol)
    text = "task,method,error,source,protocol\ndigits,X,0.11,p. 3,paper\ndigits,X,0.22,p. 3,clean\n"
    shown = with_others(build_table(collect([tmp_path])), tmp_path, text)
    *_, others, _ = layout_of(shown).rows
    columns = [column.protocol for column in shown.columns]
    assert dict(zip(columns, [entry.main for entry in others[1]], strict=True)) == {"paper": "11.0", "clean": "22.0"}
    assert others[0][3] == "published"


@pytest.mark.parametrize(
    ("columns", "line", "message"),
    [
        ("task,method,error", "d,m,1", "no column 'source'"),
        (COLUMNS, "digits,m,12 %,s", "line 2.*'12 %' is not a number.*0.1939"),
        (COLUMNS, "digits,m,nan,s", "is not a number"),
        (COLUMNS, "digits,m,0.1,", "'source' is empty"),
        (COLUMNS, "digits,m,19.39,s", "error 19.39 is above 1.*0.1939"),
        (COLUMNS, "digit,m,0.1,s", "no run is of a task.*did you mean 'digits'"),
        (COLUMNS, "", "no line"),
    ],
)
def test_what_is_wrong_is_reported_with_its_place(table, tmp_path, columns, line, message):  # noqa: F811
    with pytest.raises(DataError, match=f"(?s){message}"):
        with_others(table, tmp_path, f"{columns}\n{line}\n")


def test_names_stay_names(table, tmp_path):  # noqa: F811
    field = HOSTILE.replace('"', "")
    page = Page(with_others(table, tmp_path, f'{COLUMNS}\ndigits,"{field}",0.1,"{field}"\n'))
    for form in ("md", "latex", "table", "csv"):
        assert not {"\x1b", "\u202e"} & set(page.text(form)), form
    lines = page.text("latex").splitlines()
    assert sum(r"\end{tabular}" in line for line in lines if not line.startswith("%")) == 1


def test_the_shipped_results_name_tasks_that_exist(tmp_path):
    for task in {result.task for result in read(SHIPPED)}:
        assert (SHIPPED.parents[1] / "conf" / "task" / f"{task}.yaml").is_file()
    add_run(tmp_path, task="ninapro")
    out = read_text("report", tmp_path, "--baselines", SHIPPED)
    assert "einspace [2]" in out
    assert "6.4" in out  # as many decimals as its own errors have
