"""`--help` of every command: what it is for, examples; and that nothing takes seconds to import where no model is needed."""

import importlib
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

from orca_cli.cli import COMMANDS, main
from tests.commands.called import read_text, refused
from tests.commands.test_score import _add
from tests.report.trees import add_run, details

HEAVY = {
    "torch",
    "transformers",
    "ot",
    "hydra",
    "omegaconf",
    "pandas",
    "scipy",
    "sklearn",
    "requests",
    "optuna",
}
LINES = [f"{name} --help" for name in COMMANDS]
for group in ("runs", "data", "body"):
    LINES += [
        f"{group} {verb} --help"
        for verb in importlib.import_module(f"orca_cli.commands.{group}").VERBS
    ]


def test_help_has_usage_and_examples():
    for line in LINES:
        name = line.removesuffix(" --help")
        with redirect_stdout(StringIO()) as out, suppress(SystemExit):  # argparse ends the process
            assert main(line.split()) == 0
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


def test_no_help_and_no_command_about_records_loads_anything_heavy(tmp_path, monkeypatch):
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
    lines.append(f"score {_add(tmp_path, 'regression.RMSE')}")
    command = [
        sys.executable,
        "-c",
        CODE,
        ",".join(HEAVY),
        "transformers,hydra,ot,orca_cli.models.bodies",
    ]
    done = subprocess.run([*command, *LINES, *lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_of_all_commands_names_each_and_an_unknown_one_is_answered_with_the_nearest():
    for words in ([], ["--help"], ["help"]):
        text = read_text(*words)
        assert all(f"\n  {name} " in text for name in COMMANDS)
    for words in (["data", "gt"], ["lst"]):
        assert "did you mean '" in refused(2, *words)
