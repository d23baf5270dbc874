"""`orca run -m study=NAME --dry-run`: how many runs, how many of them are done, what is left out, how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from orca_cli import experiment, signals, terminal
from orca_cli.config.study import SET, absent_lines
from orca_cli.runs import claim
from orca_cli.runs.directory import RunName
from orca_cli.runs.durations import Expected, History, in_words
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Sweep

WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Planned:
    """A run of the study: its labels, its name, what the command would do, and the expected time (None: unknown or done)."""

    labels: dict[str, str]
    name: RunName
    would: str
    expected: Expected | None = None

    @property
    def is_left(self) -> bool:
        return self.would != WOULD["completed"]


def plan(sweep: Sweep, *, force: bool = False) -> Result:
    """Return what a study's command would do, with or without --force; nothing is built or trained."""
    planned = _planned(sweep, force)
    left = [one for one in planned if one.is_left]
    estimates = [one.expected for one in left if one.expected is not None]
    like = len(frozenset().union(*(one.like for one in estimates)))
    seconds = sum(one.seconds for one in estimates) if estimates or not left else None
    counts = Counter(one.would for one in planned)
    record = {
        "schema": 1,
        "study": sweep.study,
        "runs": len(planned),
        "would": {would: counts[would] for would in WOULD.values()},
        "left_out": [{"runs": count, "reason": reason} for reason, count in sweep.absent.items()],
        "expected": {
            "seconds": seconds,
            "runs": len(estimates),
            "from_runs": like,
            "unknown": len(left) - len(estimates),
        },
        "jobs": [{"would": one.would, **vars(one.name), "labels": one.labels} for one in planned],
    }
    shown: list[RenderableType] = (
        [terminal.table(("set", "runs", "done", "left", "time"), _rows(planned))] if planned else []
    )
    runs = f"{len(planned)} run{'' if len(planned) == 1 else 's'}"
    total = f"study {sweep.study}: {runs}, {counts[WOULD['completed']]} done, {len(left)} left"
    resumed, running = counts[WOULD["resume"]], counts[WOULD["running"]]
    total += f" ({resumed} to resume, {running} running)" if resumed or running else ""
    shown += [Text(total), *map(Text, absent_lines(sweep.absent))]
    if left:
        shown.append(Text(_time(left, estimates, seconds, like)))
    return Result(record, shown)


def _planned(sweep: Sweep, force: bool) -> list[_Planned]:
    if not sweep.jobs:
        return []
    root = Path(sweep.jobs[0].config.paths.runs or "")
    names = [experiment.run_name(job) for job in sweep.experiments]
    history = History(name.task_folder(root) for name in names)
    planned = []
    for job, name in zip(sweep.experiments, names, strict=True):
        signals.check()
        would = WOULD[claim.peek(root, name, force=force)]
        expected = None if would == WOULD["completed"] else history.expected(name)
        planned.append(_Planned(job.labels, name, would, expected))
    return planned


def _rows(planned: Sequence[_Planned]) -> list[tuple[str, ...]]:
    """Return a row for each set, or task where the study has no sets."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(_set_of(one) for one in planned):
        members = [one for one in planned if _set_of(one) == name]
        left = [one for one in members if one.is_left]
        seconds = [one.expected.seconds for one in left if one.expected is not None]
        time = in_words(sum(seconds)) if seconds else _UNKNOWN if left else "-"
        if seconds and len(seconds) < len(left):
            time += f" + {len(left) - len(seconds)} {_UNKNOWN}"
        rows.append((name, str(len(members)), str(len(members) - len(left)), str(len(left)), time))
    return rows


def _set_of(one: _Planned) -> str:
    return one.labels.get(SET, one.name.task)


def _time(left: Sequence[_Planned], estimates: Sequence[Expected], seconds: float | None, like: int) -> str:
    if not estimates or seconds is None:
        return f"expected time: {_UNKNOWN}, as no finished run in this folder is like them"
    unknown = len(left) - len(estimates)
    finished = f"{like} finished run{'s' if like > 1 else ''} like them (same task, body, finetune mode and steps)"
    text = f"expected time: about {in_words(seconds)} one after the other, from {finished}"
    return f"{text}; {_UNKNOWN} for {unknown} of the {len(left)}" if unknown else text
