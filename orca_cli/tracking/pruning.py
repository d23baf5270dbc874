"""The recorder by which a search stops runs that fall behind, by the curve of stage 3; training knows nothing of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orca_cli.exceptions import PrunedError


class Judge(Protocol):
    """The search's side of a trial."""

    def report(self, resource: int, error: float) -> bool:
        """Take the validation error after a part of the training; returns whether the trial is to be stopped.

        Args:
            resource: 1..most, see `Pruning`.
            error: lower is better.
        """


class Pruning:
    """Reports the validation error of every epoch, and ends the run where the judge says so.

    Training is measured by the part of its optimizer steps that is done, since trials differ in their epochs and batches. Of
    several members the first decides. After the last step a run is complete, and is not stopped.

    Args:
        judge: of the trial.
        most: what all steps are worth.
    """

    def __init__(self, judge: Judge, most: int) -> None:
        self._judge, self._most = judge, most
        self.total = 0  # optimizer steps of a member; set once stage 1 knows them
        self._reported = 0

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Report an epoch.

        Raises:
            PrunedError: the trial is to be stopped.
        """
        error = line.get("validation_error")
        if stage != "finetune" or line.get("member", 0) != 0 or error is None or not math.isfinite(error):
            return
        resource = self._most * line["step"] // self.total
        if resource <= self._reported:  # of a run that started again at another rate
            return
        self._reported = resource
        if self._judge.report(resource, float(error)) and line["step"] < self.total:
            part = f"{100 * line['step'] / self.total:.0f} %"
            raise PrunedError(f"stopped by the search after {part} of its steps, epoch {line['epoch']}")

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take what an earlier process has reported as it is."""
        steps = [line["step"] for line in lines if line.get("member", 0) == 0] if stage == "finetune" else []
        if steps:
            self._reported = max(self._reported, self._most * max(steps) // self.total)

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Do nothing: the process that runs the trial reports its end to the search."""
