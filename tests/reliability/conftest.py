"""What all reliability tests share: the tier's counts, the scorecard, the fork server, the small runs of tests/cli."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cli.conftest import environment, fork, home, orca, small, start, tiny  # noqa: F401 - fixtures
from tests.tiers import Scorecard, count


@pytest.fixture(name="count")
def _count() -> Callable[..., int]:
    return count


@pytest.fixture
def scorecard(request: pytest.FixtureRequest) -> Scorecard:
    return Scorecard.for_test(request.node.nodeid)


@pytest.fixture
def counted(scorecard: Scorecard) -> Callable[..., None]:
    """Count a case of a figure, and assert that it passed."""

    def call(figure: str, passed: bool = True, *details: object) -> None:
        scorecard.add(figure, cases=1, passed=int(passed), target=1)
        assert passed, details

    return call
