"""A finished run's error once more, from the predictions that it saved: neither model nor data are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.config import configuration
from orca_cli.config.retired import recorded_chunks
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import KINDS, Error, Score
from orca_cli.prediction.record import SETTINGS, check_node, own_file, setting
from orca_cli.runs.directory import RESULT, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.scoring.defaults import named_error

PREDICTIONS = "predictions.npz"
GROUPS = "groups"
# The number of threads changes the order of sums; nobody reads an error to more digits.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
_AGAIN = "orca doctor RUN says what is damaged; run it again with --force"


@dataclass(frozen=True)
class Compared:
    """One number, as the run recorded it and as it is computed now; None for one that is undefined."""

    name: str
    recorded: float | None
    computed: float | None

    @property
    def equal(self) -> bool:
        """Return whether both are the same number to six digits, or both undefined."""
        if self.recorded is None or self.computed is None:
            return self.recorded is self.computed
        return math.isclose(self.recorded, self.computed, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


@dataclass(frozen=True)
class Recomputed:
    """The recorded numbers beside the recomputed ones.

    Args:
        percent: whether the error is a fraction that is shown in per cent.
        numbers: the run's error, what it averages over (n) and leaves out (skipped), and the further errors of the same
            outputs that the run recorded.
        missing: names of further errors that the saved predictions do not suffice for.
    """

    percent: bool
    numbers: tuple[Compared, ...]
    missing: tuple[str, ...]


def recompute(run: Path) -> Recomputed:
    """Compute the error of a completed run's test predictions again, and compare it with result.json.

    Raises:
        DataError: no completed run, or what it saved does not suffice, such as records of a run that is older than these.
        ChecksumError, ConfigError, UnsafeError, NonFiniteError: its files are damaged, or name what is no error.
    """
    for name in (RESULT, SETTINGS, f"{STAGE_FOLDERS['build']}/{SUMMARY}", f"{STAGE_FOLDERS['finetune']}/{PREDICTIONS}"):
        own_file(run, name)
    recorded = read_or_empty(run / RESULT).get("error")
    if not isinstance(recorded, dict) or "value" not in recorded:
        raise DataError(f"{RESULT} has no error", where=str(run), hint=_AGAIN)
    outputs, targets, groups = _saved(run / STAGE_FOLDERS["finetune"] / PREDICTIONS)
    error = _error(run, integer_targets=targets.dtype.kind != "f")
    try:
        score: Score = error(outputs, targets, groups)
    except DataError as failure:
        if groups is not None:
            raise
        what = f"cannot be computed from what the run saved: {failure.what}"
        raise DataError(what, where=str(run), hint="run it again with --force") from failure
    except (IndexError, TypeError, ValueError) as failure:
        what = f"its {PREDICTIONS} does not fit its error: {type(failure).__name__}"
        raise DataError(what, where=str(run), hint=_AGAIN) from failure
    others = recorded.get("others")
    others = others if isinstance(others, dict) else {}
    numbers = (
        Compared(error.name, _number(recorded, "value"), score.value),
        Compared("n", _number(recorded, "n"), score.n),
        Compared("skipped", _number(recorded, "skipped"), score.skipped),
        *(Compared(name, _number(others, name), score.others[name]) for name in others if name in score.others),
    )
    return Recomputed(error.percent, numbers, tuple(name for name in others if name not in score.others))


def _saved(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return outputs, targets and, where the samples are cut from records, the record of each sample."""
    stored = open_arrays(path, str(path), _AGAIN)
    arrays = {name: np.asarray(stored[name].read()) for name in stored if stored[name].dtype.kind in "fiu"}
    counts = [arrays[name].shape[:1] for name in ("outputs", "targets") if name in arrays]
    if len(counts) < 2 or not counts[0] or counts[0] != counts[1]:
        raise DataError("does not hold the predictions of a run", where=str(path), hint=_AGAIN)
    return arrays["outputs"], arrays["targets"], arrays.get(GROUPS)


def _error(run: Path, *, integer_targets: bool) -> Error:
    """Return the error that the run's settings name, as stage 1 makes it."""
    summary = read_or_empty(run / STAGE_FOLDERS["build"] / SUMMARY)
    kind = summary.get("kind")
    if kind not in KINDS:
        raise DataError(f"{SUMMARY}: the kind is {kind!r}", where=str(run), hint=_AGAIN)
    values = configuration.content(run / SETTINGS)
    task = values.get("task")
    node = task.get("error") if isinstance(task, dict) else None
    check_node(node, "error")
    if not isinstance(node, (dict, str, type(None))):
        raise DataError(f"{SETTINGS}: task.error is no error", where=str(run), hint=_AGAIN)
    batch = setting(values, "train.batch_size", summary)
    return named_error(node, kind, integer_targets, recorded_chunks(values), batch)


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
    if value is not None and not is_number:
        raise DataError(f"{key} of its error is not a number", where=RESULT, hint=_AGAIN)
    return value
