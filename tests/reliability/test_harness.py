"""The harness itself: a fork is what a shell would start, and figures are written where they are asked for."""

import json
import signal
import sys
import time

from tests.tiers import Scorecard


def test_a_fork_runs_the_command_line(fork, environment):
    case = fork("list", "metric")
    assert case.wait() == 0
    assert "otdd" in case.out
    case = fork("list", "nothing-such")
    assert case.wait() == 2
    assert case.err.startswith("orca: error: ")


def test_a_fork_can_be_killed_limited_and_hooked(fork):
    case = fork("list", hook="tests.reliability.test_harness:linger:30")
    start = time.monotonic()
    case.send(signal.SIGKILL)
    assert case.wait(10) == -signal.SIGKILL
    assert time.monotonic() - start < 10
    case = fork("list", hook="tests.reliability.test_harness:file_limit:", limits={"RLIMIT_FSIZE": 4096})
    assert case.wait() == 0
    assert case.out.startswith("4096\n")


def linger(seconds: str) -> None:
    time.sleep(float(seconds))


def file_limit(_: str) -> None:
    import resource

    sys.stdout.write(f"{resource.getrlimit(resource.RLIMIT_FSIZE)[0]}\n")


def test_figures_are_lines_of_json(tmp_path):
    card = Scorecard(tmp_path / "card", "test")
    card.add("kills", cases=3, passed=3, target=300)
    card.not_run("calls", "no strace")
    first, second = map(json.loads, (tmp_path / "card").read_text().splitlines())
    assert (first["figure"], first["cases"], first["passed"], first["target"]) == ("kills", 3, 3, 300)
    assert second["not_run"] == "no strace"
