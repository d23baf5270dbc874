"""How many threads a process takes, and how long they spin."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import threadpoolctl
import torch

from orca_cli.training import engine


def test_every_process_of_the_tests_has_one_thread():
    """Whatever the environment says: see conftest.py."""
    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, which torch has on Linux alone")
def test_the_command_line_tells_openmp_how_long_its_threads_spin():
    """OpenMP reports its own settings; it reads the environment only once, when torch, or whatever else, loads it."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    (library,) = Path(torch.__file__).parent.glob("lib/libgomp*")
    code = f"from orca_cli.cli import main; main(['--version']); import ctypes; ctypes.CDLL({str(library)!r})"
    for typed in ({}, {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "ACTIVE"}):
        more = variables | typed | {"OMP_DISPLAY_ENV": "verbose"}
        done = subprocess.run([sys.executable, "-c", code], env=more, capture_output=True, text=True)
        reported = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", done.stderr))
        assert reported == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"} | typed


@pytest.mark.parametrize(
    ("parameters", "tokens", "typed_threads", "expected"),
    [(50_000_000, 128, None, 1), (50_000_001, 8, None, 2), (22_000_000, 129, None, 2), (22_000_000, 8, "2", 2)],
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
