"""A finished run's error, computed again from the predictions that the run saved.

Neither the model nor the data are read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.config import configuration, parts
from orca_cli.config.schema import ERROR_CHUNKS
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import KINDS, Error, Score
from orca_cli.prediction.record import completed, own_file, setting
from orca_cli.report.collect import mapping, number
from orca_cli.runs.directory import PREDICTIONS, SETTINGS, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.scoring.reported import named_error

# The number of threads changes the order of sums, and with it the last digits.
_RELATIVE_TOLERANCE = 1e-6
_ABSOLUTE_TOLERANCE = 1e-9
_HINT = "`orca doctor RUN` shows what is damaged; rerun the run's command with --force"


@dataclass(frozen=True)
class Recomputed:
    """An error as recorded and as computed now.

    Both contain numbers by name, None if undefined: the error, n, skipped, then further errors.
    """

    # Whether the error is shown in per cent.
    percent: bool
    # Numbers from result.json.
    recorded: Mapping[str, float | None]
    # Numbers as computed now, without further errors for which the predictions do not suffice.
    computed: Mapping[str, float | None]

    @property
    def different(self) -> list[str]:
        """Return the names of numbers that differ within their first six digits."""
        different_names = []
        for name, computed in self.computed.items():
            if not _is_same(self.recorded[name], computed):
                different_names.append(name)
        return different_names


def _is_same(recorded: float | None, computed: float | None) -> bool:
    if recorded is None or computed is None:
        return recorded is computed
    return math.isclose(
        recorded, computed, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_ABSOLUTE_TOLERANCE
    )


def recompute(run: Path) -> Recomputed:
    """Compute the error of a completed run's test predictions again, to compare with result.json.

    Raises:
        DataError: the folder is not a completed run, or its files do not suffice.
        ChecksumError, ConfigError, UnsafeError, NonFiniteError: its files are damaged, or name
            something that is not an error.
    """
    summary_file = f"{STAGE_FOLDERS['build']}/{SUMMARY}"
    predictions_file = f"{STAGE_FOLDERS['finetune']}/{PREDICTIONS}"
    error_record = mapping(completed(run).get("error"))
    # Checked before any file is read, since a link could lead out of the folder.
    for name in (SETTINGS, summary_file, predictions_file):
        own_file(run, name)
    summary = read_or_empty(run / summary_file)
    settings = configuration.content(run / SETTINGS)
    kind = summary.get("kind")
    error_node = mapping(settings.get("task")).get("error")
    # The run may be untrusted, and its settings could name any code.
    parts.check_admitted(error_node, "task.error")
    is_node = isinstance(error_node, (dict, str, type(None)))
    if not error_record or kind not in KINDS or not is_node:
        message = "the run's records do not say which error was measured"
        raise DataError(message, where=str(run), hint=_HINT)
    # outputs [n, K, ...], targets [n, ...] and, for samples cut from records, groups [n].
    saved_arrays = _numbers_in(run / predictions_file)
    protocol = str(settings.get("protocol"))
    try:
        # A chunk contains whole batches, so the error depends on their size.
        batch_size = setting(settings, "train.batch_size", summary)
        targets = saved_arrays["targets"]
        error = named_error(
            node=error_node,
            kind=kind,
            integer_targets=targets.dtype.kind != "f",
            chunk=ERROR_CHUNKS.get(protocol),
            batch=batch_size,
        )
        score = error(saved_arrays["outputs"], targets, saved_arrays.get("groups"))
    # Arrays of wrong shapes or types can fail anywhere in an error.
    except (DataError, IndexError, KeyError, TypeError, ValueError) as failure:
        raise DataError(
            f"the run's error cannot be computed from the saved predictions: {failure}",
            where=str(run),
            hint="rerun the run's command with --force",
        ) from failure
    return _beside(error_record, error, score)


def _numbers_in(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of numbers in a file by name."""
    number_arrays = {}
    for name, stored_array in open_arrays(path, str(path), _HINT).items():
        # Floats and integers; an error needs no texts.
        if stored_array.dtype.kind in "fiu":
            number_arrays[name] = np.asarray(stored_array.read())
    return number_arrays


def _beside(error_record: Mapping[str, Any], error: Error, score: Score) -> Recomputed:
    """Return the numbers of an error's record next to those of a score by the same error."""
    further_errors = mapping(error_record.get("others"))
    entries = {
        error.name: error_record.get("value"),
        "n": error_record.get("n"),
        "skipped": error_record.get("skipped"),
        **further_errors,
    }
    recorded: dict[str, float | None] = {}
    for name, entry in entries.items():
        # An entry that is not a number counts as undefined.
        is_number = number(entry) is not None
        recorded[name] = entry if is_number else None
    computed = {error.name: score.value, "n": score.n, "skipped": score.skipped}
    for name in further_errors:
        # An error by records is missing where the run saved no groups.
        if name in score.others:
            computed[name] = score.others[name]
    return Recomputed(percent=error.percent, recorded=recorded, computed=computed)
