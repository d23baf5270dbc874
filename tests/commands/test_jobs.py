"""How a job of a driver ended, by its report or its exit status."""

import json
import signal

import pytest

from orca_cli import exceptions, signals
from orca_cli.commands.jobs import NOT_STARTED, job_outcome, job_report
from orca_cli.commands.summary import run_result
from orca_cli.exceptions import DataError, InterruptionError
from orca_cli.launching.process import Ended
from orca_cli.runs.outcome import Failure, Outcome

STOPPED = InterruptionError.by(signal.SIGTERM)
# what -> (how the job ended, its state, its exit code, its error)
WITHOUT_REPORT = {
    "lost": (Ended(lost="the node has gone"), "failed", 1, "the node has gone"),
    "over its limit": (
        Ended(-9, over_limit=True),
        "failed",
        1,
        "exceeded --time-limit and had to be killed",
    ),
    "exit code": (
        Ended(7, last_words="one\ntwo"),
        "failed",
        7,
        "the process exited with code 7: two",
    ),
    "out of memory": (
        Ended(-9),
        "failed",
        1,
        "killed by SIGKILL, as the system does when memory runs out",
    ),
    "crashed": (Ended(-11), "failed", 1, "the process was killed by SIGSEGV"),
    "stopped with the sweep": (
        Ended(-15),
        "interrupted",
        143,
        "stopped by SIGTERM before it began",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_REPORT)
def test_a_job_that_could_not_report(name):
    end, state, code, text = WITHOUT_REPORT[name]
    if state == "interrupted":
        signals.note(signal.SIGTERM)
    outcome = job_outcome(end)
    assert (outcome.state, outcome.code, outcome.failure.error.code, outcome.result) == (
        state,
        code,
        code,
        {},
    )
    assert str(outcome.failure.error).endswith(text)


def test_a_report_gives_the_outcome_that_the_job_had(tmp_path):
    record = {"schema": 1, "error": 1}
    (tmp_path / "result.json").write_text(json.dumps(record))
    error = DataError("no rows", where="a.csv", hint="add some")
    for outcome in (
        Outcome("completed", 0, tmp_path, record),
        Outcome("skipped", 0, tmp_path, record),
        Outcome("failed", 11, tmp_path, {}, Failure(error, error)),
        Outcome(
            "completed", 143, tmp_path, record, Failure(STOPPED, STOPPED)
        ),  # among its baselines
    ):
        again = job_outcome(Ended(outcome.code, job_report(outcome)))
        assert (again.state, again.code, again.path, again.result) == (*vars(outcome).values(),)[:4]
        if outcome.failure is not None:
            assert type(again.failure.error) is type(outcome.failure.error)
            assert again.failure.record() == outcome.failure.record()
            assert again.failure.error.code == outcome.code
    assert job_outcome(Ended()) == NOT_STARTED


def test_a_job_that_saves_its_state_at_its_time_limit_has_failed():
    report = job_report(Outcome("interrupted", 143, None, {}, Failure(STOPPED, STOPPED)))
    outcome = job_outcome(Ended(143, report, over_limit=True))
    assert (outcome.state, outcome.code) == ("failed", 143)
    assert str(outcome.failure.error) == "exceeded --time-limit; the state is saved"
    assert type(outcome.failure.error) is exceptions.OrcaError


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("error", [STOPPED, DataError("no rows")])
def test_a_stopped_job_leaves_the_words_to_its_command(error, alone):
    """A search stops trials that fall behind, which is no error, and rerunning its command does not resume them."""
    outcome = Outcome("interrupted", error.code, None, {}, Failure(error, error))
    result = run_result(outcome, alone=alone, pictured=False)
    assert result.code == error.code
    assert result.failures == ([error] if alone or error is not STOPPED else [])
