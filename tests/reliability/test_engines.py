"""A sweep by each executor while jobs, workers, nodes and drivers are killed; `engine_faults` does it with 40 jobs."""

import importlib.util
import signal

import pytest

from orca_cli.exceptions import ConfigError
from orca_cli.launching.process import attend
from tests.reliability import fake_slurm
from tests.reliability.engine_faults import FAULTS, Bench, engine, run
from tests.tiers import count

pytestmark = pytest.mark.slow

NEEDS = {"local": "json", "ray": "ray", "slurm": "submitit"}
FEW = {
    "local": ["job", "second driver", "disk", "driver"],
    "ray": ["worker", "driver", "raylet"],
}  # SLURM's are below
SWEEPS = count(pr=FEW, nightly=FAULTS)


@pytest.fixture
def bench(request, fork_server, tmp_path):
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"the extra {request.param} is not installed")
    return Bench(fork_server, tmp_path, request.param, count(pr=2, nightly=6))


@pytest.fixture
def held(bench, scorecard):
    """Count a sweep, with whose end there must be no problems."""

    def call(problems):
        assert not problems, "\n".join([*problems, bench.logs()])
        assert not bench.deadly or f"1 of {bench.jobs + 1} runs is not completed" in bench.logs()
        figure = f"sweeps on {bench.on} with faults / every run completed once with its bits"
        scorecard.add(figure, cases=1, passed=1, target=1)

    return call


@pytest.mark.parametrize("bench", SWEEPS, indirect=True)
def test_a_sweep_survives_what_is_lost_with_the_bits_of_an_undisturbed_one(bench, held):
    held(run(bench, SWEEPS[bench.on]))
    assert bench.done == SWEEPS[bench.on]  # the premise


@pytest.mark.parametrize("bench", ["slurm"], indirect=True)
def test_jobs_are_arrays_and_what_slurm_or_a_dead_driver_ends_is_done_again(bench, held):
    bench.jobs = 3
    with engine(bench) as slurm:
        driver = bench.start("--gpus", "1", "--time-limit", "1h")
        bench.held(2)
        script = (slurm / "jobs" / "1000_3" / "script").read_text()  # of the last of four jobs
        for line in (
            "array=0-3%4",
            "cpus-per-task=1",
            "gpus=1",
            "job-name=orca-digits-",
            "signal=USR1@120",
            "time=63",
        ):
            assert f"#SBATCH --{line}" in script, script
        bench.hit_job("preempt")
        ended = bench.held(2)[0]  # which have both places, so that others wait
        left = bench.wait(lambda: fake_slurm.jobs(slurm, "PENDING"))
        (slurm / fake_slurm.HELD).touch()
        driver.send(signal.SIGKILL)
        driver.wait()
        fake_slurm.end(slurm, fake_slurm.job_of(slurm, ended), "NODE_FAIL")  # while nobody watches
        before = set(fake_slurm.jobs(slurm))
        bench.start()
        bench.wait(
            lambda: not set(left) & set(fake_slurm.jobs(slurm, "PENDING"))
        )  # it withdraws them
        (slurm / fake_slurm.HELD).unlink()
        of_the_second = bench.wait(
            lambda: {fake_slurm.job_of(slurm, pid) for pid in bench.held()} - before
        )
        fake_slurm.end(slurm, of_the_second.pop(), "PREEMPTED")  # by a site that cancels
        held(bench.finish() + bench.problems())
    assert "SLURM ended the job: PREEMPTED; starting the run again" in bench.drivers[1].err


def test_a_machine_that_does_not_see_the_folder_of_runs_says_so(tmp_path):
    missing = str(tmp_path / "nowhere")
    end = attend({"label": "[1/1]", "words": ["run"], "shared_file": missing})
    assert (end["status"], end["report"]["error"]["kind"]) == (ConfigError.code, "ConfigError")
