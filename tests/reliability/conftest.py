"""What all reliability tests share: the tier's counts, the scorecard, the fork server, the small runs of tests/cli."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import environment, home, orca, small, start, tiny  # noqa: F401 - fixtures
from tests.reliability.forked import Case, Server
from tests.tiers import Scorecard, count


@pytest.fixture(name="count")
def _count() -> Callable[..., int]:
    return count


@pytest.fixture
def scorecard(request: pytest.FixtureRequest) -> Scorecard:
    return Scorecard.of(request.node.nodeid)


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
