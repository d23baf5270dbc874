"""The expected time of runs, from similar finished runs in the same folder of runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orca_cli.runs.directory import RESULT, RunName
from orca_cli.runs.records import UnreadableError, read_record

_NO_ALIGNMENT = "none"
_GROUPS = ("task", "body", "source", "metric", "finetune", "protocol")
# Settings that do not change how long a stage takes.
_FREE = (
    *("train.lr", "train.outer_rate", "train.weight_decay", "train.momentum", "train.clip", "train.warmup_epochs"),
    *("train.decay_epochs", "task.split_seed", "task.data_seed"),
)
_DATA_KEYS = ("task.", "body.", "embedder", "hparams")
_STAGE_3_KEYS = (*_DATA_KEYS, "train.", "finetune.", "predictor.", "augment", "budget", "precision", "align.method")
_STAGE_2_KEYS = (*_DATA_KEYS, "align.", "metric.", "source.")


@dataclass(frozen=True)
class Expected:
    """What a run is expected to take.

    Args:
        seconds: of all stages.
        like: records of the finished runs that it is based on.
    """

    seconds: float
    like: frozenset[Path]


def in_words(seconds: float) -> str:
    """Return a time such as 40 s, 12 min or 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class History:
    """The times of finished runs.

    A run is expected to take what those with the same task, body, finetune mode and length of stage 3 took for all but stage 2,
    and what those with the same task, body, source, metric and settings of stage 2 took for that, each on average. An alignment
    that was in the cache counts with the little time that it took.
    """

    def __init__(self, tasks: Iterable[Path]) -> None:
        """Read the finished runs of some tasks, see `RunName.task_folder`; what cannot be read counts nothing."""
        self._rest: dict[object, list[tuple[float, Path]]] = defaultdict(list)
        self._align: dict[object, list[tuple[float, Path]]] = defaultdict(list)
        for path in sorted(path for task in set(tasks) for path in task.glob(f"*/{RESULT}")):
            try:
                record = read_record(path) or {}
                if record.get("state") != "completed":
                    continue
                seconds = {str(stage): float(value) for stage, value in record["seconds"].items()}
                variant = {str(key): str(value) for key, value in record["variant"].items()}
                groups = {key: str(record[key]) for key in _GROUPS}
            except (UnreadableError, OSError, KeyError, TypeError, ValueError, AttributeError):
                continue  # damaged, or of another version
            align = seconds.pop("align", 0.0)
            self._rest[_stage_3(groups, variant)].append((sum(seconds.values()), path))
            self._align[_stage_2(groups, variant)].append((align, path))

    def expected(self, name: RunName) -> Expected | None:
        """Return what a run is expected to take; None where no finished run is like it."""
        groups = {key: str(getattr(name, key)) for key in _GROUPS}
        rest = self._rest.get(_stage_3(groups, name.variant))
        is_left_out = name.variant.get("align.epochs") == "0" or name.variant.get("align.method") == "pare"
        is_aligned = name.metric != _NO_ALIGNMENT and not is_left_out
        align = self._align.get(_stage_2(groups, name.variant)) if is_aligned else [(0.0, None)]
        if not rest or not align:
            return None
        like = frozenset(path for _, path in (*rest, *align) if path is not None)
        return Expected(sum(statistics.fmean(seconds for seconds, _ in times) for times in (rest, align)), like)


def _stage_3(groups: Mapping[str, str], variant: Mapping[str, str]) -> object:
    choices = tuple(groups[key] for key in ("task", "body", "finetune", "protocol"))
    return choices, _some(variant, _STAGE_3_KEYS)


def _stage_2(groups: Mapping[str, str], variant: Mapping[str, str]) -> object:
    choices = tuple(groups[key] for key in ("task", "body", "source", "metric", "protocol"))
    return choices, _some(variant, _STAGE_2_KEYS)


def _some(variant: Mapping[str, str], prefixes: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((key, value) for key, value in variant.items() if key.startswith(prefixes) and key not in _FREE)
