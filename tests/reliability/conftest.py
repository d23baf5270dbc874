"""What all reliability tests share: how many cases a tier has, the scorecard, the fork server, the small runs of tests/cli.

ORCA_TIER (pr, the default, or nightly) chooses the number of cases; ORCA_SCORECARD names the file that figures are
appended to, one JSON object a line (`scripts/reliability.py` sets both).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import environment, home, orca, small, start, tiny  # noqa: F401 - fixtures
from tests.reliability.forked import Case, Server

TIERS = ("pr", "nightly")


def tier() -> str:
    """Return the tier that the environment asks for."""
    name = os.environ.get("ORCA_TIER", "pr")
    assert name in TIERS, f"ORCA_TIER is '{name}'; allowed: {', '.join(TIERS)}"
    return name


def count(*, pr: int, nightly: int) -> int:
    """Return how many cases to run in the present tier. Import it where a decorator needs the number."""
    return {"pr": pr, "nightly": nightly}[tier()]


@pytest.fixture(name="count")
def _count() -> Callable[..., int]:
    return count


class Scorecard:
    """Figures for the published table. A test asserts on its own as well; nothing here makes one fail."""

    def __init__(self, path: Path | None, test: str) -> None:
        self._path, self._test = path, test

    def add(self, figure: str, *, cases: int, passed: int, target: int, note: str = "") -> None:
        """Say how many cases of a figure were tried and how many passed; figures of one name are added up.

        Args:
            figure: name of the row, the same words at every call.
            cases: tried, each with its premise seen to hold.
            passed: of those.
            target: cases that a nightly run of this test has to pass; the pr tier may try fewer.
            note: what a reader has to know, such as a latency.
        """
        self._write(figure=figure, cases=cases, passed=passed, target=target, note=note)

    def not_run(self, figure: str, reason: str) -> None:
        """Say that a figure could not be taken here, because its premise does not hold; the test then skips itself."""
        self._write(figure=figure, not_run=reason)

    def _write(self, **record: Any) -> None:
        if self._path is not None:
            line = json.dumps(record | {"test": self._test, "tier": tier()}) + "\n"
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line)


@pytest.fixture
def scorecard(request: pytest.FixtureRequest) -> Scorecard:
    path = os.environ.get("ORCA_SCORECARD")
    return Scorecard(Path(path) if path else None, request.node.nodeid)


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("forked")) as server:
        yield server


@pytest.fixture
def fork(_server: Server, environment: Path) -> Iterator[Callable[..., Case]]:  # noqa: F811
    """Start the command line in a fork of a process that has imported everything: 0.05 s instead of 5 s.

    `fork(*words, more={}, hook="", limits={})` returns a `Case` (see forked.py); its runs go to `environment`.
    """
    started: list[Case] = []

    def call(*words: Any, **settings: Any) -> Case:
        started.append(_server.start([str(word) for word in words], **settings))
        return started[-1]

    yield call
    for case in started:
        case.kill()
