"""Rows K1 to K3, E1 and E2: no job takes its neighbours along, and no two processes that start at one moment share a run."""

import json
import signal
import time

import pytest

from orca_cli import storage
from tests.cli.conftest import results, run_folders
from tests.reliability.job_faults import GO, HANGS, HELD, STARTS, lives
from tests.tiers import count

FIGURE = "sweeps with a failing job / no other job lost"
RACERS = 8
DISTINCT = "simultaneous starts / distinct folders"
HOOK = "tests.reliability.job_faults:"
# What the table says of a job, and the code beside it.
MESSAGES = {
    "raise": "unexpected ZeroDivisionError: on purpose",
    "exit": "unexpected SystemExit: 7",
    "exit without a word": "the process exited with code 0",
    "kill": "the process was killed by SIGKILL",
    "segfault": "the process was killed by SIGSEGV",
    "memory": "not enough memory",
    "hang": "exceeded --time-limit; its state is saved",
    "deaf": "exceeded --time-limit and had to be killed",
}
# The faults of each sweep, by place: all in one, or each at every place.
JOBS = count(pr=12, nightly=9)
ALL = [dict(zip((1, 2, 3, 5, 6, 7, 8, 10), MESSAGES, strict=True))]
SWEEPS = count(pr=ALL, nightly=[{place: kind} for kind in MESSAGES for place in range(JOBS)])

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("faults", SWEEPS)
def test_jobs_fail_and_no_other_is_lost(fork, environment, tmp_path, counted, monkeypatch, faults):
    """K1."""
    monkeypatch.setenv("COLUMNS", "200")
    words = ["run", "-m", "metric=none", f"seed=range({JOBS})", "--time-limit", "1h"]
    hook = ",".join(f"{place}={kind}" for place, kind in faults.items())
    case = fork(*words, hook=f"{HOOK}stages:{hook}", more={STARTS: str(tmp_path / "notes")})
    assert case.wait(600) == 3, case.err
    assert {result["seed"] for result in results(environment)} == set(range(JOBS)) - set(faults)
    table = {line.split()[0]: line for line in case.out.splitlines() if line.startswith("[")}
    assert len(table) == JOBS
    for place, kind in faults.items():
        assert MESSAGES[kind] in table[f"[{place + 1}/{JOBS}]"]
    done, failed = JOBS - len(faults), len(faults)
    assert sum("completed" in line for line in table.values()) == done
    assert f"{done} completed, {failed} failed" in case.out
    assert "Traceback" not in case.err
    # Typed again, mended: only what is missing is done.
    again = fork(*words, hook=f"{HOOK}stages:")
    assert again.wait(600) == 0, again.err
    assert f"{failed} completed, {done} already completed" in again.out
    assert len(run_folders(environment)) == JOBS  # failed runs go on in their own folders
    counted(FIGURE, cases=failed, target=0)


@pytest.mark.parametrize("round_", range(count(pr=3, nightly=30)))
def test_a_sweep_is_stopped_and_typed_again(fork, environment, tmp_path, counted, round_):
    """K2: finished jobs are not repeated, the running one goes on, none is lost, none runs twice."""
    name, place = ["KILL", "TERM", "INT"][round_ % 3], round_ % 5
    words = ["run", "-m", "metric=none", "seed=range(5)"]
    notes = tmp_path / "notes"
    case = fork(*words, hook=f"{HOOK}stages:{place}=hang", more={STARTS: str(notes)})
    wait_until(lambda: notes.exists() and HANGS in notes.read_text(), case)
    job = json.loads((run_folders(environment)[-1] / "status.json").read_text())["pid"]
    case.send(signal.Signals[f"SIG{name}"])
    assert case.wait(600) == {"KILL": -9, "TERM": 143, "INT": 130}[name], case.err
    # A process that ends gives its memory back before its locks.
    wait_until(
        lambda: (
            not lives(job)
            and not any(storage.is_locked(run / "lock") for run in run_folders(environment))
        )
    )
    again = fork(*words, hook=f"{HOOK}stages:", more={STARTS: str(notes)})
    assert again.wait(600) == 0, again.err
    ends = [line for line in notes.read_text().splitlines() if line.startswith("end")]
    assert ends == [f"end {seed}" for seed in range(5)]
    assert len(results(environment)) == len(run_folders(environment)) == 5
    assert f"{5 - place} completed" in again.out
    counted("sweeps stopped and typed again / none lost, none twice", target=0)


@pytest.mark.parametrize("bad", ["train.lr=1,abc", "metric=otdd,otd", "train.lrr=1,2"])
def test_a_job_that_cannot_be_composed_is_refused_before_the_first(fork, environment, counted, bad):
    """K3."""
    case = fork("run", "-m", "metric=none", bad, hook=f"{HOOK}stages:")
    assert case.wait(600) == 10, case.err
    assert bad.partition("=")[0] in case.err
    assert not environment.exists() or not run_folders(environment)
    counted("sweeps with a bad override refused before the first job")


@pytest.fixture
def start_together(fork, tmp_path):
    """Return a function that starts a run for each seed; all claim their folders at the same moment."""
    ready = tmp_path / "ready"

    def call(runs, seeds):
        ready.mkdir()
        words = ["run", "metric=none", f"paths.runs={runs}"]
        cases = [fork(*words, f"seed={seed}", hook=f"{HOOK}together:{ready}") for seed in seeds]
        wait_until(lambda: len(list(ready.iterdir())) == len(cases), *cases)
        (ready / GO).touch()
        return cases

    return call


def wait_until(holds, *cases):
    end = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < end, [case.err for case in cases]
        time.sleep(0.02)


@pytest.mark.parametrize("round_", range(count(pr=1, nightly=50)))
def test_different_runs_have_folders_of_their_own(start_together, tmp_path, counted, round_):
    """E1: and of equal commands one makes the folder; the other meets its lock, or finds the run completed."""
    runs = tmp_path / "together"
    cases = start_together(runs, [0, *range(RACERS)])
    codes = [case.wait(600) for case in cases]
    assert 0 in codes[:2]
    assert set(codes[:2]) <= {0, 20}
    assert codes[2:] == [0] * (RACERS - 1), [case.err for case in cases]
    assert {result["seed"] for result in results(runs)} == set(range(RACERS))
    counted(
        DISTINCT, len(run_folders(runs)) == RACERS, cases=RACERS, target=400 if round_ == 0 else 0
    )


@pytest.mark.parametrize("round_", range(count(pr=1, nightly=100)))
def test_one_run_has_one_process(fork, start_together, tmp_path, counted, round_):
    """E2: one goes on with the run, the others say which process has it."""
    runs = tmp_path / "together"
    first = fork("run", "metric=none", "seed=0", f"paths.runs={runs}", hook=f"{HOOK}stages:0=kill")
    assert first.wait(600) == -9, first.err
    assert len(run_folders(runs)) == 1
    (runs / HELD).touch()
    cases = start_together(runs, [0] * RACERS)
    wait_until(lambda: sum(case.poll() is None for case in cases) <= 1, *cases)
    (runs / HELD).unlink()
    codes = [case.wait(600) for case in cases]
    assert sorted(codes) == [0] + [20] * (RACERS - 1), [case.err for case in cases]
    (result,) = results(runs)
    winner = cases[codes.index(0)].pid
    assert result["pid"] == winner
    for case, code in zip(cases, codes, strict=True):
        if code == 20:
            assert f"process {winner} on " in case.err
            assert len(case.err.splitlines()) == 1
    counted(
        "rounds of 8 processes on one run / one worked, 7 were told who",
        target=100 if round_ == 0 else 0,
    )
