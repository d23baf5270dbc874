"""Several processes start at one moment (rows E1 and E2)."""

import time

import pytest

from tests.cli.conftest import results, run_folders
from tests.tiers import count

RACERS = 8
DISTINCT = "simultaneous starts / distinct folders"
ALONE = "rounds of 8 processes on one run / one worked, 7 were told who"

pytestmark = pytest.mark.slow


def start_together(fork, runs, seeds, seconds, ahead=3.0):
    """Start a run for each seed; all claim their folders at the same moment."""
    hook = f"tests.reliability.job_faults:together:{time.time() + ahead};{seconds}"
    return [fork("run", "metric=none", f"seed={seed}", f"paths.runs={runs}", hook=hook) for seed in seeds]


@pytest.mark.parametrize("round_", range(count(pr=3, nightly=50)))
def test_different_runs_have_folders_of_their_own(fork, tmp_path, scorecard, round_):
    """E1."""
    runs = tmp_path / "together"
    cases = start_together(fork, runs, range(RACERS), 0)
    for case in cases:
        assert case.wait(60) == 0, case.err
    folders = run_folders(runs)
    assert len(folders) == RACERS
    assert {result["seed"] for result in results(runs)} == set(range(RACERS))
    assert len({result["run_id"] for result in results(runs)}) == RACERS
    scorecard.add(DISTINCT, cases=RACERS, passed=len(folders), target=400 if round_ == 0 else 0)


@pytest.mark.parametrize("round_", range(count(pr=2, nightly=100)))
def test_one_run_has_one_process(fork, tmp_path, scorecard, round_):
    """E2: one goes on with the run, the others are told who has it."""
    runs = tmp_path / "together"
    first = fork(
        "run", "metric=none", "seed=0", f"paths.runs={runs}", hook="tests.reliability.job_faults:stages:0;0;kill"
    )
    assert first.wait(60) == -9, first.err
    assert len(run_folders(runs)) == 1
    cases = start_together(fork, runs, [0] * RACERS, 6)
    codes = [case.wait(60) for case in cases]
    assert sorted(codes) == [0] + [20] * (RACERS - 1), [case.err for case in cases]
    (run,), (result,) = run_folders(runs), results(runs)
    winner = cases[codes.index(0)].pid
    assert result["pid"] == winner
    for case, code in zip(cases, codes, strict=True):
        if code == 20:
            assert f"process {winner} on " in case.err
            assert len(case.err.splitlines()) == 1
    scorecard.add(ALONE, cases=1, passed=1, target=100 if round_ == 0 else 0)
    assert run.exists()


def test_the_same_command_at_the_same_moment_makes_one_run(fork, tmp_path):
    """E1: of equal commands one makes the folder; the others meet its lock, or find the run completed."""
    runs = tmp_path / "together"
    cases = start_together(fork, runs, [0] * RACERS, 0.5)
    codes = [case.wait(60) for case in cases]
    assert set(codes) <= {0, 20}
    assert 0 in codes
    assert len(run_folders(runs)) == len(results(runs)) == 1
