"""How a run ended, as a call of the program from Python returns it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orca_cli.exceptions import InterruptionError, OrcaError

State = Literal["completed", "skipped", "failed", "interrupted", "not started"]


@dataclass(frozen=True)
class Failure:
    """The reason why a run is not completed."""

    error: OrcaError  # printed, in one line
    # The exception that caused the error, for a traceback; the error itself if there is none.
    cause: BaseException

    def record(self) -> dict[str, str]:
        """Return the failure as status.json records it."""
        return {
            "kind": type(self.error).__name__,
            "message": str(self.error),
            "hint": self.error.hint,
        }


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: State  # skipped: it had been completed before
    code: int = 0  # exit code
    path: Path | None = None  # the run's folder; None if none was made
    # Content of result.json; empty unless completed or skipped.
    result: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


def ended_by(
    error: OrcaError, cause: BaseException | None = None, path: Path | None = None
) -> Outcome:
    """Return the outcome of a run that an error ended.

    Args:
        error: the error.
        cause: the exception that caused the error; None for the error itself.
        path: the run's folder; None if none was made.
    """
    state: State = "interrupted" if isinstance(error, InterruptionError) else "failed"
    failure = Failure(error=error, cause=cause or error)
    return Outcome(state=state, code=error.code, path=path, failure=failure)
