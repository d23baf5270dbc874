"""Hydra launchers of the extras: a sweep killed half-way is continued by typing it again, whatever ran its jobs."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from orca_cli.exceptions import UnavailableError
from orca_cli.launching.launchers import check_installed
from tests.cli.conftest import results, run_folders


def of_this_test(folder):
    """Return the processes whose runs go into a folder: those that a launcher has started, wherever they are."""
    mark, found = f"ORCA_RUNS={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joblib", "ray", "submitit_local"])
def test_a_sweep_killed_half_way_is_continued_by_typing_it_again(start, environment, small, name):
    try:
        check_installed(name)
    except UnavailableError as error:
        pytest.skip(str(error))
    words = ["run", "-m", *small, "metric=none", "train.epochs=1", "seed=0,1", f"hydra/launcher={name}", "-q"]
    words += ["hydra.launcher.n_jobs=1"] * (name == "joblib") + ["+hydra.launcher.ray.init.num_cpus=1"] * (
        name == "ray"
    )
    first = start(*words, start_new_session=True)
    end = time.monotonic() + 240
    while not results(environment):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    for pid in of_this_test(environment):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    first.communicate()
    before = {result["run_id"]: result for result in results(environment)}
    again = start(*words)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "2 completed" in out
    after = {result["run_id"]: result for result in results(environment)}
    assert len(after) == len(run_folders(environment)) == 2
    for run, result in before.items():
        assert after[run] == result  # not run again
