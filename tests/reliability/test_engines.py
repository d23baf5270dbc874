"""A sweep by each executor while jobs, workers, nodes and drivers are killed; `engine_faults` does it with 40 jobs."""

import importlib.util
import subprocess
import time
from pathlib import Path

import pytest

from orca_cli.exceptions import ConfigError
from orca_cli.launching.process import attend
from tests.reliability import fake_slurm
from tests.reliability.engine_faults import Bench, engine, run

pytestmark = pytest.mark.slow

NEEDS = {"local": "json", "ray": "ray", "slurm": "submitit"}
FAULTS = {
    "local": ["job", "second driver", "disk", "driver"],
    "ray": ["job", "worker", "raylet", "driver"],
    "slurm": ["job", "preempt", "worker", "driver"],
}


@pytest.fixture
def bench(request, tmp_path):
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"the extra {request.param} is not installed")
    return Bench(tmp_path, request.param, 6)


@pytest.mark.parametrize("bench", FAULTS, indirect=True)
def test_six_runs_survive_what_is_lost_with_the_bits_of_undisturbed_ones(bench, scorecard):
    problems = run(bench, FAULTS[bench.on])
    assert not problems, "\n".join([*problems, *(path.read_text() for path in bench.folder.glob("driver-*.log"))])
    assert bench.done == FAULTS[bench.on]  # the premise
    logs = "".join(path.read_text() for path in bench.folder.glob("driver-*.log"))
    assert not bench.deadly or "1 of 7 runs is not completed" in logs  # the one that kills its worker every time
    scorecard.add(
        f"sweeps on {bench.on} with faults / every run completed once with its bits", cases=1, passed=1, target=1
    )


@pytest.mark.parametrize("bench", ["slurm"], indirect=True)
def test_jobs_are_arrays_and_what_a_dead_driver_left_in_the_queue_is_withdrawn(bench):
    bench.deadly = False
    with engine(bench):
        slurm = bench.folder / "slurm"
        driver = bench.start("--gpus", "1", "--time-limit", "1h")
        assert bench.wait_for_work(driver)
        driver.kill()
        driver.wait()
        assert sum(words[0] == "sbatch" for words in fake_slurm.command_lines(slurm)) == 1
        script = next((slurm / "jobs").iterdir()).joinpath("script").read_text()
        for line in ("array=0-5%6", "cpus-per-task=1", "gpus=1", "job-name=orca-digits-", "signal=USR1@120", "time=63"):
            assert f"#SBATCH --{line}" in script, script
        with fake_slurm.hold(slurm):
            left = {job for job in (slurm / "jobs").iterdir() if fake_slurm.read(job, "state") == "PENDING"}
            assert left
            fake_slurm.end(slurm, next(iter(fake_slurm.running(slurm))), "NODE_FAIL")  # while nobody watches
            again, end = bench.start(), time.monotonic() + 300
            while time.monotonic() < end and any(fake_slurm.read(job, "state") == "PENDING" for job in left):
                time.sleep(0.05)
            assert time.monotonic() < end, (bench.folder / "driver-1.log").read_text()
        fake_slurm.end(slurm, second_drivers_job(slurm, again), "PREEMPTED")  # by a site that cancels
        assert again.wait() == 0, (bench.folder / "driver-1.log").read_text()
    assert bench.check() == []
    assert "SLURM ended it: PREEMPTED; trying it again" in (bench.folder / "driver-1.log").read_text()


def second_drivers_job(slurm: Path, driver: subprocess.Popen[str]) -> str:
    """Return a running job of the second array, once there is one: jobs of the first may still be running."""
    while driver.poll() is None:
        for job in fake_slurm.running(slurm):
            if int(job.split("_")[0]) > 1000:
                return job
        time.sleep(0.05)
    raise AssertionError("the second driver ended before a job of its array was seen")


def test_a_machine_that_does_not_see_the_folder_of_runs_says_so(tmp_path):
    missing = str(tmp_path / "nowhere")
    end = attend({"label": "[1/1]", "words": ["run"], "seen": missing})
    assert (end["status"], end["report"]["error"]["kind"]) == (ConfigError.code, "ConfigError")
