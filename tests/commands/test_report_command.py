"""`orca report` as it is typed."""

import json
import os
import subprocess
import sys

import pytest

from orca_cli.cli import main
from tests.report.trees import add_run

HEAVY = ("torch", "transformers", "ot", "hydra", "omegaconf", "pandas", "scipy", "sklearn")


def _modules_after(*words):
    """Return which heavy modules a command has loaded, in a process of its own."""
    code = (
        "import sys; from orca_cli.cli import main\n"
        f"try: code = main({list(words)!r})\n"
        "except SystemExit as stop: code = stop.code\n"
        f"print('CODE', code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = result.stdout.strip().splitlines()[-1]
    assert line.startswith("CODE 0"), result.stdout + result.stderr
    return json.loads(line.removeprefix("CODE 0").replace("'", '"'))


@pytest.mark.parametrize("words", [(), ("--format", "csv"), ("--help",)])
def test_report_loads_nothing_heavy(tmp_path, words):
    add_run(tmp_path)
    assert _modules_after("report", str(tmp_path), *words) == []


@pytest.mark.parametrize("words", [(), ("tasks",), ("settings",), ("--help",)])
def test_list_loads_nothing_heavy(words):
    assert _modules_after("list", *words) == []


def test_runs_come_from_the_environment(tmp_path, monkeypatch, capsys):
    add_run(tmp_path)
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path))
    assert main(["report", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["metric"] == "otdd"
    monkeypatch.delenv("ORCA_RUNS")
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 11
    assert capsys.readouterr().err == "orca: error: runs: no such folder of runs; make one with: orca run\n"


def test_a_wide_report_is_not_folded_for_other_programs(tmp_path, capsys):
    for number in range(20):
        add_run(tmp_path, task=f"task{number:02}")
    assert main(["report", str(tmp_path), "--format", "md"]) == 0
    assert len(capsys.readouterr().out.splitlines()[0].split("|")) == 3 + 20 + 2


def test_out_writes_the_file_and_nothing_else(tmp_path, capsys):
    add_run(tmp_path / "runs")
    out = tmp_path / "new" / "table.md"
    assert main(["report", str(tmp_path / "runs"), "--format", "md", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert out.read_text().startswith("| body | metric |")


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "latex"])
def test_no_color_in_a_file(tmp_path, form):
    add_run(tmp_path)
    main(["report", str(tmp_path), "--format", form, "--out", str(tmp_path / "out")])
    assert "\x1b" not in (tmp_path / "out").read_text()


@pytest.mark.parametrize(("state", "code"), [("failed", 3), ("align", 3), ("interrupted", 0), ("completed", 0)])
def test_strict_fails_where_runs_have_failed(tmp_path, state, code):
    add_run(tmp_path, state=state)
    assert main(["report", str(tmp_path), "--strict"]) == code
    assert main(["report", str(tmp_path)]) == 0


def test_strict_fails_where_a_run_is_broken(tmp_path, capsys):
    (add_run(tmp_path) / "result.json").write_text("{")
    assert main(["report", str(tmp_path), "--strict"]) == 3
    assert "not valid JSON" in capsys.readouterr().out


def test_filters(tmp_path, capsys):
    add_run(tmp_path)
    add_run(tmp_path, task="ecg", metric="none")
    assert main(["report", str(tmp_path), "--task", "ecg", "--format", "json"]) == 0
    assert [column["task"] for column in json.loads(capsys.readouterr().out)["columns"]] == ["ecg"]
    assert main(["report", str(tmp_path), "--metric", "otd"]) == 11
    assert "did you mean 'otdd'?" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "shown"), [("table", b"10.0 +- - (1)"), ("md", b"caf\\xe9")])
def test_an_output_that_has_only_ascii_gets_ascii(tmp_path, form, shown):
    add_run(tmp_path, body="caf\u00e9")
    result = subprocess.run(
        [sys.executable, "-m", "orca_cli", "report", str(tmp_path), "--format", form],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
