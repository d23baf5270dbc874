"""How a job of a driver ended, by its report or its exit status."""

import dataclasses
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
    "over its limit": (Ended(status=-9, over_limit=True), "failed", 1, "exceeded --time-limit and had to be killed"),
    "exit code": (Ended(status=7, last_words="one\ntwo"), "failed", 7, "the process exited with code 7: two"),
    "out of memory": (Ended(status=-9), "failed", 1, "killed by SIGKILL, probably because memory ran out"),
    "crashed": (Ended(status=-11), "failed", 1, "the process was killed by SIGSEGV"),
    "stopped with the sweep": (Ended(status=-15), "interrupted", 143, "the run was stopped by SIGTERM before it began"),
}  # fmt: skip


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


REFUSED = DataError("no rows", where="a.csv", hint="add some")
RESULT = {"schema": 1, "error": 1}
OUTCOMES = {
    "completed": Outcome(state="completed", code=0, result=RESULT),
    "skipped": Outcome(state="skipped", code=0, result=RESULT),
    "failed": Outcome(state="failed", code=11, failure=Failure(REFUSED, REFUSED)),
    "stopped among its baselines": Outcome(
        state="completed", code=143, result=RESULT, failure=Failure(STOPPED, STOPPED)
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_report_gives_the_outcome_that_the_job_had(tmp_path, name):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    outcome = dataclasses.replace(OUTCOMES[name], path=tmp_path)
    again = job_outcome(Ended(status=outcome.code, report=job_report(outcome)))
    assert dataclasses.replace(again, failure=None) == dataclasses.replace(outcome, failure=None)
    assert (again.failure is None) == (outcome.failure is None)
    if outcome.failure is not None:
        assert type(again.failure.error) is type(outcome.failure.error)
        assert again.failure.record() == outcome.failure.record()
        assert again.failure.error.code == outcome.code


def test_a_job_without_an_end_has_not_started():
    assert job_outcome(Ended()) == NOT_STARTED


def test_a_job_that_saves_its_state_at_its_limit_has_failed():
    report = job_report(Outcome(state="interrupted", code=143, failure=Failure(STOPPED, STOPPED)))
    outcome = job_outcome(Ended(status=143, report=report, over_limit=True))
    assert (outcome.state, outcome.code) == ("failed", 143)
    assert str(outcome.failure.error) == "the run exceeded --time-limit; its state is saved"
    assert type(outcome.failure.error) is exceptions.OrcaError


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("error", [STOPPED, DataError("no rows")])
def test_a_stopped_job_leaves_the_words_to_its_command(error, alone):
    """A search stops trials that fall behind: no error, and a rerun does not resume them."""
    outcome = Outcome(state="interrupted", code=error.code, failure=Failure(error, error))
    result = run_result(outcome, alone=alone, pictured=False)
    assert result.code == error.code
    assert result.failures == ([error] if alone or error is not STOPPED else [])
