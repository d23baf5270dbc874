"""`orca run -m study=NAME --dry-run`: how many runs, how many of them are done, what is left out, how long the rest takes."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import experiment, signals, terminal
from orca_cli.commands.estimate import in_words
from orca_cli.runs import claim
from orca_cli.runs.directory import RESULT, RunName
from orca_cli.runs.records import UnreadableError, read_record
from orca_cli.study import SET, absent_lines
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Sweep

WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}
_UNKNOWN = "unknown"
# Settings that stage 3 needs no longer or shorter for.
_FREE = tuple(
    f"train.{name}"
    for name in ("lr", "outer_rate", "weight_decay", "momentum", "betas", "clip", "warmup_epochs", "decay_epochs")
)
_OF_DATA = ("task.", "body.", "embedder", "hparams")
_OF_STAGE_3 = (*_OF_DATA, "train.", "finetune.", "predictor.", "augment", "budget", "precision", "align.method")
_OF_STAGE_2 = (*_OF_DATA, "align.", "metric.", "source.")


@dataclass(frozen=True)
class Expected:
    """What a run is expected to take.

    Args:
        seconds: of all stages.
        like: folders of the finished runs that say so.
    """

    seconds: float
    like: frozenset[str]


@dataclass(frozen=True)
class _Planned:
    """A run of the study: its labels and name, what would become of it, and what it would take; None: unknown, or done."""

    labels: dict[str, str]
    name: RunName
    would: str
    expected: Expected | None = None

    @property
    def is_left(self) -> bool:
        return self.would != WOULD["completed"]


def plan(sweep: Sweep, *, force: bool = False) -> Result:
    """Return what a study's command would do, with or without --force; nothing is built or trained."""
    found = _planned(sweep, force)
    left = [one for one in found if one.is_left]
    known = [one.expected for one in left if one.expected is not None]
    like = len(frozenset().union(*(one.like for one in known)))
    seconds = sum(one.seconds for one in known) if known or not left else None
    counts = Counter(one.would for one in found)
    record = {
        "schema": 1,
        "study": sweep.study,
        "runs": len(found),
        "would": {would: counts[would] for would in WOULD.values()},
        "left_out": [{"runs": count, "reason": reason} for reason, count in sweep.absent.items()],
        "expected": {"seconds": seconds, "runs": len(known), "from_runs": like, "unknown": len(left) - len(known)},
        "jobs": [{"would": one.would, **vars(one.name), "labels": one.labels} for one in found],
    }
    shown: list[RenderableType] = (
        [terminal.table(("set", "runs", "done", "left", "time"), _rows(found))] if found else []
    )
    runs = f"{len(found)} run{'' if len(found) == 1 else 's'}"
    total = f"study {sweep.study}: {runs}, {counts[WOULD['completed']]} done, {len(left)} left"
    resumed, running = counts[WOULD["resume"]], counts[WOULD["running"]]
    total += f" ({resumed} to resume, {running} running)" if resumed or running else ""
    shown += [Text(total), *map(Text, absent_lines(sweep.absent))]
    if left:
        shown.append(Text(_time(left, known, seconds, like)))
    return Result(record, shown)


def _planned(sweep: Sweep, force: bool) -> list[_Planned]:
    if not sweep.jobs:
        return []
    root = Path(sweep.jobs[0].config.paths.runs or "")
    names = [experiment.run_name(job) for job in sweep.experiments]
    history = History(root, [name.task_folder(root) for name in names])
    found = []
    for job, name in zip(sweep.experiments, names, strict=True):
        signals.check()
        would = WOULD[claim.peek(root, name, force=force)]
        expected = None if would == WOULD["completed"] else history.expected(name)
        found.append(_Planned(job.labels, name, would, expected))
    return found


def _rows(found: Sequence[_Planned]) -> list[tuple[str, ...]]:
    """Return a row for each set, or task where the study has no sets."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(_set_of(one) for one in found):
        own = [one for one in found if _set_of(one) == name]
        left = [one for one in own if one.is_left]
        known = [one.expected.seconds for one in left if one.expected is not None]
        time = in_words(sum(known)) if known else _UNKNOWN if left else "-"
        if known and len(known) < len(left):
            time += f" + {len(left) - len(known)} {_UNKNOWN}"
        rows.append((name, str(len(own)), str(len(own) - len(left)), str(len(left)), time))
    return rows


def _set_of(one: _Planned) -> str:
    return one.labels.get(SET, one.name.task)


def _time(left: Sequence[_Planned], known: Sequence[Expected], seconds: float | None, like: int) -> str:
    if not known or seconds is None:
        return f"expected time: {_UNKNOWN}, as no finished run in this folder is like them"
    unknown = len(left) - len(known)
    finished = f"{like} finished run{'s' if like > 1 else ''} like them (same task, body, finetune mode and steps)"
    text = f"expected time: about {in_words(seconds)} one after the other, from {finished}"
    return f"{text}; {_UNKNOWN} for {unknown} of the {len(left)}" if unknown else text


class History:
    """The times of finished runs.

    A run is expected to take what those with the same task, body, finetune mode and length of stage 3 took for all but stage 2,
    and what those with the same task, body, source, metric and settings of stage 2 took for that, each on average. An alignment
    that was in the cache counts with the little time that it took.
    """

    def __init__(self, root: Path, tasks: Iterable[Path]) -> None:
        """Read the finished runs of some tasks; what cannot be read counts nothing.

        Args:
            root: folder of all runs.
            tasks: folders of tasks in it; see `RunName.task_folder`.
        """
        self._rest: dict[object, list[tuple[float, str]]] = defaultdict(list)
        self._align: dict[object, list[tuple[float, str]]] = defaultdict(list)
        for folder, record in (found for task in sorted(set(tasks)) for found in _finished(root, task)):
            try:
                seconds = {str(stage): float(value) for stage, value in record["seconds"].items()}
                variant = {str(key): str(value) for key, value in record["variant"].items()}
                groups = {key: str(record[key]) for key in ("task", "body", "source", "metric", "finetune", "protocol")}
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # of another version
            align = seconds.pop("align", 0.0)
            self._rest[_stage_3(groups, variant)].append((sum(seconds.values()), folder))
            self._align[_stage_2(groups, variant)].append((align, folder))

    def expected(self, name: RunName) -> Expected | None:
        """Return what a run is expected to take; None where no finished run is like it."""
        groups = {key: str(getattr(name, key)) for key in ("task", "body", "source", "metric", "finetune", "protocol")}
        rest = self._rest.get(_stage_3(groups, name.variant))
        is_left_out = name.variant.get("align.epochs") == "0" or name.variant.get("align.method") == "pare"
        is_aligned = name.metric != "none" and not is_left_out
        align = self._align.get(_stage_2(groups, name.variant)) if is_aligned else [(0.0, "")]
        if not rest or not align:
            return None
        like = frozenset(folder for _, folder in (*rest, *align) if folder)
        return Expected(sum(statistics.fmean(seconds for seconds, _ in found) for found in (rest, align)), like)


def _stage_3(groups: Mapping[str, str], variant: Mapping[str, str]) -> object:
    own = tuple(groups[key] for key in ("task", "body", "finetune", "protocol"))
    return own, _some(variant, _OF_STAGE_3)


def _stage_2(groups: Mapping[str, str], variant: Mapping[str, str]) -> object:
    own = tuple(groups[key] for key in ("task", "body", "source", "metric", "protocol"))
    return own, _some(variant, _OF_STAGE_2)


def _some(variant: Mapping[str, str], prefixes: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((key, value) for key, value in variant.items() if key.startswith(prefixes) and key not in _FREE)


def _finished(root: Path, task: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(task.glob(f"*/{RESULT}")):
        try:
            record = read_record(path)
        except (UnreadableError, OSError):
            continue
        if record is not None and record.get("state") == "completed":
            yield path.parent.relative_to(root).as_posix(), record
