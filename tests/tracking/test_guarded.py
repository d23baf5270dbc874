"""A tracker that fails or hangs anywhere costs one warning and a bounded wait."""

import logging
import threading
from unittest import mock

import pytest

from orca_cli.exceptions import OrcaError
from orca_cli.runs.tracking.services import Guarded
from orca_cli.terminal import log


@pytest.fixture
def warnings():
    """Warnings about trackers alone: a closed handler of an earlier test may log others."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: record.getMessage().startswith("tracker"))
    handler.emit = lambda record: messages.append(record.getMessage())
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


class Fake:
    """A recorder that logs its calls and runs an action at one of them."""

    def __init__(self, at="", act=lambda: None):
        self.calls = []
        self._at = at
        self._act = act
        self._note("start")

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self._at:
            self._act()

    def __getattr__(self, name):
        return lambda *arguments: self._note(name, *arguments)


def use(guarded):
    line = {"epoch": 3}
    guarded.start()
    guarded.record("finetune", line)
    line["epoch"] = 4
    guarded.ended("completed", {"x": 1})
    guarded.ended("failed", {})


def test_everything_arrives_in_order_and_as_it_was(warnings):
    made = []
    use(Guarded(lambda: made.append(Fake()) or made[0], "fake"))
    calls = [("start",), ("record", "finetune", {"epoch": 3})]
    assert made[0].calls == [*calls, ("ended", "completed", {"x": 1})]
    assert not warnings


@pytest.mark.parametrize("at", ["start", "record", "ended"])
@pytest.mark.parametrize("error", [OrcaError("two\nlines"), SystemExit(1)])
def test_a_failure_is_one_line_and_the_tracker_is_closed(warnings, at, error):
    made = []
    use(Guarded(lambda: made.append(Fake(at, mock.Mock(side_effect=error))) or made[0], "fake"))
    (warning,) = warnings
    assert "tracker fake: failed at" in warning
    assert " ".join(str(error).split()) in warning
    assert "\n" not in warning
    assert at == "start" or made[0].calls[-1] == ("ended", "failed", {})


@pytest.mark.parametrize("at", ["start", "record", "ended"])
def test_a_tracker_that_hangs_delays_a_run_by_its_patience(warnings, at):
    end = threading.Event()
    ends = []
    use(Guarded(lambda: Fake(at, lambda: ends.append(end.wait(60))), "fake", patience_s=0.2))
    assert not ends
    end.set()
    (warning,) = warnings
    assert "within 0.2 s" in warning


def test_no_step_waits_for_a_slow_tracker():
    end = threading.Event()
    ends = []
    guarded = Guarded(
        lambda: Fake("record", lambda: ends.append(end.wait(60))), "fake", patience_s=600
    )
    guarded.start()
    for epoch in range(1000):
        guarded.record("finetune", {"epoch": epoch})
    assert not ends
    end.set()
    guarded.ended("completed", {})
