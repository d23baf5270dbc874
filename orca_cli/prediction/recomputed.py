"""A finished run's error once more, from the predictions that it saved: neither model nor data are read."""

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
from orca_cli.interfaces import KINDS
from orca_cli.prediction.record import check_node, own_file, setting
from orca_cli.runs.directory import PREDICTIONS, RESULT, SETTINGS, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.scoring.reported import named_error

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
    """The recorded numbers beside the recomputed ones."""

    percent: bool  # whether the error is a fraction that is shown in per cent
    numbers: tuple[Compared, ...]  # the run's error, what it averages over (n) and leaves out (skipped), further errors
    missing: tuple[str, ...]  # names of further errors that the saved predictions do not suffice for


def recompute(run: Path) -> Recomputed:
    """Compute the error of a completed run's test predictions again, and compare it with result.json.

    Raises:
        DataError: no completed run, or what it saved does not suffice, such as records of a run that is older than these.
        ChecksumError, ConfigError, UnsafeError, NonFiniteError: its files are damaged, or name what is no error.
    """
    summary_file, predictions = f"{STAGE_FOLDERS['build']}/{SUMMARY}", f"{STAGE_FOLDERS['finetune']}/{PREDICTIONS}"
    for name in (RESULT, SETTINGS, summary_file, predictions):
        own_file(run, name)
    summary, settings = read_or_empty(run / summary_file), configuration.content(run / SETTINGS)
    recorded, kind, task = read_or_empty(run / RESULT).get("error"), summary.get("kind"), settings.get("task")
    node = task.get("error") if isinstance(task, dict) else None
    check_node(node, "error")
    if not isinstance(recorded, dict) or kind not in KINDS or not isinstance(node, (dict, str, type(None))):
        raise DataError("its records do not say which error it has", where=str(run), hint=_AGAIN)
    stored = open_arrays(run / predictions, str(run / predictions), _AGAIN)
    saved = {name: np.asarray(stored[name].read()) for name in stored if stored[name].dtype.kind in "fiu"}
    try:
        batch, chunk = setting(settings, "train.batch_size", summary), recorded_chunks(settings)
        error = named_error(node, kind, saved["targets"].dtype.kind != "f", chunk, batch)
        score = error(saved["outputs"], saved["targets"], saved.get("groups"))
    except (DataError, IndexError, KeyError, TypeError, ValueError) as failure:
        what = f"cannot be computed from what the run saved: {failure}"
        raise DataError(what, where=str(run), hint="run it again with --force") from failure
    others = recorded.get("others")
    others = others if isinstance(others, dict) else {}
    numbers = (
        Compared(error.name, _number(recorded, "value"), score.value),
        Compared("n", _number(recorded, "n"), score.n),
        Compared("skipped", _number(recorded, "skipped"), score.skipped),
        *(Compared(name, _number(others, name), score.others[name]) for name in others if name in score.others),
    )
    return Recomputed(error.percent, numbers, tuple(name for name in others if name not in score.others))


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
    if value is not None and not is_number:
        raise DataError(f"{key} of its error is not a number", where=RESULT, hint=_AGAIN)
    return value
