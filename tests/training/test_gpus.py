"""One GPU for each job, by lock files; with a list of GPUs that are not there."""

import os
import time
from contextlib import suppress

import pytest

from orca_cli import signals
from orca_cli.exceptions import StorageError
from orca_cli.training import gpus


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def job(tmp_path):
    """Start a process that takes a GPU, says so in a file, and keeps it for some seconds; 0 where it was interrupted."""
    started = []

    def start(number, names, seconds):
        pid = os.fork()
        if pid == 0:
            code = 1
            with suppress(BaseException):
                with suppress(signals.InterruptionError), signals.deferred():
                    (tmp_path / f"ready-{number}").touch()
                    name = gpus.take(names, tmp_path / "locks")
                    begun = time.monotonic()
                    assert (
                        name
                        == gpus.take(names, tmp_path / "locks")
                        == os.environ["CUDA_VISIBLE_DEVICES"]
                    )
                    time.sleep(seconds)
                    (tmp_path / f"job-{number}").write_text(f"{name} {begun} {time.monotonic()}")
                code = 0
            os._exit(code)
        started.append(pid)
        until((tmp_path / f"ready-{number}").exists)
        return pid

    yield start
    for pid in started:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def wait(pid, code=0):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_no_gpu_has_more_jobs_at_a_time_than_it_may(job, tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.JOBS_PER_GPU, "2")
    for pid in [job(number, ["0", "GPU-5d/a"], 0.2) for number in range(6)]:
        wait(pid)
    jobs = [(tmp_path / f"job-{number}").read_text().split() for number in range(6)]
    assert {name for name, _, _ in jobs} == {"0", "GPU-5d/a"}
    at_once = [
        sum(
            other == name and float(start) <= float(begun) < float(end)
            for other, start, end in jobs
        )
        for name, begun, _ in jobs
    ]
    assert max(at_once) == 2


def test_a_signal_ends_the_wait_and_a_killed_job_frees_its_gpu(job, tmp_path):
    holder = job(0, ["3"], 60.0)
    until(lambda: list(tmp_path.rglob("*.lock")))
    waiting = job(1, ["3"], 60.0)
    os.kill(waiting, 15)
    wait(waiting)
    assert not (tmp_path / "job-1").exists()
    os.kill(holder, 9)
    wait(holder, -9)
    wait(job(2, ["3"], 0.0))
    assert (tmp_path / "job-2").read_text().startswith("3 ")


def test_a_folder_of_locks_that_is_a_link_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"orca-gpus-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="does not belong to this user"):
        gpus.take(["0"])
