"""Settings of all tests."""

import re
import signal

import pytest
from hypothesis import settings

from tests.tiers import Scorecard, count

# The same examples at every run: a change that breaks a property is told by the change, not by a later run's luck.
settings.register_profile("repeatable", derandomize=True, max_examples=count(pr=100, nightly=2000))
settings.load_profile("repeatable")

# A shell script that starts the tests in the background makes all their processes deaf to Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Count the examples of a property for the scorecard."""
    counted = re.findall(r"(\d+) passing(?: examples?)?, (\d+) failing", getattr(item, "hypothesis_statistics", ""))
    passed, failed = (sum(int(pair[place]) for pair in counted) for place in (0, 1))
    if counted:
        scorecard = Scorecard.of(item.nodeid)
        scorecard.add("examples of properties / held", cases=passed + failed, passed=passed, target=0)
