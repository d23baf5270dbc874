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

import pytest

from tests.cli.conftest import ROOT, has_reached, results, run_folders, wait_for
from tests.reliability.signal_points import SENT
from tests.tiers import count

FIGURE = "signals: saved and resumed exactly"
SOON_S = 5.0
AT_ONCE_S = 2.0
SHORT = ["metric=otdd_by_class", "align.epochs=3", "train.epochs=3"]  # a distance for every class of every step
CODES = {"TERM": 143, "INT": 130, "HUP": 129, "USR1": 75}
# Point -> how often it is entered in such a run, at least.
TIMES = {"compose": 1, "features": 1, "transport": 3, "step": 12, "validation": 3, "checkpoint": 4}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference():
    """The result of a run that nothing interrupted; filled by the first test that needs it."""
    return {}


@pytest.fixture
def trial(fork, home, small, tmp_path, reference, counted):
    """Runs of the same experiment, each case in a folder of its own."""
    return Trial(fork, home, [*small, *SHORT], tmp_path, reference, counted)


class Trial:
    def __init__(self, fork, home, words, folder, reference, counted):
        self._fork, self._home, self.words, self._folder = fork, home, words, folder
        self._reference, self._counted = reference, counted
        if not reference:
            self.new_folder("reference")
            assert self.fork().wait(300) == 0
            reference.update(results(self.runs)[0])
        self.new_folder("runs")

    def new_folder(self, name):
        self.runs = self._folder / name
        for entry in self._home.rglob("alignments"):  # else there is no alignment to be stopped in
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
        case = self.fork(*words, hook=f"tests.reliability.signal_points:at:{point},{number},{plan}", **more)
        code, sent = case.wait(300), self._folder / "sent"
        assert sent.exists(), f"the point '{point}' was not reached {number} times"  # the premise
        self.latency = time.time() - float(sent.read_text())
        assert "Traceback" not in case.err, case.err
        return code, case.err

    def has_saved(self, code, stage):
        """Whether the status and the checkpoints say that the run stopped where it was."""
        (run,) = run_folders(self.runs)
        status = json.loads((run / "status.json").read_text())
        saved = stage is None or bool(list((run / stage / "checkpoints").glob("step-*")))
        return (status["state"], status["exit_code"]) == ("interrupted", code) and saved

    def ends_alike(self, latency=0.0):
        """The next start completes the same folder with the bits of the uninterrupted run; the case is counted."""
        assert latency < SOON_S
        case = self.fork()
        assert case.wait(300) == 0, case.err
        (run,), (result,) = run_folders(self.runs), results(self.runs)
        assert not list(run.rglob(".tmp-*"))
        keys = ("weights_sha256", "error", "validation_error", "metric_value", "splits")
        self._counted(FIGURE, all(result[key] == self._reference[key] for key in keys), result, target=0)


def saved_stage(point):
    """The stage whose checkpoint has to be there, None where there was no step yet."""
    return "3_finetune" if point in ("step", "validation") else None


def cases(points, number, seed):
    """A seeded choice of (point, which time): every point equally often."""
    generator = random.Random(seed)
    return [(point, generator.randint(1, TIMES[point])) for point in (points * number)[:number]]


SAVED = [("TERM", *case) for case in cases(list(TIMES), count(pr=6, nightly=48), seed=1)]
SAVED += [("INT", *case) for case in cases(list(TIMES), count(pr=2, nightly=20), seed=2)]
SAVED += [("HUP", *case) for case in cases(["transport", "step"], count(pr=1, nightly=4), seed=5)]


@pytest.mark.parametrize(("name", "point", "number"), SAVED)
def test_a_signal_in_any_phase_saves(trial, name, point, number):
    """B1, B2, B5."""
    code, err = trial.stopped(point, number, name)
    assert code == CODES[name], err
    assert "rerun the same command" in err
    assert point == "compose" or trial.has_saved(code, saved_stage(point))
    trial.ends_alike(trial.latency)


@pytest.mark.parametrize("stage", ["2_align", "3_finetune"][: count(pr=1, nightly=2)] * count(pr=1, nightly=8))
def test_sigterm_from_outside_to_the_command_as_it_is_typed(start, trial, stage):
    """B1, the one case in five that goes through the real command line."""
    process = start("run", *trial.words, f"paths.runs={trial.runs}", "train.checkpoint_s=0")
    wait_for(trial.runs, f"digits/*/{stage}/checkpoints/step-00000002", process)
    moment = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=60)
    latency = time.monotonic() - moment
    assert process.returncode == 143, err
    assert trial.has_saved(143, stage)
    trial.ends_alike(latency)


@pytest.mark.parametrize(
    ("point", "number"), cases(["transport", "checkpoint", "step"], count(pr=2, nightly=20), seed=3)
)
def test_sigint_twice_ends_at_once(trial, point, number):
    """B2: also inside one long operation of a library, and during a save; what was committed is whole.

    In a validation the first signal ends the run before a second one can come.
    """
    code, err = trial.stopped(point, number, "INT+0.3+INT")
    assert code == 130, err
    assert "second SIGINT" in err
    assert trial.latency < AT_ONCE_S  # the operation takes many times as long; a busy machine is late itself
    trial.ends_alike()


@pytest.mark.parametrize(("point", "number"), cases(["transport", "step", "validation"], count(pr=2, nightly=10), 4))
@pytest.mark.parametrize("plan", ["USR1", "USR1+0.5+TERM"][: count(pr=1, nightly=2)])
def test_a_preempted_run_goes_on_in_the_same_folder(trial, point, number, plan):
    """B3."""
    code, err = trial.stopped(point, number, plan)
    assert code == 75, err
    assert "preempted by SIGUSR1" in err
    assert trial.has_saved(75, saved_stage(point))
    trial.ends_alike(trial.latency)


@pytest.mark.parametrize("name", ["INT", "USR1", *["TERM", "HUP"][: count(pr=0, nightly=2)]] * count(pr=1, nightly=5))
def test_signals_to_the_group_of_a_sweep(trial, counted, name):
    """B4: the running job saves once, the sweep says so, and no process is left."""
    words = ["-m", "seed=0,1", "metric=none", "train.epochs=60", "train.checkpoint_s=0"]
    case = trial.fork(*words, hook="tests.reliability.job_faults:default_signals:")
    wait_for(trial.runs, "digits/*_s0_*/3_finetune/checkpoints/step-00000003", case)
    (run,) = run_folders(trial.runs)
    job = json.loads((run / "status.json").read_text())["pid"]
    assert job != case.pid  # the premise: a process of its own
    moment = time.monotonic()
    os.killpg(case.pid, signal.Signals[f"SIG{name}"])
    code = case.wait(60)
    assert time.monotonic() - moment < SOON_S
    assert code == CODES[name], case.err
    assert "1 interrupted, 1 not started" in case.out
    assert case.err.count(f"[1/2] orca: error: {'preempted' if name == 'USR1' else 'stopped'} by SIG{name}") == 1
    assert not Path(f"/proc/{job}").exists()
    assert run_folders(trial.runs) == [run]
    counted(FIGURE, json.loads((run / "status.json").read_text())["exit_code"] == CODES[name], target=0)


def test_a_terminal_that_is_closed(trial, counted):
    """B5: the system sends SIGHUP, and every write to the terminal fails from then on."""
    words = ["run", *trial.words, f"paths.runs={trial.runs}", "train.checkpoint_s=0", "train.epochs=60"]
    pid, terminal = pty.fork()
    if pid == 0:
        variables = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, "-m", "orca_cli", *words], variables)
    os.set_blocking(terminal, False)
    end = time.monotonic() + 90
    while not has_reached(trial.runs, "digits/*/3_finetune/checkpoints/step-00000003") and time.monotonic() < end:
        with suppress(BlockingIOError):
            os.read(terminal, 65536)
        time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    counted(FIGURE, trial.has_saved(129, "3_finetune"), target=0)


@pytest.mark.parametrize(("point", "number"), cases(["transport", "step"], count(pr=1, nightly=5), seed=6))
def test_a_stop_and_its_end_change_nothing(trial, point, number):
    """B5."""
    code, err = trial.stopped(point, number, "STOP+1+CONT")
    assert code == 0, err
    assert "resumed" not in err
    trial.ends_alike()
