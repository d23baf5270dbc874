"""Rows K1 to K3, E1 and E2: no job takes its neighbours along, and no two processes that start at one moment share a run."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from orca_cli import storage
from tests.cli.conftest import results, run_folders
from tests.reliability.job_faults import KINDS, STARTS
from tests.tiers import count

FIGURE = "sweeps with a failing job / no other job lost"
STOPPED = "sweeps stopped and typed again / none lost, none twice"
RACERS = 8
DISTINCT = "simultaneous starts / distinct folders"
ALONE = "rounds of 8 processes on one run / one worked, 7 were told who"
JOBS = 9
# What the table says of a job, and the code beside it.
MESSAGES = {
    "raise": "unexpected ZeroDivisionError: on purpose",
    "exit": "unexpected SystemExit: 7",
    "exit without a word": "the process exited with code 0",
    "kill": "the process was killed by SIGKILL",
    "segfault": "the process was killed by SIGSEGV",
    "memory": "not enough memory",
    "hang": "exceeded --time-limit",
    "deaf": "exceeded --time-limit",
}

pytestmark = pytest.mark.slow


def positions(kind):
    """Every position in the nightly tier (9 x 6 kinds of the row, and the two kinds beside them)."""
    return range(count(pr=1, nightly=JOBS)) if count(pr=0, nightly=1) else [KINDS.index(kind) % JOBS]


@pytest.mark.parametrize(("kind", "position"), [(kind, place) for kind in KINDS for place in positions(kind)])
def test_one_job_fails_and_no_other_is_lost(fork, environment, counted, monkeypatch, kind, position):
    """K1."""
    monkeypatch.setenv("COLUMNS", "200")
    words = ["run", "-m", "metric=none", f"seed=range({JOBS})"]
    if kind in ("hang", "deaf"):
        words += ["--time-limit", "3s"]
    case = fork(*words, hook=f"tests.reliability.job_faults:stages:0;{position};{kind}")
    assert case.wait(300) == 3, case.err
    assert {result["seed"] for result in results(environment)} == set(range(JOBS)) - {position}
    table = {line.split()[0]: line for line in case.out.splitlines() if line.startswith("[")}
    assert len(table) == JOBS
    assert MESSAGES[kind] in table[f"[{position + 1}/{JOBS}]"]
    assert sum("completed" in line for line in table.values()) == JOBS - 1
    assert f"{JOBS - 1} completed, 1 failed" in case.out
    assert "Traceback" not in case.err
    # Typed again, mended: only what is missing is done.
    again = fork(*words, hook="tests.reliability.job_faults:stages:0;-;-")
    assert again.wait(300) == 0, again.err
    assert f"1 completed, {JOBS - 1} already completed" in again.out
    assert len(run_folders(environment)) == JOBS  # the failed run goes on in its own folder
    counted(FIGURE, target=0)


@pytest.mark.parametrize("round_", range(count(pr=3, nightly=30)))
def test_a_sweep_is_stopped_and_typed_again(fork, environment, tmp_path, counted, round_):
    """K2: finished jobs are not repeated, the running one goes on, none is lost, none runs twice."""
    generator = random.Random(round_)
    name = ["KILL", "TERM", "INT"][round_ % 3]
    words = ["run", "-m", "metric=none", "seed=range(5)"]
    notes, hook = tmp_path / "notes", "tests.reliability.job_faults:stages:0.4;-;-"
    case = fork(*words, hook=hook, more={STARTS: str(notes)})
    starts = generator.randint(1, 5)
    end = time.monotonic() + 60
    while not notes.exists() or notes.read_text().count("start") < starts:
        assert time.monotonic() < end, case.err
        assert case.poll() is None, case.err
        time.sleep(0.01)
    time.sleep(generator.uniform(0, 0.3))
    jobs = [json.loads((run / "status.json").read_text())["pid"] for run in run_folders(environment)]
    os.kill(case.pid, signal.Signals[f"SIG{name}"])
    code = case.wait(30)
    assert code == {"KILL": -9, "TERM": 143, "INT": 130}[name], case.err
    end = time.monotonic() + 10
    while any(Path(f"/proc/{job}/cmdline").exists() for job in jobs) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{job}/cmdline").exists() for job in jobs)
    assert not any(storage.is_locked(run / "lock") for run in run_folders(environment))
    before = [line for line in notes.read_text().splitlines() if line.startswith("end")]
    again = fork(*words, hook=hook, more={STARTS: str(notes)})
    assert again.wait(300) == 0, again.err
    ends = [line for line in notes.read_text().splitlines() if line.startswith("end")]
    assert sorted(ends) == [f"end {seed}" for seed in range(5)]
    assert len(results(environment)) == len(run_folders(environment)) == 5
    assert f"{5 - len(before)} completed" in again.out
    counted(STOPPED, target=0)


BAD = ["train.lr=1,abc", "train.epochs=1,0", "metric=otdd,otd", "train.lrr=1,2", "task.layout=image,imgae"]


@pytest.mark.parametrize("bad", BAD)
def test_a_job_that_cannot_be_composed_is_refused_before_the_first(fork, environment, counted, bad):
    """K3."""
    case = fork("run", "-m", "metric=none", bad, hook="tests.reliability.job_faults:stages:0;-;-")
    assert case.wait(60) == 10, case.err
    assert bad.partition("=")[0] in case.err
    assert not environment.exists() or not run_folders(environment)
    counted("sweeps with a bad override refused before the first job")


def start_together(fork, runs, seeds, seconds, ahead=3.0):
    """Start a run for each seed; all claim their folders at the same moment."""
    hook = f"tests.reliability.job_faults:together:{time.time() + ahead};{seconds}"
    return [fork("run", "metric=none", f"seed={seed}", f"paths.runs={runs}", hook=hook) for seed in seeds]


@pytest.mark.parametrize("round_", range(count(pr=1, nightly=50)))
def test_different_runs_have_folders_of_their_own(fork, tmp_path, counted, round_):
    """E1: and of equal commands one makes the folder; the other meets its lock, or finds the run completed."""
    runs, distinct = tmp_path / "together", RACERS
    cases = start_together(fork, runs, [0, *range(distinct)], 0)
    codes = [case.wait(60) for case in cases]
    assert 0 in codes[:2]
    assert set(codes[:2]) <= {0, 20}
    assert codes[2:] == [0] * (RACERS - 1), [case.err for case in cases]
    assert {result["seed"] for result in results(runs)} == set(range(distinct))
    counted(DISTINCT, len(run_folders(runs)) == distinct, cases=distinct, target=400 if round_ == 0 else 0)


@pytest.mark.parametrize("round_", range(count(pr=1, nightly=100)))
def test_one_run_has_one_process(fork, tmp_path, counted, round_):
    """E2: one goes on with the run, the others say which process has it."""
    runs = tmp_path / "together"
    first = fork(
        "run", "metric=none", "seed=0", f"paths.runs={runs}", hook="tests.reliability.job_faults:stages:0;0;kill"
    )
    assert first.wait(60) == -9, first.err
    assert len(run_folders(runs)) == 1
    cases = start_together(fork, runs, [0] * RACERS, 6)
    codes = [case.wait(60) for case in cases]
    assert sorted(codes) == [0] + [20] * (RACERS - 1), [case.err for case in cases]
    (result,) = results(runs)
    winner = cases[codes.index(0)].pid
    assert result["pid"] == winner
    for case, code in zip(cases, codes, strict=True):
        if code == 20:
            assert f"process {winner} on " in case.err
            assert len(case.err.splitlines()) == 1
    counted(ALONE, target=100 if round_ == 0 else 0)
