"""What all reliability tests share: the scorecard, the command line in surroundings of the test's making, file systems."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orca_cli import storage
from orca_cli.cli import main
from tests.cli.conftest import (  # noqa: F401 - fixtures
    ROOT,
    environment,
    fork,
    home,
    orca,
    refused,
    run_folders,
    small,
    start,
    tiny,
)
from tests.tiers import Scorecard


@pytest.fixture
def scorecard(request) -> Scorecard:
    return Scorecard.for_test(request.node.nodeid)


@pytest.fixture
def counted(scorecard):
    """Count a case of a figure, or several, and assert that it passed."""

    def call(figure, passed=True, *details, cases=1, target=1, note=""):
        scorecard.add(figure, cases=cases, passed=cases * bool(passed), target=target, note=note)
        assert passed, details

    return call


@pytest.fixture
def not_run(scorecard):
    """Skip a test whose premise does not hold here; its figure says so."""

    def call(figure, reason):
        scorecard.not_run(figure, reason)
        pytest.skip(reason)

    return call


@pytest.fixture
def mounted(not_run):
    """Return a function that mounts something on a folder or file until the end of the test."""
    done = []

    def call(figure, place, *words):
        result = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
        if result.returncode:
            not_run(figure, f"mount: {result.stderr.strip() or result.returncode}")
        done.append(place)

    yield call
    for place in reversed(done):
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture
def process(environment):  # noqa: F811
    """Run the command line in a process of its own; returns (exit code, standard error, seconds)."""

    def call(*words, more=None, without=(), before=(), **settings):
        variables = {name: value for name, value in os.environ.items() if name not in without}
        variables |= {"PYTHONPATH": str(ROOT)} | (more or {})
        start_s = time.monotonic()
        command = [*before, sys.executable, "-m", "orca_cli", *map(str, words)]
        done = subprocess.run(
            command, env=variables, stderr=subprocess.PIPE, text=True, timeout=600, **settings
        )
        return done.returncode, done.stderr, time.monotonic() - start_s

    return call


@pytest.fixture
def called(environment, capfd, monkeypatch):  # noqa: F811
    """Call `orca run` in this process; returns (exit code, the error, seconds). A configuration that is accepted is code 1."""

    def accepted(*_, **__):
        raise AssertionError("the configuration was accepted")

    for name in ("run.experiment.run", "sweep.dry_run", "sweep.run"):
        monkeypatch.setattr(f"orca_cli.commands.{name}", accepted)

    def call(*words):
        begun = time.process_time()
        code = main(["run", *map(str, words)])
        took = time.process_time() - begun
        return code, capfd.readouterr().err.strip(), took

    return call


def reports_error(result, code, *words):
    """Return whether a call of `process` failed with one error line that contains all of `words`."""
    actual, err, _ = result
    lines = [line for line in err.splitlines() if line.startswith("orca: error:")]
    return (
        actual == code
        and len(lines) == 1
        and "Traceback" not in err
        and all(word in lines[0] for word in words)
    )


def error_line(case, code):
    """Wait for a forked case that has to fail with a code; returns its error line, the only one, without a traceback."""
    assert case.wait(600) == code, (case.poll(), case.err)
    (line,) = [line for line in case.err.splitlines() if line.startswith("orca: error: ")]
    assert "Traceback" not in case.err
    assert "--- Logging error ---" not in case.err
    return line


def with_site(folder: Path, code: str = "") -> dict[str, str]:
    """Return the variables with which a process imports from `folder` first; `code` runs before anything else."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


# All three stages on a body with dropout, weights chosen by validation, and a checkpoint after every step.
SHORT = [
    *("align.epochs=4", "train.epochs=3", "train.checkpoint_s=0", "source.size=120", "align.source_points=100"),
    *("align.classes_per_problem=0", "task.train_size=50", "--quiet"),
]  # fmt: skip
EXACT = ["weights_sha256", "error", "validation_error", "trivial_error"]
EXACT += ["metric_value", "splits", "selected", "inexact"]


def outcome(run: Path) -> dict:
    """Return all of a completed run that has to be equal bit by bit."""
    result = json.loads((run / "result.json").read_text())
    lines = {
        stage: storage.read_json_lines(run / stage / "metrics.jsonl")
        for stage in ("2_align", "3_finetune")
    }
    steps = [
        {key: value for key, value in line.items() if key != "seconds"} for line in lines["2_align"]
    ]
    return {key: result[key] for key in EXACT} | {"epochs": lines["3_finetune"], "steps": steps}


def completed(fork, words, runs: Path) -> dict:  # noqa: F811
    case = fork("run", *words, f"paths.runs={runs}")
    assert case.wait(600) == 0, case.err
    assert "Traceback" not in case.err
    (run,) = run_folders(runs)
    assert not list(run.rglob(".tmp-*"))
    assert not list(run.rglob("*.bad-*"))
    return outcome(run)


def killed(fork, words, runs: Path, phase: str, number: int, delay_s: float = 0.0) -> bool:  # noqa: F811
    """Start a run that is killed in a phase; returns whether it was, and did not end before."""
    case = fork(
        "run",
        *words,
        f"paths.runs={runs}",
        hook=f"tests.reliability.phases:kill:{phase}:{number}:{delay_s}",
    )
    return case.wait(600) in (-signal.SIGKILL, -signal.SIGALRM)


@pytest.fixture(scope="session")
def uninterrupted(fork_server, home, small, tmp_path_factory):  # noqa: F811
    """The folder of a run of SHORT that nothing disturbed."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    words = ["run", *small, *SHORT, "baselines=none", f"paths.runs={runs}"]
    case = fork_server.start(words, more={"ORCA_HOME": str(home)})
    assert case.wait(600) == 0, case.err
    return run_folders(runs)[0]


@pytest.fixture
def expected(uninterrupted):
    return outcome(uninterrupted)
