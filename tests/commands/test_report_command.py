"""`orca report` as it is typed."""

import json
import os
import subprocess
import sys

import pytest

from orca_cli.cli import main
from tests.report.trees import add_run


def test_runs_come_from_the_environment(tmp_path, monkeypatch, capsys):
    add_run(tmp_path)
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path))
    assert main(["report", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["metric"] == "otdd"
    monkeypatch.delenv("ORCA_RUNS")
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 11
    assert capsys.readouterr().err == "orca: error: runs: no such folder of runs; make one with: orca run\n"


def test_a_wide_report_is_not_folded_and_a_file_has_nothing_else(tmp_path, capsys):
    for number in range(20):
        add_run(tmp_path / "runs", task=f"task{number:02}")
    for form in ("table", "md", "csv", "json", "latex"):
        assert main(["report", str(tmp_path / "runs"), "--format", form, "--out", str(tmp_path / "new" / form)]) == 0
        assert capsys.readouterr().out == ""
        assert "\x1b" not in (tmp_path / "new" / form).read_text()
    assert main(["report", str(tmp_path / "runs"), "--format", "md"]) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "new" / "md").read_text()
    assert len(text.splitlines()[0].split("|")) == 3 + 20 + 2
    assert main(["report", str(tmp_path / "runs"), "--task", "task03", "--json"]) == 0
    assert [column["task"] for column in json.loads(capsys.readouterr().out)["columns"]] == ["task03"]


@pytest.mark.parametrize(("state", "code"), [("failed", 3), ("align", 3), ("interrupted", 0), ("completed", 0)])
def test_strict_fails_where_runs_have_failed_or_are_broken(tmp_path, capsys, state, code):
    path = add_run(tmp_path, state=state)
    assert main(["report", str(tmp_path), "--strict"]) == code
    assert main(["report", str(tmp_path)]) == 0
    (path / "result.json").write_text("{")
    assert main(["report", str(tmp_path), "--strict"]) == 3
    assert "not valid JSON" in capsys.readouterr().out


@pytest.mark.parametrize(("form", "shown"), [("table", b"10.0 +- - (1)"), ("md", b"caf\\xe9")])
def test_an_output_that_has_only_ascii_gets_ascii(tmp_path, form, shown):
    add_run(tmp_path, body="caf\u00e9")
    command = [sys.executable, "-m", "orca_cli", "report", str(tmp_path), "--format", form]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
