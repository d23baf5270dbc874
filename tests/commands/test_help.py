"""`--help` of every command; commands without a model import nothing that takes seconds."""

import importlib
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

import pytest

from orca_cli.cli import COMMANDS, main
from tests.commands.called import read_text, refused
from tests.commands.test_score import add_scored_run
from tests.report.trees import add_run, details

HEAVY = {
    "torch", "transformers", "ot", "hydra", "omegaconf", "pandas", "scipy", "sklearn", "requests",
    "optuna",
}  # fmt: skip
# Commands, and commands with their verbs.
NAMES = list(COMMANDS)
for group in ("runs", "data", "body"):
    NAMES += [
        f"{group} {verb}" for verb in importlib.import_module(f"orca_cli.commands.{group}").VERBS
    ]


@pytest.mark.parametrize("name", NAMES)
def test_help_has_usage_and_examples(name):
    # argparse ends the process.
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        assert main([*name.split(), "--help"]) == 0
    text = out.getvalue()
    assert text.startswith(f"usage: orca {name} ")
    assert f" orca {name}" in text.partition("examples:")[2]


CODE = """
import sys; from orca_cli.report import answer; from orca_cli.cli import main
def check(heavy, lines):
    for line in lines:
        try: assert main(line.split()) == 0, line
        except SystemExit as stop: assert not stop.code, line
        loaded = set(heavy.split(",")) & set(sys.modules)
        assert not loaded, (line, loaded)
check(sys.argv[1], sys.argv[3:-1])
check(sys.argv[2], sys.argv[-1:])
"""


def test_help_and_commands_about_records_load_nothing_heavy(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path))
    folders = [add_run(tmp_path, seed=seed, **details(seed)) for seed in (0, 1)]
    for folder in folders:
        (folder / "config.yaml").write_text("seed: 0\n")
    runs = [folder.name for folder in folders]
    lines = [f"report --format {form}" for form in ("table", "csv", "html")] + [
        "list",
        "list tasks",
        "list settings",
    ]
    lines += [
        "runs list",
        f"runs show {runs[0]}",
        f"runs diff {' '.join(runs)}",
        "runs gc",
        f"runs rm --yes {runs[0]}",
    ]
    lines.append(f"score {add_scored_run(tmp_path, 'regression.RMSE')}")
    command = [
        sys.executable,
        "-c",
        CODE,
        ",".join(HEAVY),
        "transformers,hydra,ot,orca_cli.models.bodies",
    ]
    helps = [f"{name} --help" for name in NAMES]
    done = subprocess.run([*command, *helps, *lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]], ids=str)
def test_help_of_the_program_names_every_command(words):
    text = read_text(*words)
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []


@pytest.mark.parametrize(
    ("words", "nearest"), [(["data", "lst"], "list"), (["lst"], "list")], ids=["verb", "command"]
)
def test_an_unknown_command_is_answered_with_the_nearest(words, nearest):
    assert f"did you mean '{nearest}'?" in refused(2, *words)


COMMAND_LINES = [[]]
for _name in COMMANDS:
    _verbs = getattr(importlib.import_module(f"orca_cli.commands.{_name}"), "VERBS", {})
    COMMAND_LINES += [[_name], *([_name, verb] for verb in _verbs)]


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_help_fits_into_80_columns(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    # argparse ends the process.
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        assert main([*words, "--help"]) == 0
    assert [line for line in out.getvalue().splitlines() if len(line) > 80] == []
