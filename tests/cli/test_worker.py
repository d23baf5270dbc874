"""`orca run -m ... --enqueue` and `orca worker`: jobs in a shared folder, workers that fail, die, stall and are stopped."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from orca_cli import storage
from orca_cli.cli import main
from tests.cli.conftest import run_folders
from tests.reliability.job_faults import STARTS, results

CHEAP = "tests.reliability.job_faults:stages:{};{};{}"


@pytest.fixture
def said(environment, capfd):
    """Call the command line in this process; returns what it says, read from JSON."""

    def call(*words):
        capfd.readouterr()
        assert main([*words, "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    return call


@pytest.fixture
def enqueue(said):
    """Put a sweep into the folder of runs; returns its name."""
    return lambda *words: said("run", "-m", *words, "baselines=none", "--enqueue")["sweep"]


@pytest.fixture
def jobs(said):
    """Return the records of a sweep's jobs, as `orca worker --list` gives them."""
    return lambda name: said("worker", "--list", name)["jobs"]


@pytest.fixture
def notes(tmp_path):
    """Return the number of jobs that started and ended, by what they note down."""
    path = tmp_path / "notes"

    def count(word):
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith(word))

    count.path = path
    return count


@pytest.fixture
def worker(fork, notes):
    """Start a worker whose jobs take some time and train nothing."""

    def start(name, *words, seconds=0.0, seed="-", kind="-"):
        hook = CHEAP.format(seconds, seed, kind)
        return fork("worker", name, *words, hook=hook, more={STARTS: str(notes.path)})

    return start


def until(condition, case, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, case.err
        time.sleep(0.02)


def files(environment, name, kind):
    return list((environment / ".sweeps" / name / "jobs").glob(f"*.{kind}"))


def test_a_failed_job_is_tried_again_and_recorded_and_the_others_are_done(
    enqueue, jobs, worker, notes, capfd, environment
):
    name = enqueue("metric=none", "seed=0,1,2")
    assert len(files(environment, name, "lease")) == 0
    assert not run_folders(environment)
    case = worker(name, "-q", seed="1", kind="raise")
    assert case.wait(120) == 3, case.err
    assert f"orca: error: {name}: 1 of 3 jobs failed; see orca worker --list {name}" in case.err
    assert "Traceback" not in case.err
    assert notes("end") == {"0": 1, "2": 1}
    assert notes("start")["1"] == 2
    records = jobs(name)
    assert [record["state"] for record in records] == ["done", "failed", "done"]
    assert (records[1]["failed"], records[1]["pid"]) == (2, case.pid)
    assert "unexpected ZeroDivisionError: on purpose" in records[1]["error"]
    assert main(["worker", "--list"]) == 0
    assert capfd.readouterr().out.splitlines()[1].split() == [name, "3", "0", "0", "2", "1"]
    # Mended, and put there again: only what is missing is done.
    assert enqueue("metric=none", "seed=0,1,2") == name
    again = worker(name, "-q")
    assert again.wait(120) == 0, again.err
    assert notes("end") == {"0": 1, "1": 1, "2": 1}
    assert len(results(environment)) == len(run_folders(environment)) == 3


def test_a_run_that_is_another_one_on_this_machine_is_refused(enqueue, worker, tmp_path, environment):
    body = tmp_path / "body"
    body.mkdir()
    (body / "config.json").write_text("{}")
    name = enqueue("metric=none", "seed=0", f"body.checkpoint={body}")
    (body / "config.json").write_text("{ }")
    case = worker(name, "-q")
    assert case.wait(120) == 10, case.err
    assert f"job 1 of {name}: is another experiment on this machine; start the worker in {tmp_path}" in case.err
    assert not files(environment, name, "*")
    assert not run_folders(environment)


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("USR1", 75)])
def test_a_stopped_worker_gives_its_job_back(enqueue, jobs, worker, notes, environment, name, code):
    sweep = enqueue("metric=none", "seed=0,1")
    first = worker(sweep, "-q", seconds=60)
    until(lambda: notes("start"), first)
    assert [job["state"] for job in jobs(sweep)] == ["leased", "todo"]
    first.send(signal.Signals[f"SIG{name}"])
    assert first.wait(60) == code, first.err
    assert [job["state"] for job in jobs(sweep)] == ["todo", "todo"]
    (run,) = run_folders(environment)
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    second = worker(sweep, "-q")
    assert second.wait(120) == 0, second.err
    assert notes("end") == {"0": 1, "1": 1}
    assert len(run_folders(environment)) == 2


def test_a_job_sees_one_gpu_that_no_other_job_has(enqueue, fork, notes, environment, tmp_path):
    name = enqueue("metric=none", "seed=0,1")
    more = {STARTS: str(notes.path)}
    with storage.lock(tmp_path / "locks" / "7.0.lock"):
        case = fork(
            "worker", name, "-q", hook=f"tests.reliability.job_faults:with_gpus:{tmp_path / 'locks'};7,9", more=more
        )
        assert case.wait(120) == 0, case.err
    assert notes("gpu") == {"9": 2}


@pytest.mark.slow
def test_four_workers_of_which_two_are_killed_do_forty_runs_once(enqueue, jobs, worker, notes, environment):
    name = enqueue("metric=none", "seed=range(40)")
    cases = [worker(name, "--wait", "-q", "--lease", "8", seconds=0.2) for _ in range(4)]
    for number, case in enumerate(cases[:2], 1):
        until(lambda wanted=6 * number: notes("end").total() >= wanted, case)
        os.kill(case.pid, signal.SIGKILL)
        assert case.wait(20) == -signal.SIGKILL
    for case in cases[2:]:
        assert case.wait(300) == 0, case.err
    ended = notes("end")
    assert set(ended.values()) == {1}
    assert len(ended) >= 38  # a worker may be killed between a result and its note
    assert len(results(environment)) == len(run_folders(environment)) == 40
    records = jobs(name)
    assert {record["state"] for record in records} == {"done"}
    assert sum(record["lost"] for record in records) <= 2  # at most what the killed ones had


@pytest.mark.slow
@pytest.mark.parametrize("with_its_job", [False, True])
def test_a_stalled_worker_comes_back_after_its_lease_was_taken(enqueue, jobs, worker, notes, environment, with_its_job):
    """Its job holds the run's own lock, so nobody else can do it meanwhile; then it is stopped, and another goes on."""
    name = enqueue("metric=none", "seed=0")
    stalled = worker(name, "--lease", "3", seconds=12 if with_its_job else 6)
    until(lambda: notes("start"), stalled)
    (run,) = run_folders(environment)
    pids = [stalled.pid] + [json.loads((run / "status.json").read_text())["pid"]] * with_its_job
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    other = worker(name, "--wait", "--lease", "3", seconds=0)
    until(lambda: files(environment, name, "lost"), other)
    if with_its_job:
        time.sleep(1.0)
        assert other.poll() is None  # it waits for the run's lock
    else:
        assert other.wait(60) == 0, other.err
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    assert stalled.wait(60) == 0, stalled.err
    assert other.wait(60) == 0, other.err
    assert notes("end") == {"0": 1}
    assert len(run_folders(environment)) == len(results(environment)) == 1
    assert "its lease was not renewed in time, and was taken away" in stalled.err
    assert jobs(name)[0]["state"] == "done"


@pytest.mark.slow
def test_killed_in_training_a_real_run_resumes_with_another_worker_and_ends_with_the_same_bits(
    enqueue, jobs, fork, environment, small, tmp_path
):
    words = [*small, "metric=none", "seed=0,1,2", "train.checkpoint_s=0", "train.epochs=8"]
    name = enqueue(*words)
    first = fork("worker", name, "-q", "--lease", "3")
    until(lambda: list(environment.glob("*/*/3_finetune/checkpoints/step-*")), first)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(20) == -signal.SIGKILL
    second = fork("worker", name, "-q", "--lease", "3", "--wait")
    assert second.wait(180) == 0, second.err
    assert [job["state"] for job in jobs(name)] == ["done"] * 3
    runs = run_folders(environment)
    attempts = sorted(len(json.loads((run / "status.json").read_text())["attempts"]) for run in runs)
    assert len(runs) == 3
    assert attempts == [1, 1, 2]
    alone = fork("run", "-m", *words, f"paths.runs={tmp_path / 'alone'}")
    assert alone.wait(180) == 0, alone.err
    bits = [{r["seed"]: r["weights_sha256"] for r in results(folder)} for folder in (environment, tmp_path / "alone")]
    assert bits[0] == bits[1]
    assert len(bits[0]) == 3
