"""Settings of all tests."""

import os
import re
import signal

# One thread for this process and for all that tests start, whatever the environment says: every worker of xdist would take
# all processors otherwise, and the number of threads decides the last bits of a sum. OpenBLAS and MKL follow
# OMP_NUM_THREADS if their own variables are not set, and numba does not. All read it when they are loaded, so this comes first.
for _name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"):
    os.environ.pop(_name, None)
os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from orca_cli import signals  # noqa: E402
from tests.forked import Server  # noqa: E402
from tests.tiers import Scorecard, count  # noqa: E402

# The same examples in every run: a change that breaks a property fails at once, not by chance in a later run.
# Slow generation of examples reflects the machine, not the program.
settings.register_profile(
    "repeatable",
    derandomize=True,
    max_examples=count(pr=100, nightly=2000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

# A shell script that starts the tests in the background makes all their processes deaf to Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """Add the option that runs tests/models/test_conformance.py on a contributor's own body (docs/adding.md)."""
    parser.addoption(
        "--body", help="its name in conf/body, or its YAML file; by default every file of conf/body"
    )
    parser.addoption("--checkpoint", help="a checkpoint of it, small, as a local folder")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Count the examples of a property for the scorecard."""
    counted = re.findall(
        r"(\d+) passing(?: examples?)?, (\d+) failing", getattr(item, "hypothesis_statistics", "")
    )
    passed, failed = (sum(int(pair[place]) for pair in counted) for place in (0, 1))
    if counted:
        scorecard = Scorecard.for_test(item.nodeid)
        scorecard.add(
            "examples of properties / held", cases=passed + failed, passed=passed, target=0
        )


@pytest.fixture(autouse=True)
def no_signal_is_left():
    """Clear the stop request that a signal left in this process, so that the next test does not see it."""
    yield
    signals.reset_in_fork()


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory):
    """The process that all forks of the session come from."""
    with Server(tmp_path_factory.mktemp("forked")) as server:
        yield server
