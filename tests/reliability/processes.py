"""The command line as a process of its own, in surroundings of the test's making."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT
from tests.forked import Case


@pytest.fixture
def process(environment, tmp_path):
    """Run the command line in a process of its own; returns (exit code, standard error, seconds)."""

    def call(*words, more=None, without=(), before=(), **settings):
        variables = {name: value for name, value in os.environ.items() if name not in without}
        variables |= {"PYTHONPATH": str(ROOT)} | (more or {})
        start = time.monotonic()
        command = [*before, sys.executable, "-m", "orca_cli", *map(str, words)]
        done = subprocess.run(
            command, env=variables, stderr=subprocess.PIPE, text=True, timeout=180, check=False, **settings
        )
        return done.returncode, done.stderr, time.monotonic() - start

    return call


def reports_error(result, code, *words):
    """Return whether a call failed with one error line that contains all of `words`."""
    actual, err, _ = result
    lines = [line for line in err.splitlines() if line.startswith("orca: error:")]
    return actual == code and len(lines) == 1 and "Traceback" not in err and all(word in lines[0] for word in words)


def error_line(case: Case, code: int) -> str:
    """Wait for a forked case that has to fail with a code; returns its error line, the only one, without a traceback."""
    assert case.wait(240) == code, (case.poll(), case.err)
    (line,) = [line for line in case.err.splitlines() if line.startswith("orca: error: ")]
    assert "Traceback" not in case.err
    assert "--- Logging error ---" not in case.err
    return line


def with_site(folder: Path, code: str = "") -> dict[str, str]:
    """Return the variables with which a process imports from `folder` first; `code` runs before anything else."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
