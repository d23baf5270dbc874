"""Which run of a folder of runs is best: by the validation error, never by the test error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import collect
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.preprocessing import can_predict

_COMPARABLE = "run them with train.folds=5 (or train.refit=false), or give one by its folder"


@dataclass(frozen=True)
class Best:
    """The chosen run.

    Args:
        path: its folder.
        validation_error: what it was chosen by; None where it is the only run, which trained on its validation samples.
        error: name of that error.
        runs: how many runs it was chosen from.
        without: how many were left out because they trained on their validation samples.
    """

    path: Path
    validation_error: float | None
    error: str
    runs: int
    without: int = 0

    def __str__(self) -> str:
        if self.validation_error is None:
            return f"{self.path}: the only run"
        text = f"{self.path}: {self.error} {self.validation_error:.4g} on validation, the lowest of {self.runs} runs"
        left_out = f"{self.without} that trained on their validation samples are left out"
        return f"{text}; {left_out}: {_COMPARABLE}" if self.without else text


def best_run(folder: Path) -> Best:
    """Return the completed run with the lowest validation error (the first of equals), or the only run.

    Runs whose weights were chosen on the test split, or without a validation error, are left out.

    Raises:
        DataError: there is no such run, or they were validated on different data or by different errors.
    """
    judged: list[tuple[float, Path, dict[str, Any]]] = []
    unjudged: list[tuple[Path, dict[str, Any]]] = []
    for run in collect([folder]).runs:
        result = read_or_empty(run.path / RESULT)
        error: Any = result.get("validation_error")
        on = (result.get("selected") or {}).get("on")
        if run.state != "completed" or not can_predict(run.path) or on == "test":
            continue
        if on == "nothing":
            unjudged.append((run.path, result))
        elif type(error) in (int, float) and math.isfinite(error):
            judged.append((float(error), run.path, result))
    if not judged and len(unjudged) == 1:
        ((path, result),) = unjudged
        return Best(path, None, str(result["error"]["name"]), 1)
    if not judged and unjudged:
        what = (
            f"all {len(unjudged)} runs trained on their validation samples, so that no validation error compares them"
        )
        raise DataError(what, where=str(folder), hint=_COMPARABLE)
    if not judged:
        what = "holds no completed run that can predict, chosen on a validation split"
        raise DataError(what, where=str(folder), hint="orca report shows the runs; give one by its folder")
    kinds: dict[tuple[str, str], tuple[float, Path]] = {}
    for value, path, result in judged:
        samples = (result.get("selected") or {}).get("sha256") or result["splits"]["val"]["sha256"]
        validated_on = str(samples), str(result["error"]["name"])
        if validated_on not in kinds or value < kinds[validated_on][0]:
            kinds[validated_on] = value, path
    if len(kinds) > 1:
        names = ", ".join(path.name for _, path in kinds.values())
        what = f"the runs were validated on {len(kinds)} different sets of data or errors, which cannot be compared"
        raise DataError(what, where=str(folder), hint=f"give one of the best of each: {names}")
    ((_, error_name),) = kinds
    ((value, path),) = kinds.values()
    return Best(path, value, error_name, len(judged), len(unjudged))
