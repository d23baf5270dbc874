"""Hydra launchers of the extras: a sweep killed half-way is continued by typing it again, whatever ran its jobs."""

import importlib.util
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from orca_cli.cli import main
from orca_cli.launching import launchers
from tests.cli.conftest import results, run_folders


def is_installed(name):
    try:
        return importlib.util.find_spec(f"hydra_plugins.{launchers._EXTRAS[name][1]}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", sorted(launchers._EXTRAS))
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(environment, capfd, monkeypatch, name):
    monkeypatch.setattr(launchers.util, "find_spec", lambda module: None)
    assert main(["run", "-m", "seed=0,1", f"hydra/launcher={name}"]) == 14
    extra = launchers._EXTRAS[name][0]
    told = f"hydra/launcher: the launcher '{name}' is not installed; pip install 'orca-transfer[{extra}]'"
    assert told in capfd.readouterr().err
    assert not environment.exists()


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
    if not is_installed(name):
        pytest.skip(f"the extra {launchers._EXTRAS[name][0]} is not installed")
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
