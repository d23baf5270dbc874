"""`--help` of every command: what it is for, examples, and nothing that takes seconds to import."""

import importlib
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

import pytest

from orca_cli.cli import COMMANDS, main
from tests.commands.called import read_text, refused

HEAVY = {"torch", "transformers", "ot", "hydra", "omegaconf", "pandas", "scipy", "sklearn", "requests", "optuna"}
LINES = [f"{name} --help" for name in COMMANDS]
for group in ("runs", "data", "body"):
    LINES += [f"{group} {verb} --help" for verb in importlib.import_module(f"orca_cli.commands.{group}").VERBS]


@pytest.mark.parametrize("line", LINES)
def test_help_has_usage_and_examples(line):
    name = line.removesuffix(" --help")
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):  # argparse ends the process
        assert main(line.split()) == 0
    text = out.getvalue()
    assert text.startswith(f"usage: orca {name} ")
    assert f"  orca {name}" in text.partition("examples:")[2]


def test_no_help_loads_anything_heavy():
    code = (
        "import sys; from orca_cli.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    try: main(line.split())\n"
        "    except SystemExit: pass\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *LINES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def test_help_of_all_commands_names_each():
    for words in ([], ["--help"], ["help"]):
        text = read_text(*words)
        assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("words", [["data", "gt"], ["lst"], ["runs", "lst"]])
def test_an_unknown_command_is_answered_with_the_nearest(words):
    assert "did you mean '" in refused(2, *words)
