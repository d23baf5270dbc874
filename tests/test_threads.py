"""Every process of the tests has one thread, whatever the environment says (tests/conftest.py)."""

import os
import re
import subprocess
import sys

import pytest
import threadpoolctl
import torch

from orca_cli.training import engine


def test_one_thread_here_and_in_what_is_started():
    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert not {"MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"} & os.environ.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, which torch has on Linux alone")
@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, ("PASSIVE", "1000")),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_the_command_line_tells_openmp_how_long_its_threads_spin(environment, seen):
    """OpenMP reports its own settings; it reads the environment only once, when torch is imported."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | environment
    code = "from orca_cli.cli import main; main(['--version']); import torch"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, env=variables | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True)
    reported = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", process.stderr))
    assert reported["OMP_WAIT_POLICY"] == seen[0]
    assert seen[1] in (None, reported["GOMP_SPINCOUNT"])


@pytest.mark.parametrize(
    ("parameters", "tokens", "typed_threads", "expected"),
    [
        (22_000_000, 8, None, 1),
        (50_000_000, 128, None, 1),
        (50_000_001, 8, None, 2),
        (22_000_000, 129, None, 2),
        (22_000_000, 8, "2", 2),
    ],
)
def test_a_small_model_takes_one_thread_unless_the_environment_says_how_many(
    parameters, tokens, typed_threads, expected, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if typed_threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", typed_threads)
    with engine.same_threads_after():
        torch.set_num_threads(2)
        with engine.same_threads_after():
            engine.limit_threads(parameters, tokens)
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
