"""Signals: the state is saved, the exit code says which it was, and the next start ends with the same bits (rows B1-B5)."""

import json
import os
import pty
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.cli.conftest import has_reached, results, run_folders, wait_for
from tests.reliability.conftest import with_site
from tests.reliability.job_faults import HELD
from tests.reliability.signal_points import SENT
from tests.tiers import count

FIGURE = "signals: saved and resumed exactly"
SHORT = [
    "metric=otdd_by_class",
    "align.epochs=3",
    "train.epochs=3",
]  # a distance for every class of every step
CODES = {"TERM": 143, "INT": 130, "HUP": 129, "USR1": 75, "USR1+0.5+TERM": 75, "INT+0.3+INT": 130}
SAYS = {
    "USR1": "preempted by SIGUSR1",
    "USR1+0.5+TERM": "preempted by SIGUSR1",
    "INT+0.3+INT": "second SIGINT",
}
# Point -> how often it is entered in such a run, at least.
TIMES = {"compose": 1, "features": 1, "transport": 3, "step": 12, "validation": 3, "checkpoint": 4}

pytestmark = pytest.mark.slow


@pytest.fixture
def trial(fork, home, small, tmp_path, counted):
    return Trial(fork, home, [*small, *SHORT], tmp_path, counted)


class Trial:
    """Runs of the same experiment, each case in a folder of its own."""

    reference = MappingProxyType({})  # the result of one that nothing interrupted

    def __init__(self, fork, home, words, folder, counted):
        self._fork, self._home, self.words, self._folder = fork, home, words, folder
        self._counted, self.gate = counted, folder / "gate"
        self.gate.mkdir()
        (self.gate / HELD).touch()
        self.runs = folder / "reference"
        if not Trial.reference:
            assert self.fork().wait(600) == 0
            (Trial.reference,) = results(self.runs)
        self.runs = folder / "runs"
        for entry in home.rglob("alignments"):  # else there is no alignment to be stopped in
            shutil.rmtree(entry)

    def fork(self, *words, hook="", **more):
        command = ["run", *self.words, f"paths.runs={self.runs}", *words]
        return self._fork(*command, hook=hook, more={SENT: str(self._folder / "sent")} | more)

    def stopped(self, point, number, plan, *words, **more):
        """Start a run that sends itself signals; returns its exit code and standard error."""
        if point == "features":
            for entry in self._home.rglob("source_features"):
                shutil.rmtree(entry)
        if point == "checkpoint":
            words = (*words, "train.checkpoint_s=0")
        case = self.fork(
            *words, hook=f"tests.reliability.signal_points:at:{point},{number},{plan}", **more
        )
        code = case.wait(600)
        assert (self._folder / "sent").exists(), (
            f"the point '{point}' was not reached {number} times"
        )  # the premise
        assert "Traceback" not in case.err, case.err
        return code, case.err

    def has_saved(self, code, point):
        """Whether the status and, once there was a step, the checkpoints say that the run stopped where it was."""
        (run,) = run_folders(self.runs)
        status = json.loads((run / "status.json").read_text())
        saved = point not in ("step", "validation") or bool(
            list(run.glob("3_finetune/checkpoints/step-*"))
        )
        return (status["state"], status["exit_code"]) == ("interrupted", code) and saved

    def ends_alike(self):
        """The next start completes the same folder with the bits of the uninterrupted run; the case is counted."""
        case = self.fork()
        assert case.wait(600) == 0, case.err
        (run,), (result,) = run_folders(self.runs), results(self.runs)
        assert not list(run.rglob(".tmp-*"))
        keys = ("weights_sha256", "error", "validation_error", "metric_value", "splits")
        self._counted(
            FIGURE, all(result[key] == self.reference[key] for key in keys), result, target=0
        )


def cases(plan, points, number, seed):
    """A seeded choice of (plan, point, which time): every point equally often."""
    generator = random.Random(seed)
    return [
        (plan, point, generator.randint(1, TIMES[point])) for point in (points * number)[:number]
    ]


SAVED = [
    *cases("TERM", list(TIMES), count(pr=6, nightly=86), seed=1),
    *cases("INT", list(TIMES)[::-1], count(pr=1, nightly=20), seed=2),
    *cases("HUP", ["transport", "step"], count(pr=1, nightly=4), seed=5),
    *cases("USR1", ["step", "transport", "validation"], count(pr=1, nightly=10), seed=4),
    *cases("USR1+0.5+TERM", ["step", "transport", "validation"], count(pr=0, nightly=10), seed=4),
    # Also inside one operation of a library that takes hours, and during a save.
    *cases("INT+0.3+INT", ["transport", "checkpoint", "step"], count(pr=2, nightly=20), seed=3),
]


@pytest.mark.parametrize(("plan", "point", "number"), SAVED)
def test_a_signal_in_any_phase_saves(trial, plan, point, number):
    """B1, B2, B3, B5: a second SIGINT ends the run at once, and what was committed is whole."""
    code, err = trial.stopped(point, number, plan)
    assert code == CODES[plan], err
    assert SAYS.get(plan, "rerun the same command") in err
    assert point == "compose" or plan == "INT+0.3+INT" or trial.has_saved(code, point)
    trial.ends_alike()


@pytest.mark.parametrize(
    "name", ["INT", "USR1", *["TERM", "HUP"][: count(pr=0, nightly=2)]] * count(pr=1, nightly=5)
)
def test_signals_to_the_group_of_a_sweep(trial, counted, name):
    """B4: the running job saves once, the sweep says so, and no process is left."""
    words = ["-m", "seed=0,1", "metric=none", "train.checkpoint_s=0"]
    case = trial.fork(*words, hook=f"tests.reliability.job_faults:hold:{trial.gate}")
    wait_for(trial.gate, "[0-9]*", case, 600)
    (run,) = run_folders(trial.runs)
    job = json.loads((run / "status.json").read_text())["pid"]
    assert job != case.pid  # the premise: a process of its own
    os.killpg(case.pid, signal.Signals[f"SIG{name}"])
    code = case.wait(600)
    assert code == CODES[name], case.err
    assert "1 interrupted, 1 not started" in case.out
    assert (
        case.err.count(
            f"[1/2] orca: error: {'preempted' if name == 'USR1' else 'stopped'} by SIG{name}"
        )
        == 1
    )
    assert not Path(f"/proc/{job}").exists()
    assert run_folders(trial.runs) == [run]
    counted(
        FIGURE, json.loads((run / "status.json").read_text())["exit_code"] == CODES[name], target=0
    )


def test_a_terminal_that_is_closed(trial, tmp_path, counted):
    """B5: the system sends SIGHUP, and every write to the terminal fails from then on."""
    words = ["run", *trial.words, f"paths.runs={trial.runs}", "train.checkpoint_s=0"]
    pid, terminal = pty.fork()
    if pid == 0:
        held = f"from tests.reliability import job_faults\njob_faults.hold({str(trial.gate)!r})"
        variables = os.environ | {"TERM": "xterm"} | with_site(tmp_path / "site", held)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, "-m", "orca_cli", *words], variables)
    os.set_blocking(terminal, False)
    end = time.monotonic() + 600
    while not has_reached(trial.gate, "[0-9]*"):
        assert time.monotonic() < end
        with suppress(BlockingIOError):
            os.read(terminal, 65536)
        time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    counted(FIGURE, trial.has_saved(129, "step"), target=0)


@pytest.mark.parametrize(
    ("plan", "point", "number"),
    cases("STOP+1+CONT", ["transport", "step"], count(pr=1, nightly=5), seed=6),
)
def test_a_stop_and_its_end_change_nothing(trial, plan, point, number):
    """B5."""
    code, err = trial.stopped(point, number, plan)
    assert code == 0, err
    assert "resumed" not in err
    trial.ends_alike()
