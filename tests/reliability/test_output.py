"""Names that would command a terminal, a browser or a spreadsheet (row H13): shown as what they are."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from rich.table import Table
from rich.text import Text

from orca_cli import terminal
from orca_cli.exceptions import DataError
from tests.report.trees import add_run

FIGURE = "names that would command a terminal, browser or spreadsheet"
NAMES = {
    "colour": "\x1b[31mred", "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07", "8-bit control": "\x9b31m",
    "carriage return": "all good\rorca: error: 0", "new line": "a\norca: error: something else",
    "line separator": "a\u2028b", "reversed": "a\u202egpj.exe", "zero width": "a\u200bb",
    "null": "a\0b", "markup of rich": "[bold red]a[/] [/x]", "script": "<script>alert(1)</script>",
    "formula": "=cmd|' /C calc'!A0", "formula by minus": "-2+3", "nothing but letters": "é ± 日本",
}  # fmt: skip
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e]")


@pytest.mark.parametrize("name", NAMES)
def test_errors_logs_and_tables_show_names_as_they_are(name, capfd, scorecard):
    text = NAMES[name]
    terminal.print_error(f"orca: error: {DataError('is no array', where=text)}")
    terminal.configure_logging()
    terminal.log.warning(f"damaged: {text}")
    terminal.log.warning("damaged: %s", text)
    table = Table("name")
    table.add_row(Text(text))
    terminal.print_result(table, Text(text))
    out, err = capfd.readouterr()
    assert not _COMMANDS.search(out.replace("\n", "")), repr(out)
    assert not _COMMANDS.search(err.replace("\n", "")), repr(err)
    assert err.count("\n") == 3  # one line each: no name makes another
    if text.isprintable():
        assert text in out
    scorecard.add(FIGURE, cases=1, passed=1, target=1)


def test_reports_show_names_as_they_are(tmp_path, orca, counted):
    for seed, text in enumerate(NAMES.values()):
        path = add_run(tmp_path / "tree", seed=seed)
        for record in ("status.json", "result.json"):
            content = json.loads((path / record).read_text())
            (path / record).write_text(json.dumps(content | {"body": text, "task": text}))
    for form in ("md", "csv"):
        code, out, err = orca("report", tmp_path / "tree", "--format", form)
        assert code == 0, err
        assert not _COMMANDS.search(out.replace("\n", "")), repr(out)
        assert form == "csv" or not re.search(r"(?<!\\)<", out.replace("<br>", ""))
    cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
    formulas = [
        cell for cell in cells if cell[:1] in tuple("=+@\t\r") or re.match(r"-[^0-9]|-\d+\+", cell)
    ]
    counted(FIGURE, not formulas, formulas, cases=len(NAMES), target=len(NAMES))
