"""Signals: the state is saved, the exit code says which it was, and the next start ends with the same bits (rows B1-B5)."""

import json
import os
import pty
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, has_reached, results, run_folders, wait_for
from tests.reliability.signal_points import SENT
from tests.report.trees import add_run
from tests.tiers import count
from tests.untrusted.server import drip, serving

FIGURE = "signals: saved and resumed exactly"
SOON_S = 5.0
AT_ONCE_S = 0.5
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
def passed(scorecard):
    """Count a case, whose process ended so many seconds after the signal, as passed."""

    def call(latency=None, at_once=True):
        if latency is not None:
            assert latency < SOON_S
        scorecard.add(FIGURE, cases=1, passed=int(at_once), target=0)

    return call


@pytest.fixture
def trial(fork, home, small, tmp_path, reference):
    """Runs of the same experiment, each case in a folder of its own."""
    return Trial(fork, home, [*small, *SHORT], tmp_path, reference)


class Trial:
    def __init__(self, fork, home, words, folder, reference):
        self._fork, self._home, self._words, self._folder = fork, home, words, folder
        self._reference = reference
        self._number = 0
        if not reference:
            self.new_folder()
            assert self.fork().wait(300) == 0
            reference.update(results(self.runs)[0])

    def new_folder(self):
        self._number += 1
        self.runs = self._folder / f"case{self._number}"
        for entry in self._home.rglob("alignments"):  # else there is no alignment to be stopped in
            shutil.rmtree(entry)

    def fork(self, *words, hook="", **more):
        self.sent = self._folder / "sent"
        self.sent.unlink(missing_ok=True)
        command = ["run", *self._words, f"paths.runs={self.runs}", *words]
        return self._fork(*command, hook=hook, more={SENT: str(self.sent)} | more)

    def stopped(self, point, number, plan, *words, **more):
        """Start a run that sends itself signals; returns its exit code and standard error."""
        self.new_folder()
        if point == "features":
            for entry in self._home.rglob("source_features"):
                shutil.rmtree(entry)
        if point == "checkpoint":
            words = (*words, "train.checkpoint_s=0")
        case = self.fork(*words, hook=f"tests.reliability.signal_points:at:{point},{number},{plan}", **more)
        code = case.wait(300)
        assert self.sent.exists(), f"the point '{point}' was not reached {number} times"  # the premise
        self.latency = time.time() - float(self.sent.read_text())
        assert "Traceback" not in case.err, case.err
        return code, case.err

    def has_saved(self, code, stage):
        """Whether the status and the checkpoints say that the run stopped where it was."""
        (run,) = run_folders(self.runs)
        status = json.loads((run / "status.json").read_text())
        saved = stage is None or bool(list((run / stage / "checkpoints").glob("step-*")))
        return (status["state"], status["exit_code"]) == ("interrupted", code) and saved

    def ends_alike(self):
        """Whether the next start completes the same folder with the bits of the uninterrupted run."""
        case = self.fork()
        assert case.wait(300) == 0, case.err
        (run,), (result,) = run_folders(self.runs), results(self.runs)
        keys = ("weights_sha256", "error", "validation_error", "metric_value", "splits")
        return all(result[key] == self._reference[key] for key in keys) and not list(run.rglob(".tmp-*"))


def saved_stage(point):
    """The stage whose checkpoint has to be there, None where there was no step yet."""
    return "3_finetune" if point in ("step", "validation") else None


def cases(points, number, seed):
    """A seeded choice of (point, which time): every point equally often."""
    generator = random.Random(seed)
    return [(points[i % len(points)], generator.randint(1, TIMES[points[i % len(points)]])) for i in range(number)]


SAVED = [("TERM", *case) for case in cases([*TIMES], count(pr=12, nightly=48), seed=1)]
SAVED += [("INT", *case) for case in cases([*TIMES], count(pr=3, nightly=20), seed=2)]
SAVED += [("HUP", *case) for case in cases(["transport", "step"], count(pr=1, nightly=4), seed=5)]


@pytest.mark.parametrize(("name", "point", "number"), SAVED)
def test_a_signal_in_any_phase_saves(trial, passed, name, point, number):
    """B1, B2, B5."""
    code, err = trial.stopped(point, number, name)
    assert code == CODES[name], err
    assert "rerun the same command" in err
    if point != "compose":
        assert trial.has_saved(code, saved_stage(point))
    assert trial.ends_alike()
    passed(trial.latency)


@pytest.mark.parametrize("stage", ["2_align", "3_finetune"] * count(pr=1, nightly=8))
def test_sigterm_from_outside_to_the_command_as_it_is_typed(start, trial, passed, stage):
    """B1, the one case in five that goes through the real command line."""
    trial.new_folder()
    process = start("run", *trial._words, f"paths.runs={trial.runs}", "train.checkpoint_s=0")
    wait_for(trial.runs, f"digits/*/{stage}/checkpoints/step-00000002", process)
    moment = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=60)
    latency = time.monotonic() - moment
    assert process.returncode == 143, err
    assert trial.has_saved(143, stage)
    assert trial.ends_alike()
    passed(latency)


@pytest.mark.parametrize("number", range(1, 1 + count(pr=1, nightly=8)))
def test_sigterm_in_a_download(fork, tmp_path, monkeypatch, passed, number):
    """B1: what has arrived stays, and the next start asks for the rest."""
    (tmp_path / "conf" / "task").mkdir(parents=True)
    content = b"PK\x03\x04" + random.Random(number).randbytes(3_000_000)
    with serving(monkeypatch) as server:
        (tmp_path / "conf" / "task" / "mine.yaml").write_text(
            "# @package _global_\n# Mine.\ndefaults:\n  - override /body: minilm\ntask:\n"
            "  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: mine/a.npz\n"
            f"  data:\n    files:\n      - path: a.npz\n        urls: ['{server.url}/a']\n"
        )
        server.routes["/a"] = drip(len(content), 0.02, content[: 1_000_000 + 100_000 * number])
        words = ["data", "get", "mine", "--config-dir", tmp_path / "conf"]
        more = {"ORCA_HOME": str(tmp_path / "home"), SENT: str(tmp_path / "sent")}
        case = fork(*words, more=more, hook="tests.reliability.signal_points:at:download,1,TERM")
        assert case.wait(60) == 143, case.err
        latency = time.time() - float((tmp_path / "sent").read_text())
        assert "Traceback" not in case.err
        server.file("/a", content)
        case = fork(*words, more=more)
        assert case.wait(60) == 0, case.err
    (file,) = (tmp_path / "home").rglob("a.npz")
    assert file.read_bytes() == content
    passed(latency)


@pytest.mark.parametrize("name", ["TERM", "HUP"] * count(pr=1, nightly=4))
def test_signals_to_a_report(fork, environment, tmp_path, passed, name):
    """B1: nothing is half written."""
    add_run(environment)
    out = tmp_path / "table.md"
    words = ["report", "--format", "md", "--out", out]
    more = {SENT: str(tmp_path / "sent")}
    case = fork(*words, more=more, hook=f"tests.reliability.signal_points:at:report,1,{name}")
    assert case.wait(30) == CODES[name], case.err
    assert "Traceback" not in case.err
    assert not list(tmp_path.glob("*table*"))
    assert fork(*words).wait(30) == 0
    assert out.exists()
    passed()


@pytest.mark.parametrize(
    ("point", "number"), cases(["transport", "step", "checkpoint"], count(pr=2, nightly=20), seed=3)
)
def test_sigint_twice_ends_at_once(trial, passed, point, number):
    """B2: also inside one long operation of a library, and during a save; what was committed is whole.

    In a validation the first signal ends the run before a second one can come.
    """
    code, err = trial.stopped(point, number, "INT+0.3+INT")
    assert code == 130, err
    assert "second SIGINT" in err
    assert trial.ends_alike()
    assert trial.latency < 4 * AT_ONCE_S  # the operation takes many times as long; a busy machine is late itself
    passed(at_once=trial.latency <= AT_ONCE_S)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A fake `scontrol`; returns the file of its calls."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls


@pytest.mark.parametrize(("point", "number"), cases(["transport", "step", "validation"], count(pr=2, nightly=10), 4))
@pytest.mark.parametrize("plan", ["USR1", "USR1+0.5+TERM"][: count(pr=1, nightly=2)])
def test_preemption_is_requeued_once_and_goes_on_in_the_same_folder(trial, scontrol, passed, point, number, plan):
    """B3."""
    ids = {"SLURM_ARRAY_JOB_ID": "470", "SLURM_ARRAY_TASK_ID": "3"} if number % 2 else {}
    code, err = trial.stopped(point, number, plan, SLURM_JOB_ID="4711", **ids)
    assert code == 75, err
    assert "preempted by SIGUSR1" in err
    assert scontrol.read_text().splitlines() == [f"requeue {'470_3' if ids else '4711'}"]
    assert trial.has_saved(75, saved_stage(point))
    assert trial.ends_alike()
    passed(trial.latency)


def test_the_signal_of_preemption_can_be_chosen(trial, scontrol):
    """B3: sites differ."""
    code, _ = trial.stopped("step", 2, "TERM", ORCA_PREEMPTION_SIGNAL="SIGTERM", SLURM_JOB_ID="1")
    assert code == 75
    assert scontrol.read_text() == "requeue 1\n"
    trial.new_folder()
    case = trial.fork(ORCA_PREEMPTION_SIGNAL="KILL")
    assert case.wait() == 10
    assert "ORCA_PREEMPTION_SIGNAL: 'KILL' cannot be used; allowed: HUP, TERM, USR1, USR2, XCPU" in case.err


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"] * count(pr=1, nightly=5))
def test_signals_to_the_group_of_a_sweep(trial, passed, name):
    """B4: the running job saves once, the sweep says so, and no process is left."""
    trial.new_folder()
    words = ["-m", "seed=0,1", "metric=none", "train.epochs=60", "train.checkpoint_s=0"]
    case = trial.fork(*words, hook="tests.reliability.job_faults:default_signals:")
    wait_until(lambda: has_reached(trial.runs, "digits/*_s0_*/3_finetune/checkpoints/step-00000003"), case)
    (run,) = run_folders(trial.runs)
    job = json.loads((run / "status.json").read_text())["pid"]
    assert job != case.pid  # the premise: a process of its own
    moment = time.monotonic()
    os.killpg(case.pid, signal.Signals[f"SIG{name}"])
    code = case.wait(60)
    latency = time.monotonic() - moment
    assert code == CODES[name], case.err
    assert "1 interrupted, 1 not started" in case.out
    assert case.err.count(f"[1/2] orca: error: {'preempted' if name == 'USR1' else 'stopped'} by SIG{name}") == 1
    assert not Path(f"/proc/{job}").exists()
    assert len(run_folders(trial.runs)) == 1
    assert json.loads((run / "status.json").read_text())["exit_code"] == CODES[name]
    passed(latency)


def wait_until(happened, case, timeout_s=90.0):
    end = time.monotonic() + timeout_s
    while not happened():
        assert case.poll() is None, case.err
        assert time.monotonic() < end, case.err
        time.sleep(0.01)


def test_a_terminal_that_is_closed(trial, home, passed):
    """B5: the system sends SIGHUP, and every write to the terminal fails from then on."""
    trial.new_folder()
    words = ["run", *trial._words, f"paths.runs={trial.runs}", "train.checkpoint_s=0", "train.epochs=60"]
    pid, terminal = pty.fork()
    if pid == 0:
        variables = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, "-m", "orca_cli", *words], variables)
    os.set_blocking(terminal, False)
    end = time.monotonic() + 90
    while not has_reached(trial.runs, "digits/*/3_finetune/checkpoints/step-00000003") and time.monotonic() < end:
        with_output(terminal)
        time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert trial.has_saved(129, "3_finetune")
    passed()


def with_output(terminal):
    try:
        return os.read(terminal, 65536)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("number", range(count(pr=1, nightly=5)))
def test_a_pipe_whose_reader_has_gone(start, trial, passed, number):
    """B5: the work goes on, and its records are in the run's folder."""
    trial.new_folder()
    process = start("run", *trial._words, f"paths.runs={trial.runs}")
    process.stdout.close()
    if number % 2:
        process.stderr.close()
        process.wait(120)
    else:
        assert "Traceback" not in process.stderr.read()
    assert process.wait(120) == 0
    assert trial.ends_alike()  # completed: nothing is run again
    passed()


@pytest.mark.parametrize(("point", "number"), cases(["transport", "step"], count(pr=1, nightly=5), seed=6))
def test_a_stop_and_its_end_change_nothing(trial, passed, point, number):
    """B5."""
    code, err = trial.stopped(point, number, "STOP+1+CONT")
    assert code == 0, err
    assert trial.ends_alike()
    assert "resumed" not in err
    passed()
