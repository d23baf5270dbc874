"""A finished run's error once more, from the predictions that it saved: neither model nor data are read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.config import configuration, parts
from orca_cli.config.schema import ERROR_CHUNKS
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import KINDS
from orca_cli.prediction.record import completed, own_file, setting
from orca_cli.report.collect import mapping, number
from orca_cli.runs.directory import PREDICTIONS, SETTINGS, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.scoring.reported import named_error

# The number of threads changes the order of sums; nobody reads an error to more digits.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
_AGAIN = "orca doctor RUN says what is damaged; run it again with --force"


@dataclass(frozen=True)
class Recomputed:
    """Numbers by name, as recorded and as computed now, None where undefined: the error, n, skipped, then further errors."""

    percent: bool  # whether the error is a fraction that is shown in per cent
    recorded: Mapping[str, float | None]
    computed: Mapping[
        str, float | None
    ]  # without the further errors that the saved predictions do not suffice for

    @property
    def different(self) -> list[str]:
        """Return the names of numbers that are not the same to six digits."""
        return [
            name
            for name, value in self.computed.items()
            if not _is_same(self.recorded[name], value)
        ]


def _is_same(recorded: float | None, computed: float | None) -> bool:
    if recorded is None or computed is None:
        return recorded is computed
    return math.isclose(recorded, computed, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def recompute(run: Path) -> Recomputed:
    """Compute the error of a completed run's test predictions again, to be compared with result.json.

    Raises:
        DataError: no completed run, or what it saved does not suffice, such as records of a run that is older than these.
        ChecksumError, ConfigError, UnsafeError, NonFiniteError: its files are damaged, or name what is no error.
    """
    summary_file, predictions = (
        f"{STAGE_FOLDERS['build']}/{SUMMARY}",
        f"{STAGE_FOLDERS['finetune']}/{PREDICTIONS}",
    )
    result = completed(run)
    for name in (SETTINGS, summary_file, predictions):
        own_file(run, name)
    summary, settings = read_or_empty(run / summary_file), configuration.content(run / SETTINGS)
    noted, kind = mapping(result.get("error")), summary.get("kind")
    node = mapping(settings.get("task")).get("error")
    parts.check_admitted(node, "task.error")
    if not noted or kind not in KINDS or not isinstance(node, (dict, str, type(None))):
        raise DataError("its records do not say which error it has", where=str(run), hint=_AGAIN)
    stored = open_arrays(run / predictions, str(run / predictions), _AGAIN)
    saved = {
        name: np.asarray(stored[name].read()) for name in stored if stored[name].dtype.kind in "fiu"
    }
    try:
        batch = setting(settings, "train.batch_size", summary)
        chunk = ERROR_CHUNKS.get(str(settings.get("protocol")))
        error = named_error(node, kind, saved["targets"].dtype.kind != "f", chunk, batch)
        score = error(saved["outputs"], saved["targets"], saved.get("groups"))
    except (DataError, IndexError, KeyError, TypeError, ValueError) as failure:
        what = f"cannot be computed from what the run saved: {failure}"
        raise DataError(what, where=str(run), hint="run it again with --force") from failure
    others = mapping(noted.get("others"))
    recorded = {
        error.name: noted.get("value"),
        "n": noted.get("n"),
        "skipped": noted.get("skipped"),
        **others,
    }
    computed = {error.name: score.value, "n": score.n, "skipped": score.skipped}
    computed |= {name: score.others[name] for name in others if name in score.others}
    known = {name: None if number(value) is None else value for name, value in recorded.items()}
    return Recomputed(error.percent, known, computed)
